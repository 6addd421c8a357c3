import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
import type { components } from "../../src/contract/types.gen.ts";
import type { Input, Options } from "./context.ts";
import { messageOf, usage } from "./errors.ts";
import { nearest } from "./format.ts";
import { isLimit, LIMIT_NAMES, limitWords, meantLimit } from "./limits.ts";

export type Settings = components["schemas"]["UpdateService"];

const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const HEALTH = ["port", "http", "none"] as const;
const RESTART = ["always", "on-failure", "never"] as const;

/** What the options of run, update and deploy say about a service. What was not said is absent. */
export function settingsOf({ options, rest }: Input, env: NodeJS.ProcessEnv): Settings {
	const settings: Settings = {};
	const values = envOf(options, env);
	if (Object.keys(values).length > 0) settings.env = values;
	const metadata = Object.fromEntries(options.list("metadata").map((pair) => split(pair, "--metadata")));
	if (Object.keys(metadata).length > 0) settings.metadata = metadata;
	const health = healthOf(options);
	if (health !== undefined) settings.health = health;
	const restart = options.text("restart");
	if (restart !== undefined) settings.restart = oneOf(restart, RESTART, "--restart");
	const instances = options.integer("instances", "--instances", 1, 100);
	if (instances !== undefined) settings.instances = instances;
	const limits = limitsOf(options);
	if (Object.keys(limits).length > 0) settings.limits = limits;
	const builder = options.text("builder");
	if (builder !== undefined) settings.builder = builderOf(builder);
	if (rest !== undefined) settings.args = [...rest];
	return settings;
}

/** What takes away what was said before. */
const DEFAULT = "default";

function limitsOf(options: Options): NonNullable<Settings["limits"]> {
	const limits: NonNullable<Settings["limits"]> = {};
	for (const name of LIMIT_NAMES) {
		const text = options.text(name);
		if (text === undefined) continue;
		const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : undefined;
		if (text === DEFAULT) limits[name] = null;
		else if (isLimit(name, value)) limits[name] = value;
		else {
			const meant = meantLimit(name, text);
			throw usage(
				`--${name}: "${text}" is no ${limitWords(name)}, nor ${DEFAULT}`,
				meant === undefined ? [] : [`Did you mean:  --${name} ${meant}`],
			);
		}
	}
	return limits;
}

/** Which ones there are the server knows. */
function builderOf(name: string): string | null {
	if (name === DEFAULT) return null;
	if (/^[a-z][a-z0-9-]{0,31}$/.test(name)) return name;
	throw usage(`--builder: "${name}" is no name of a builder; try go or node`);
}

function envOf(options: Options, own: NodeJS.ProcessEnv): Record<string, string | null> {
	const values: Record<string, string | null> = {};
	for (const file of options.list("envFrom")) {
		for (const [key, value] of Object.entries(fileOf(file)))
			if (value !== undefined) values[checkedName(key, file)] = value;
	}
	for (const pair of options.list("env")) {
		if (pair.includes("=")) {
			const [key, value] = split(pair, "--env");
			values[checkedName(key, "--env")] = value;
			continue;
		}
		// As docker does it: a secret comes from our own environment and stands in no shell history.
		const value = own[checkedName(pair, "--env")];
		if (value === undefined)
			throw usage(`--env ${pair}: there is no such variable here`, [`Try:  --env ${pair}=VALUE`]);
		values[pair] = value;
	}
	for (const key of options.list("unsetEnv")) values[checkedName(key, "--unset-env")] = null;
	return values;
}

function fileOf(file: string): NodeJS.Dict<string> {
	try {
		return parseEnv(readFileSync(file === "-" ? 0 : file, "utf8"));
	} catch (error) {
		throw usage(`--env-from ${file}: ${messageOf(error)}`);
	}
}

function checkedName(name: string, flag: string): string {
	if (!ENV_NAME.test(name))
		throw usage(`${flag}: "${name}" is no name of a variable: letters, digits and _, not starting with a digit`);
	return name;
}

function split(pair: string, flag: string): [string, string] {
	const at = pair.indexOf("=");
	if (at < 1)
		throw usage(`${flag}: "${pair}" is not KEY=VALUE`, [`Try:  ${flag} ${pair.replace(/=.*/, "") || "KEY"}=VALUE`]);
	return [pair.slice(0, at), pair.slice(at + 1)];
}

function healthOf(options: Options): Settings["health"] | undefined {
	const type = options.text("health");
	const path = options.text("healthPath");
	const timeout = options.integer("healthTimeout", "--health-timeout", 1, 3600);
	if (type === undefined && path === undefined && timeout === undefined) return undefined;
	if (path !== undefined && !path.startsWith("/")) throw usage(`--health-path: "${path}" does not start with /`);
	if (path !== undefined && type !== undefined && type !== "http")
		throw usage(`--health-path goes with --health http, not ${type}`);
	const kind = type === undefined ? (path === undefined ? undefined : "http") : oneOf(type, HEALTH, "--health");
	return {
		...(kind === undefined ? {} : { type: kind }),
		...(path === undefined ? {} : { path }),
		...(timeout === undefined ? {} : { timeout }),
	};
}

function oneOf<const T extends string>(value: string, allowed: readonly T[], flag: string): T {
	const found = allowed.find((candidate) => candidate === value);
	if (found !== undefined) return found;
	const [close] = nearest(value, allowed);
	throw usage(
		`${flag}: "${value}" is none of ${allowed.join(", ")}`,
		close === undefined ? [] : [`Did you mean:  ${flag} ${close}`],
	);
}
