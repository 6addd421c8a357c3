import { spawnSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, loadavg, release } from "node:os";
import path from "node:path";
import { nginxVersion } from "./nginx.ts";
import { type Comparison, median, type Outcome } from "./rounds.ts";

const RESULTS = path.join(import.meta.dirname, "results");
const README = path.join(import.meta.dirname, "README.md");
const BEGIN = "<!-- figures -->";
const END = "<!-- /figures -->";

/** One line about an outcome. */
export function sentence(outcome: Outcome): string {
	const start = `(${outcome.id}) ${outcome.title}:`;
	if ("skipped" in outcome) return `${start} skipped, ${outcome.skipped}`;
	const { ours, peer, ratio, target, met, kind, notes } = outcome;
	const more = Object.entries(notes).map(([name, value]) => `; ${name} ${value}`);
	return (
		`${start} ours ${words(ours, kind)}, peer ${words(peer, kind)}; ${kind} ratio ${ratio.toFixed(2)}, ` +
		`wanted ${target}: ${met ? "met" : "NOT MET"}${more.join("")}`
	);
}

function words(values: readonly number[], kind: Comparison["kind"]): string {
	const write = kind === "bytes" ? (bytes: number) => `${bytes.toFixed(0)} bytes` : milliseconds;
	return `${write(median(values))} (${write(Math.min(...values))}–${write(Math.max(...values))})`;
}

function milliseconds(value: number): string {
	return value < 10 ? `${value.toFixed(2)} ms` : `${value.toFixed(0)} ms`;
}

/** Adds the outcomes to today's file and the README's table; those of other benches stay. → the file */
export async function record(outcomes: readonly Outcome[]): Promise<string> {
	await mkdir(RESULTS, { recursive: true });
	const machine = {
		date: new Date().toISOString(),
		cores: availableParallelism(),
		cpu: cpus()[0]?.model ?? "unknown",
		kernel: release(),
		node: process.version,
		go: spawnSync("go", ["version"], { encoding: "utf8" }).stdout?.trim() ?? "none",
		nginx: nginxVersion() ?? "none",
		load: Number(loadavg()[0]?.toFixed(1)),
	};
	const file = path.join(RESULTS, `${machine.date.slice(0, 10)}.json`);
	const entries = new Map<string, unknown>(Object.entries(await readObject(file)));
	for (const outcome of outcomes) entries.set(`${outcome.id}: ${outcome.title}`, { ...outcome, machine });
	const sorted = [...entries].sort(([a], [b]) => a.localeCompare(b));
	await writeFile(file, `${JSON.stringify(Object.fromEntries(sorted), null, "\t")}\n`);
	await writeTable(outcomes, machine);
	return file;
}

async function readObject(file: string): Promise<object> {
	const parsed: unknown = await readFile(file, "utf8").then(JSON.parse, () => ({}));
	return typeof parsed === "object" && parsed !== null ? parsed : {};
}

async function writeTable(outcomes: readonly Outcome[], machine: Readonly<Record<string, string | number>>) {
	const text = await readFile(README, "utf8");
	const [before = "", rest = ""] = text.split(BEGIN);
	const [table = "", after = ""] = rest.split(END);
	const rows = new Map(
		table
			.split("\n")
			.filter((line) => /^\| [a-z]\d? /.test(line))
			.map((line) => [line.split("|").slice(1, 3).join("|"), line]),
	);
	for (const outcome of outcomes) {
		const row = rowOf(outcome, String(machine.date).slice(0, 10));
		rows.set(row.split("|").slice(1, 3).join("|"), row);
	}
	const lines = [
		`Last machine: ${machine.cores} cores (${machine.cpu}), Node ${machine.node}, ${machine.go}, nginx ${machine.nginx}.`,
		"",
		"| | what | ours, median (least–most) | peer | ratio | wanted | | other figures | date |",
		"| - | --- | --- | --- | --- | --- | --- | --- | --- |",
		...[...rows.values()].sort(),
	];
	await writeFile(README, `${before}${BEGIN}\n${lines.join("\n")}\n${END}${after}`);
}

function rowOf(outcome: Outcome, date: string): string {
	if ("skipped" in outcome)
		return `| ${outcome.id} | ${outcome.title} | skipped: ${outcome.skipped} | | | | | | ${date} |`;
	const { id, title, ours, peer, ratio, kind, target, met, notes } = outcome;
	const others = Object.entries(notes).map(([name, value]) => `${name} ${value}`);
	const cells = [
		id,
		title,
		words(ours, kind),
		words(peer, kind),
		`${ratio.toFixed(2)} (${kind})`,
		target,
		met ? "met" : "not met",
	];
	return `| ${[...cells, others.join("; "), date].join(" | ")} |`;
}
