import { COMMANDS, type CommandSpec, GLOBAL_OPTIONS, synopsis } from "./catalog.ts";
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
		if (argv[0] === "__complete") {
			const { complete } = await import("./complete.ts");
			return await complete(bare, argv.slice(1));
		}
		const chosen = choose(argv);
		if (chosen === undefined) return await help(argv);
		const { spec, words } = chosen;
		const at = spec.passes ? words.indexOf("--") : -1;
		const rest = at < 0 ? undefined : words.slice(at + 1);
		const own = at < 0 ? words : words.slice(0, at);
		if (own.some(asksForHelp)) {
			const { page } = await import("./help.ts");
			process.stdout.write(page(spec));
			return EXIT.ok;
		}
		const { parse } = await import("./command-line.ts");
		const parsed = parse(spec, own);
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
	if (name === undefined || name === "help" || before.some((word) => asksForHelp(word) || word === "--version"))
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

async function help(argv: readonly string[]): Promise<number> {
	if (argv.includes("--version")) {
		process.stdout.write(`${await ownVersion()}\n`);
		return EXIT.ok;
	}
	const { overview, page, topicOf } = await import("./help.ts");
	const at = argv.indexOf("help");
	const words = at < 0 ? [] : argv.slice(at + 1).filter((word) => !word.startsWith("-"));
	if (words.length > 0) process.stdout.write(page(topicOf(words)));
	else if (argv.length === 0 || at >= 0 || argv.some(asksForHelp)) process.stdout.write(overview());
	else throw usage("No command was given", ["See:  runtime help"]);
	return EXIT.ok;
}

function asksForHelp(word: string): boolean {
	return word === "-h" || word === "--help";
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
