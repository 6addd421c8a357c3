import type { Command, Option } from "commander";
import { COMMANDS, type CommandSpec, GLOBAL_OPTIONS, type OptionSpec } from "./catalog.ts";
import { Context, Options } from "./context.ts";
import { CliError, EXIT, hints, usage } from "./errors.ts";
import { nearest } from "./format.ts";

/** Runs one command line (without the program's name); → the exit code. Never rejects. */
export async function main(argv: readonly string[]): Promise<number> {
	// A reader that went away (`| head`) is no error of ours.
	for (const output of [process.stdout, process.stderr])
		output.on("error", (error: NodeJS.ErrnoException) => {
			if (error.code !== "EPIPE") throw error;
		});
	const bare = new Context(
		new Options({ json: argv.includes("--json"), verbose: argv.includes("-v") || argv.includes("--verbose") }),
		process,
	);
	let context = bare;
	try {
		const chosen = choose(argv);
		if (chosen === undefined) return await help(argv);
		const { spec, words } = chosen;
		const at = spec.passes ? words.indexOf("--") : -1;
		const rest = at < 0 ? undefined : words.slice(at + 1);
		const parsed = parse(spec, at < 0 ? words : words.slice(0, at));
		if (parsed === undefined) return EXIT.ok;
		const options = new Options(parsed.options);
		context = new Context(options, process);
		return await (await spec.load())(context, { args: parsed.args, options, rest });
	} catch (error) {
		return context.report(error);
	} finally {
		context.close();
	}
}

/** Which global options take a value, so that the command's name is found behind them. */
const VALUED = new Set(
	GLOBAL_OPTIONS.filter(({ flags }) => flags.includes("<")).map(({ flags }) => flags.split(" ")[0] ?? ""),
);

/** The command, and the words without its name; undefined where help or the version is asked for. */
function choose(argv: readonly string[]): { spec: CommandSpec; words: string[] } | undefined {
	let at = 0;
	while (argv[at]?.startsWith("-")) at += VALUED.has(argv[at] ?? "") ? 2 : 1;
	if (at > argv.length) throw usage(`${argv.at(-1)} needs a value`, ["See:  runtime help"]);
	const name = argv[at];
	const before = argv.slice(0, at);
	if (
		name === undefined ||
		name === "help" ||
		before.some((word) => word === "-h" || word === "--help" || word === "--version")
	)
		return undefined;
	const two = `${name} ${argv[at + 1] ?? ""}`;
	const spec = COMMANDS.find((command) => command.name === two) ?? COMMANDS.find((command) => command.name === name);
	if (spec !== undefined) return { spec, words: [...before, ...argv.slice(at + spec.name.split(" ").length)] };
	const family = COMMANDS.filter((command) => command.name.startsWith(`${name} `));
	if (family.length > 0)
		throw usage(
			`runtime ${name} needs to know what to do`,
			family.map((command) => `Try:  ${synopsis(command)}`),
		);
	const close = nearest(name, [
		...COMMANDS.filter((command) => !command.hidden).map((command) => command.name),
		"server",
		"help",
	]);
	const lines: [string, string][] =
		close.length > 0 ? [["Did you mean", close.map((word) => `runtime ${word}`).join(", ")]] : [];
	throw usage(`There is no command ${name}`, hints([...lines, ["All of them", "runtime help"]]));
}

function commanderOption({ flags, help, repeat }: OptionSpec): Option {
	const option = new Option(flags, help);
	if (repeat === true) option.argParser((value: string, before: string[] | undefined) => [...(before ?? []), value]);
	return option;
}

