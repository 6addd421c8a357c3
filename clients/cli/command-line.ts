import { Command, CommanderError, Option } from "commander";
import { type CommandSpec, GLOBAL_OPTIONS, type OptionSpec, synopsis } from "./catalog.ts";
import { usage } from "./errors.ts";

export type Parsed = { readonly args: string[]; readonly options: Record<string, unknown> };

/** The words of one command, without its name. Throws a usage error with what was meant. */
export function parse(spec: CommandSpec, words: readonly string[]): Parsed {
	const command = commandFor(spec);
	try {
		command.parse(words, { from: "user" });
		return {
			args: command.processedArgs.filter((value): value is string => typeof value === "string"),
			options: command.opts(),
		};
	} catch (error) {
		if (!(error instanceof CommanderError)) throw error;
		const [first = "", ...more] = error.message.replace(/^error: /, "").split("\n");
		const close = more.map((line) => line.replace(/^\((.*)\)$/, "$1"));
		throw usage(first.charAt(0).toUpperCase() + first.slice(1), [
			...close,
			`Usage:  ${synopsis(spec)}`,
			`See:    runtime help ${spec.name}`,
		]);
	}
}

function commandFor(spec: CommandSpec): Command {
	const command = new Command(`runtime ${spec.name}`).helpOption(false).exitOverride();
	for (const { name, required, help } of spec.args) command.argument(required ? `<${name}>` : `[${name}]`, help);
	for (const option of [...spec.options, ...GLOBAL_OPTIONS]) command.addOption(optionFor(option));
	return command.configureOutput({ outputError: () => undefined, writeErr: () => undefined });
}

function optionFor({ flags, help, repeat }: OptionSpec): Option {
	const option = new Option(flags, help);
	if (repeat === true) option.argParser((value: string, before: string[] | undefined) => [...(before ?? []), value]);
	return option;
}
