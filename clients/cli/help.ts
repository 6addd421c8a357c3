import { COMMANDS, type CommandSpec, GLOBAL_OPTIONS, type OptionSpec, SERVER, synopsis } from "./catalog.ts";
import { hints, usage } from "./errors.ts";
import { nearest } from "./format.ts";
import { COMMON_VARIABLES, MANUAL } from "./manual.ts";

const WIDTH = 100;

const EXITS: Readonly<Record<number, string>> = {
	0: "it worked",
	1: "the build or the service failed, or the server refused",
	2: "a mistake on the command line, or in the folder",
	3: "the server cannot be reached",
	4: "not signed in",
	8: "still on its way (wait --timeout, or SIGTERM or SIGHUP made it detach)",
	130: "cancelled, or ended by Ctrl-C",
};
const USUAL_EXITS = [0, 1, 2, 3, 4];

/** All commands, one line each. */
export function overview(): string {
	const rows: [string, string][] = [
		...COMMANDS.filter((command) => !command.hidden).map((command): [string, string] => [
			synopsis(command, command.name),
			command.summary,
		]),
		["server", SERVER.summary],
		["help [command]", "Say what a command takes"],
	];
	const width = Math.max(...rows.map(([left]) => left.length));
	return [
		"Source in, running service out.",
		"",
		"Usage:  runtime <command>",
		"",
		...rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`),
		"",
		...hints([
			["Start here", "runtime server, and in another terminal: runtime run ."],
			["Server", "--server, RUNTIME_URL, the data folder's server.json, or http://127.0.0.1:8080"],
			["Token", "RUNTIME_TOKEN, or the data folder's admin-token for the server on this machine"],
			["Exit codes", "0 ok, 1 failed or refused, 2 usage, 3 unreachable, 4 not signed in, 8 pending, 130 cancelled"],
			["Completion", 'eval "$(runtime completion bash)", or zsh, or fish'],
		]),
		"",
	].join("\n");
}

/** The command that words name, or the first of a family of two words. Throws a usage error where there is none. */
export function topicOf(words: readonly string[]): CommandSpec {
	const [first = ""] = words;
	const spec =
		COMMANDS.find((command) => command.name === words.slice(0, 2).join(" ")) ??
		COMMANDS.find((command) => command.name === first) ??
		COMMANDS.find((command) => command.name.startsWith(`${first} `));
	if (spec !== undefined) return spec;
	const close = nearest(
		first,
		COMMANDS.filter((command) => !command.hidden).map((command) => command.name),
	);
	throw usage(
		`There is no command ${first}`,
		close.length > 0 ? [`Did you mean:  runtime help ${close[0]}`] : ["See:  runtime help"],
	);
}

/** A command's page: usage, what it does, options with their defaults, examples, exit codes, environment. */
export function page(spec: CommandSpec): string {
	const manual = MANUAL[spec.name];
	const about = manual?.about ?? spec.about ?? "";
	const tail = spec.passes ? " [-- args…]" : "";
	const sections: [string, readonly string[]][] = [
		["Usage", [`${synopsis(spec)} [options]${tail}`]],
		["What it does", about === "" ? [] : about.split("\n\n").flatMap((text) => wrapped(text, WIDTH - 2))],
		["Arguments", listed(spec.args.map(({ name, help }) => [name, help]))],
		["Options", options(spec.options)],
		["Common options", options(GLOBAL_OPTIONS)],
		["Examples", manual?.examples ?? []],
		["Exit codes", listed([...new Set([...USUAL_EXITS, ...(manual?.exits ?? [])])].sort((a, b) => a - b).map(exitRow))],
		["Environment", listed([...(manual?.variables ?? []), ...COMMON_VARIABLES])],
	];
	const text = sections
		.filter(([, lines]) => lines.length > 0)
		.map(([title, lines]) => `${title}:\n${lines.map((line) => `  ${line}`.trimEnd()).join("\n")}\n`);
	return `${spec.summary}\n\n${text.join("\n")}`;
}

function exitRow(code: number): readonly [string, string] {
	return [String(code), EXITS[code] ?? ""];
}

function options(specs: readonly OptionSpec[]): string[] {
	return listed(specs.map(({ flags, help, repeat }) => [flags, repeat ? `${help}; may be repeated` : help]));
}

function listed(rows: readonly (readonly [string, string])[]): string[] {
	const width = Math.max(0, ...rows.map(([left]) => left.length));
	return rows.flatMap(([left, right]) => {
		const [first = "", ...more] = wrapped(right, WIDTH - width - 4);
		return [`${left.padEnd(width)}  ${first}`, ...more.map((line) => `${" ".repeat(width)}  ${line}`)];
	});
}

function wrapped(text: string, width: number): string[] {
	const lines: string[] = [];
	let line = "";
	for (const word of text.split(/\s+/)) {
		if (line !== "" && line.length + 1 + word.length > width) {
			lines.push(line);
			line = word;
		} else line = line === "" ? word : `${line} ${word}`;
	}
	return line === "" ? lines : [...lines, line];
}
