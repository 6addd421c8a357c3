import { COMMANDS, type CommandSpec, GLOBAL_OPTIONS, type OptionSpec } from "./catalog.ts";
import { Context, Options } from "./context.ts";
import { EXIT } from "./errors.ts";
import type { Service } from "./shapes.ts";

/** A person waits for it at each Tab. */
const ANSWER_LIMIT = 1000;
const MOST_NAMES = 1000;

const SHELLS = ["bash", "fish", "zsh"];

/**
 * Prints what the last of the words may become, one a line; \`:dirs\` and \`:files\` ask the shell for its own. Says nothing
 * where something is wrong.
 */
export async function complete(bare: Context, words: readonly string[]): Promise<number> {
	try {
		for (const line of await candidates(words)) bare.print(line);
	} catch {
		// Whoever presses Tab gets no error between the words of a command.
		return EXIT.failed;
	}
	return EXIT.ok;
}

async function candidates(words: readonly string[]): Promise<string[]> {
	const before = words.slice(0, -1);
	const last = words.at(-1) ?? "";
	const fits = (list: Iterable<string>) => [...new Set(list)].filter((word) => word.startsWith(last)).sort();
	const [options, plain] = split(before, GLOBAL_OPTIONS);
	const [first] = plain;
	if (before.includes("--")) return [":files"];
	const shown = COMMANDS.filter((command) => command.hidden !== true);
	if (first === undefined) {
		const globals = last.startsWith("-") ? long(GLOBAL_OPTIONS) : [];
		return fits([...shown.map(({ name }) => name.split(" ")[0] ?? ""), "server", "help", ...globals]);
	}
	if (first === "help") return plain.length === 1 ? fits(shown.map(({ name }) => name.split(" ")[0] ?? "")) : [];
	const spec =
		COMMANDS.find(({ name }) => name === plain.slice(0, 2).join(" ")) ?? COMMANDS.find(({ name }) => name === first);
	if (spec === undefined) {
		const family = shown.filter(({ name }) => name.startsWith(`${first} `));
		return plain.length === 1 ? fits(family.map(({ name }) => name.split(" ")[1] ?? "")) : [];
	}
	const all = [...spec.options, ...GLOBAL_OPTIONS];
	const open = valued(all, before.at(-1));
	if (open !== undefined) return choices(open, fits);
	if (last.startsWith("-")) return fits(long(all));
	const [, args] = split(before, all);
	const given = args.slice(spec.name.split(" ").length);
	return await argument(spec, given, fits, options);
}

type Fits = (list: Iterable<string>) => string[];

async function argument(
	spec: CommandSpec,
	given: readonly string[],
	fits: Fits,
	options: Record<string, unknown>,
): Promise<string[]> {
	const next = spec.args[given.length]?.name;
	if (next === "shell") return fits(SHELLS);
	if (next === "folder") return [":dirs"];
	if (next === "source") return spec.name === "update" ? [...fits(await names(options)), ":dirs"] : [":dirs"];
	if (next === "name") return fits(await names(options));
	if (next === "version") return fits(await versions(options, given[0] ?? ""));
	return [];
}

/** Known values of an option that has a list of its own. */
function choices({ flags, help }: OptionSpec, fits: Fits): string[] {
	if (/<folder>/.test(flags)) return [":dirs"];
	if (/<file>/.test(flags)) return [":files"];
	if (/<type>|<policy>/.test(flags)) return fits(help.replace(/^.*: /, "").split(/,\s*| or /));
	return [];
}

function long(options: readonly OptionSpec[]): string[] {
	return options.map(({ flags }) => /--[a-z-]+/.exec(flags)?.[0] ?? "").filter((flag) => flag !== "");
}

/** The option that still waits for its value. */
function valued(options: readonly OptionSpec[], word: string | undefined): OptionSpec | undefined {
	if (word?.startsWith("-") !== true) return undefined;
	return options.find(({ flags }) => flags.includes("<") && flags.split(/[ ,]+/).includes(word));
}

/** What the global options say, and the words that are neither options nor their values. */
function split(words: readonly string[], options: readonly OptionSpec[]): [Record<string, unknown>, string[]] {
	const values: Record<string, unknown> = {};
	const plain: string[] = [];
	for (let index = 0; index < words.length; index++) {
		const word = words[index] ?? "";
		if (!word.startsWith("-")) plain.push(word);
		else if (valued(options, word) !== undefined) values[word.replace(/^-+/, "")] = words[++index];
		else values[word.replace(/^-+/, "")] = true;
	}
	return [values, plain];
}

async function names(options: Record<string, unknown>): Promise<string[]> {
	return (await services(options, {})).map(({ name }) => name);
}

async function versions(options: Record<string, unknown>, name: string): Promise<string[]> {
	return (await services(options, { name })).map(({ version }) => version);
}

async function services(options: Record<string, unknown>, query: { name?: string }): Promise<Service[]> {
	const context = new Context(new Options(options), process);
	try {
		const api = await context.api();
		const found: Service[] = [];
		for await (const service of api.services({ ...query, limit: 1000 }, AbortSignal.timeout(ANSWER_LIMIT))) {
			found.push(service);
			if (found.length >= MOST_NAMES) break;
		}
		return found;
	} catch {
		// No server, no names: the shell's own completion goes on.
		return [];
	} finally {
		context.close();
	}
}