function commandFor(spec: CommandSpec): Command {
	const command = new Command(`runtime ${spec.name}`).description(spec.summary).exitOverride();
	for (const { name, required, help } of spec.args) command.argument(required ? `<${name}>` : `[${name}]`, help);
	if (spec.passes) command.usage(`${synopsis(spec, "").trim()} [options] [-- args…]`);
	for (const option of spec.options) command.addOption(commanderOption(option));
	for (const option of GLOBAL_OPTIONS) command.addOption(commanderOption(option).helpGroup("Common options:"));
	command.configureOutput({ outputError: () => undefined, writeErr: () => undefined });
	if (spec.examples !== undefined) command.addHelpText("after", examplesOf(spec.examples));
	return command;
}

function examplesOf(examples: readonly string[]): string {
	return `\nExamples:\n${examples.map((line) => `  ${line}\n`).join("")}`;
}

/** Undefined where help was printed. */
function parse(
	spec: CommandSpec,
	words: readonly string[],
): { args: string[]; options: Record<string, unknown> } | undefined {
	const command = commandFor(spec);
	try {
		command.parse(words, { from: "user" });
		return {
			args: command.processedArgs.filter((value): value is string => typeof value === "string"),
			options: command.opts(),
		};
	} catch (error) {
		if (!(error instanceof CommanderError)) throw error;
		if (error.exitCode === 0) return undefined;
		const [first = "", ...more] = error.message.replace(/^error: /, "").split("\n");
		const close = more.map((line) => line.replace(/^\((.*)\)$/, "$1"));
		throw usage(first.charAt(0).toUpperCase() + first.slice(1), [
			...close,
			`Usage:  ${synopsis(spec)}`,
			`See:    runtime help ${spec.name}`,
		]);
	}
}

function synopsis(spec: CommandSpec, prefix = `runtime ${spec.name}`): string {
	return [prefix, ...spec.args.map(({ name, required }) => (required ? `<${name}>` : `[${name}]`))].join(" ");
}

async function help(argv: readonly string[]): Promise<number> {
	if (argv.includes("--version")) {
		process.stdout.write(`${await ownVersion()}\n`);
		return EXIT.ok;
	}
	const topic = argv[argv.indexOf("help") + 1];
	if (argv.includes("help") && topic !== undefined && !topic.startsWith("-")) {
		const name = argv.slice(argv.indexOf("help") + 1).join(" ");
		const spec =
			COMMANDS.find((command) => command.name === name) ??
			COMMANDS.find((command) => command.name.startsWith(`${topic} `));
		if (spec === undefined) {
			const close = nearest(
				topic,
				COMMANDS.filter((command) => !command.hidden).map((command) => command.name),
			);
			throw usage(
				`There is no command ${topic}`,
				close.length > 0 ? [`Did you mean:  runtime help ${close[0]}`] : ["See:  runtime help"],
			);
		}
		process.stdout.write(commandFor(spec).helpInformation());
		if (spec.examples !== undefined) process.stdout.write(examplesOf(spec.examples));
		return EXIT.ok;
	}
	const shown = COMMANDS.filter((command) => !command.hidden).map((command): [string, string] => [
		synopsis(command, command.name),
		command.summary,
	]);
	const rows: [string, string][] = [
		...shown,
		["server", "Start a server on this machine"],
		["help [command]", "Say what a command takes"],
	];
	const width = Math.max(...rows.map(([left]) => left.length));
	const text = [
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
		]),
	];
	const asked = argv.length === 0 || argv.includes("help") || argv.includes("-h") || argv.includes("--help");
	if (asked) process.stdout.write(`${text.join("\n")}\n`);
	else throw usage("No command was given", ["See:  runtime help"]);
	return EXIT.ok;
}

/** Of the package that holds us: two folders up in a clone, three up when compiled. */
async function ownVersion(): Promise<string> {
	const { readFile } = await import("node:fs/promises");
	for (const way of ["../../package.json", "../../../package.json"]) {
		const data: unknown = await readFile(new URL(way, import.meta.url), "utf8").then(JSON.parse, () => undefined);
		if (typeof data === "object" && data !== null && "version" in data && typeof data.version === "string")
			return data.version;
	}
	throw new CliError("This installation has no package.json");
}
