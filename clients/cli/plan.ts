import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { Context, Input } from "./context.ts";
import { usage } from "./errors.ts";
import { quote } from "./format.ts";
import { RUNTIME_FILE, type RuntimeFile, readRuntimeFile } from "./runtime-file.ts";
import { type Settings, settingsOf } from "./settings.ts";
import { type RemoteSource, remoteSource } from "./source/remote.ts";
import { type LocalSource, locate, looksRemote } from "./source/root.ts";

export type Verb = "run" | "update" | "deploy";

/**
 * Where the source is: a folder that is uploaded, a git repository that the server fetches, a key of what was uploaded
 * before, or nowhere: the service keeps its own.
 */
export type Origin =
	| { readonly kind: "folder"; readonly local: LocalSource }
	| { readonly kind: "remote"; readonly remote: RemoteSource }
	| { readonly kind: "key"; readonly source: string; readonly local: LocalSource | undefined }
	| { readonly kind: "kept" };

/** What a command line asks for, before any server was asked. */
export type Plan = {
	readonly verb: Verb;
	readonly name: string;
	readonly version: string;
	readonly origin: Origin;
	/** Where the source is on this machine; for excerpts and checks. */
	readonly local: LocalSource | undefined;
	readonly settings: Settings;
	/** Of the project's file: names whose values are still to be found. */
	readonly secrets: readonly string[];
	/** The builder that was asked for, and what asks for it. */
	readonly builder: { readonly name: string; readonly from: string } | undefined;
	/** Where each limit that is asked for stands; one that the service has and nobody names is not here. */
	readonly limits: Readonly<Record<string, "flag" | "file">>;
	/** The command that would try again. */
	readonly again: string;
};

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const VERSION = /^(?!\.{1,2}$)[A-Za-z0-9._/-]{1,128}$/;
const KEY = /^source:\/\/[A-Za-z0-9-]{1,64}$/;

/** Flags go before variables, and those before the project's file. */
export function planOf(verb: Verb, context: Context, input: Input): Plan {
	const { options } = input;
	const typed = input.args[0];
	const origin = originOf(verb, context, input);
	const local = origin.kind === "folder" || origin.kind === "key" ? origin.local : undefined;
	const file = local === undefined ? undefined : fileOf(context, local);
	const place = local === undefined ? undefined : placed(local, context, options.text("entrypoint"), file);
	const version = options.text("version") ?? (origin.kind === "remote" ? origin.remote.version : "latest");
	if (!VERSION.test(version))
		throw usage(`--version: "${version}" is no version: letters, digits, . _ / and -, at most 128`);
	const name = options.text("name") ?? file?.name ?? nameOf(origin, typed);
	if (name === undefined)
		throw usage(origin.kind === "key" ? "--source goes with --name" : "No name can be made of what was named", [
			`Try:  runtime ${verb} ${quote(typed ?? ".")} --name NAME`,
		]);
	if (!NAME.test(name)) throw usage(`--name: "${name}" is no name: lower-case letters, digits and -, at most 63`);
	const flags = settingsOf(input, context.env);
	const settings = merged(file, flags);
	const entrypoint = place?.entrypoint ?? options.text("entrypoint");
	if (origin.kind === "kept" && entrypoint !== undefined) throw usage("--entrypoint goes with a source folder");
	if (entrypoint !== undefined) settings.entrypoint = entrypoint;
	const said = origin.kind === "remote" ? origin.remote.typed : local?.typed;
	if (said !== undefined) settings.metadata = { source: said, ...settings.metadata };
	const given = new Set(Object.keys(settings.env ?? {}));
	return {
		...{ verb, name, version, settings },
		origin: place === undefined || origin.kind !== "folder" ? origin : { ...origin, local: place },
		local: place,
		secrets: (file?.secrets ?? []).filter((secret) => !given.has(secret)),
		limits: {
			...Object.fromEntries(Object.keys(file?.limits ?? {}).map((name) => [name, "file" as const])),
			...Object.fromEntries(Object.keys(flags.limits ?? {}).map((name) => [name, "flag" as const])),
		},
		builder: builderOf(settings, options.text("builder") === undefined),
		again: againOf(typed, name, version, input),
	};
}

