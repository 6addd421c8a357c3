import { spawn } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { dataFolder, TestServer } from "../harness/server.ts";

const MIB = 1024 * 1024;
const SIZE = Number(process.env.UPLOAD_MIB ?? 1024) * MIB;
const LIMIT = 64;
const LAUNCHER = path.resolve(import.meta.dirname, "../../clients/cli/bin.mjs");

t.test("a 1 GB upload grows neither the server nor the CLI by 64 MB", async (t) => {
	const dataDir = await dataFolder(t);
	const server = await TestServer.start({ dataDir });
	t.teardown(() => server.stop());
	const place = await mkdtemp(path.join(tmpdir(), "runtime-big-"));
	t.teardown(() => rm(place, { recursive: true, force: true }));
	await writeFile(path.join(place, "go.mod"), "module example.com/big\n\ngo 1.21\n");
	await writeFile(path.join(place, "main.go"), "package main\n\nfunc main() {}\n");

	// What the CLI needs for a source of two small files is the start; a second small one warms the server up.
	const pid = server.child.pid ?? 0;
	await upload(place, server, "small-1");
	const small = await upload(place, server, "small-2");
	await writeNoise(path.join(place, "big.bin"), SIZE);
	await writeFile(`/proc/${pid}/clear_refs`, "5");
	const before = await memory(pid, "VmRSS");
	const started = Date.now();
	const big = await upload(place, server, "big");
	const seconds = (Date.now() - started) / 1000;
	const after = await memory(pid, "VmHWM");

	t.comment(
		`${SIZE / MIB} MiB in ${seconds.toFixed(1)} s; server ${before.toFixed(0)} → ${after.toFixed(0)} MiB ` +
			`(+${(after - before).toFixed(0)}), CLI ${small.toFixed(0)} → ${big.toFixed(0)} MiB (+${(big - small).toFixed(0)})`,
	);
	t.ok(after - before < LIMIT, `the server grew by ${(after - before).toFixed(0)} MiB`);
	t.ok(big - small < LIMIT, `the CLI grew by ${(big - small).toFixed(0)} MiB`);
});

/** Runs the CLI and answers the most memory that it had, in MiB. */
async function upload(folder: string, server: TestServer, name: string): Promise<number> {
	const child = spawn(process.execPath, [LAUNCHER, "run", ".", "--name", name, "--no-wait", "-q"], {
		cwd: folder,
		env: { ...process.env, ...server.env },
		stdio: ["ignore", "ignore", "pipe"],
	});
	let words = "";
	child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
		words += chunk;
	});
	let peak = 0;
	const watch = setInterval(() => {
		memory(child.pid ?? 0, "VmHWM").then(
			(now) => {
				peak = Math.max(peak, now);
			},
			() => clearInterval(watch),
		);
	}, 10);
	const [code] = await once(child, "close");
	clearInterval(watch);
	if (code !== 0) throw new Error(`the upload failed with ${code}: ${words}`);
	return peak;
}

/** A line of /proc/PID/status, in MiB. */
async function memory(pid: number, name: "VmRSS" | "VmHWM"): Promise<number> {
	const status = await readFile(`/proc/${pid}/status`, "utf8");
	const kib = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
	if (kib === undefined) throw new Error(`no ${name}`);
	return Number(kib) / 1024;
}

async function writeNoise(file: string, bytes: number): Promise<void> {
	const handle = await open(file, "w");
	const piece = Buffer.alloc(8 * MIB);
	for (let written = 0; written < bytes; written += piece.length) {
		randomFillSync(piece);
		await handle.write(piece);
	}
	await handle.close();
}