function originOf(verb: Verb, context: Context, { args, options }: Input): Origin {
	const [typed] = args;
	const path = resolve(context.cwd, typed ?? ".");
	const isFolder = existsSync(path) && statSync(path).isDirectory();
	const named = verb === "update" && typed !== undefined && NAME.test(typed) && !isFolder;
	const key = options.text("source") ?? (typed !== undefined && KEY.test(typed) ? typed : undefined);
	if (key !== undefined) {
		if (looksRemote(key) && !KEY.test(key)) return { kind: "remote", remote: remoteSource(key) };
		if (!KEY.test(key)) throw usage(`--source: "${key}" is no key of an upload`, ["Try:  runtime source upload ."]);
		const here = typed === undefined || typed === key || named ? undefined : locate(typed, context.cwd, context.env);
		return { kind: "key", source: key, local: here };
	}
	if (named) return { kind: "kept" };
	if (typed !== undefined && !existsSync(path) && looksRemote(typed))
		return { kind: "remote", remote: remoteSource(typed) };
	return { kind: "folder", local: locate(typed ?? ".", context.cwd, context.env) };
}

function fileOf(context: Context, local: LocalSource): RuntimeFile | undefined {
	const file = readRuntimeFile(local.folder);
	context.projectNamespace = file?.namespace;
	return file;
}

/** The program's folder: the flag's, else the file's, else the folder that was named. */
function placed(local: LocalSource, context: Context, flag: string | undefined, file: RuntimeFile | undefined) {
	const entrypoint = flag ?? file?.entrypoint;
	return entrypoint === undefined ? local : locate(local.typed, context.cwd, context.env, entrypoint);
}

function nameOf(origin: Origin, typed: string | undefined): string | undefined {
	if (origin.kind === "kept") return typed;
	if (origin.kind === "key" && origin.local === undefined) return typed === origin.source ? undefined : typed;
	return origin.kind === "remote" ? origin.remote.name : origin.local?.name;
}

function builderOf({ builder: name }: Settings, fromFile: boolean): Plan["builder"] {
	if (name === undefined || name === null) return undefined;
	return { name, from: fromFile ? `${RUNTIME_FILE}: builder` : "--builder" };
}

function merged(file: RuntimeFile | undefined, flags: Settings): Settings {
	const settings: Settings = { ...flags };
	const env = { ...file?.env, ...flags.env };
	if (Object.keys(env).length > 0) settings.env = env;
	if (flags.args === undefined && file?.args !== undefined) settings.args = [...file.args];
	if (file?.limits !== undefined) settings.limits = { ...file.limits, ...flags.limits };
	if (flags.builder === undefined && file?.builder !== undefined) settings.builder = file.builder;
	if (file?.health !== undefined) {
		const health = { ...file.health, ...flags.health };
		// The file's path is for the file's type.
		if (flags.health?.type !== undefined && flags.health.type !== "http") delete health.path;
		settings.health = health;
	}
	return settings;
}

function againOf(typed: string | undefined, name: string, version: string, { options }: Input): string {
	const flags: string[] = [];
	if (options.text("name") !== undefined) flags.push("--name", name);
	if (options.text("version") !== undefined && version !== "latest") flags.push("--version", version);
	for (const flag of ["source", "entrypoint", "server", "namespace"]) {
		const value = options.text(flag);
		if (value !== undefined) flags.push(`--${flag}`, value);
	}
	const first = typed === undefined && options.text("source") !== undefined ? [] : [typed ?? "."];
	return ["runtime", "update", ...first, ...flags].map(quote).join(" ");
}
