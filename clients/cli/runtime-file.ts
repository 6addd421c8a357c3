import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { type CliError, messageOf, systemCode, usage } from "./errors.ts";
import { nearest } from "./format.ts";
import { isLimit, LIMIT_NAMES, limitWords } from "./limits.ts";
import type { Settings } from "./settings.ts";
import { isRecord } from "./shapes.ts";

/** What a project says about itself in `runtime.json`; described by runtime.schema.json. */
export type RuntimeFile = {
	readonly name?: string;
	readonly namespace?: string;
	readonly entrypoint?: string;
	/** Which of the server's builders builds it. */
	readonly builder?: string;
	readonly env?: Readonly<Record<string, string>>;
	/** Names; the values come from the environment or are asked for. */
	readonly secrets?: readonly string[];
	readonly args?: readonly string[];
	readonly health?: NonNullable<Settings["health"]>;
	/** Of each instance. */
	readonly limits?: { readonly [K in (typeof LIMIT_NAMES)[number]]?: number };
};

export const RUNTIME_FILE = "runtime.json";

const LARGEST = 256 * 1024;
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const FIELDS = ["$schema", "name", "namespace", "entrypoint", "builder", "env", "secrets", "args", "health", "limits"];
const HEALTH_FIELDS = ["type", "path", "timeout"];
const HEALTH_TYPES = ["port", "http", "none"] as const;
/** A cloned repository must not say where somebody's token goes. */
const FORBIDDEN = /^(url|uri|server|host|address|endpoint|token|apikey|key|auth|authorization|password|credentials?)$/;

/** Of the folder itself, not of those above it. Undefined where there is none; every fault is a usage error that names the field. */
export function readRuntimeFile(folder: string): RuntimeFile | undefined {
	const path = join(folder, RUNTIME_FILE);
	let text: string;
	try {
		if (statSync(path).size > LARGEST) throw usage(`${path} is larger than ${LARGEST} bytes`);
		text = readFileSync(path, "utf8");
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error instanceof Error && systemCode(error) !== undefined
			? usage(`Cannot read ${path}: ${error.message}`)
			: error;
	}
	let data: unknown;
	try {
		data = JSON.parse(text.replace(/^\uFEFF/, ""));
	} catch (error) {
		throw usage(`${RUNTIME_FILE} is not JSON: ${messageOf(error)}`, [`See:  ${path}`]);
	}
	return toRuntimeFile(data);
}

export function toRuntimeFile(data: unknown): RuntimeFile {
	if (!isRecord(data)) throw fault("", "must be one JSON object", ['Try:  { "name": "hello" }']);
	for (const key of Object.keys(data)) {
		if (FIELDS.includes(key)) continue;
		if (FORBIDDEN.test(key.toLowerCase().replace(/[_-]/g, "")))
			throw fault(key, "does not belong there: a cloned repository must not say where your token goes, nor hold one", [
				"Try:  --server URL, or RUNTIME_URL and RUNTIME_TOKEN in your environment",
			]);
		throw unknown(key, key, FIELDS);
	}
	if (data.$schema !== undefined && typeof data.$schema !== "string") throw fault("$schema", "must be a text");
	const name = pattern(data.name, "name", NAME, "lower-case letters, digits and -, at most 63");
	const namespace = pattern(data.namespace, "namespace", NAME, "lower-case letters, digits and -, at most 63");
	const entrypoint = pattern(data.entrypoint, "entrypoint", /^.{1,1024}$/s, "a folder, relative to the file's");
	const builder = pattern(data.builder, "builder", /^[a-z][a-z0-9-]{0,31}$/, "the name of a builder, as go");
	const secrets = texts(data.secrets, "secrets", 256);
	for (const [index, secret] of (secrets ?? []).entries()) checkName(secret, `secrets/${index}`);
	const args = texts(data.args, "args", 256);
	const env = envOf(data.env);
	const health = healthOf(data.health);
	const limits = limitsOf(data.limits);
	for (const secret of secrets ?? [])
		if (env?.[secret] !== undefined) throw fault(`env/${secret}`, "is one of secrets: its value must not stand here");
	return {
		...(name === undefined ? {} : { name }),
		...(namespace === undefined ? {} : { namespace }),
		...(entrypoint === undefined ? {} : { entrypoint }),
		...(builder === undefined ? {} : { builder }),
		...(env === undefined ? {} : { env }),
		...(secrets === undefined ? {} : { secrets }),
		...(args === undefined ? {} : { args }),
		...(health === undefined ? {} : { health }),
		...(limits === undefined ? {} : { limits }),
	};
}

function fault(field: string, what: string, lines: readonly string[] = []): CliError {
	return usage(`${RUNTIME_FILE}: ${field === "" ? "it" : field} ${what}`, lines);
}

function unknown(field: string, key: string, known: readonly string[]): CliError {
	const [close] = nearest(key, known);
	return fault(field, "is not known", [
		close === undefined ? `It takes:  ${known.join(", ")}` : `Did you mean:  ${close}`,
	]);
}

function pattern(value: unknown, field: string, form: RegExp, words: string): string | undefined {
	if (value === undefined) return undefined;
	if (typeof value !== "string" || !form.test(value)) throw fault(field, `must be a text: ${words}`);
	return value;
}

function texts(value: unknown, field: string, most: number): string[] | undefined {
	if (value === undefined) return undefined;
	if (!Array.isArray(value)) throw fault(field, 'must be a list of texts, as ["a", "b"]');
	if (value.length > most) throw fault(field, `holds more than ${most} entries`);
	return value.map((entry: unknown, index) => {
		if (typeof entry !== "string") throw fault(`${field}/${index}`, "must be a text");
		return entry;
	});
}

function envOf(value: unknown): Record<string, string> | undefined {
	if (value === undefined) return undefined;
	if (!isRecord(value)) throw fault("env", 'must be an object of texts, as { "LEVEL": "debug" }');
	const env: Record<string, string> = {};
	for (const [key, entry] of Object.entries(value)) {
		checkName(key, `env/${key}`);
		if (typeof entry !== "string") throw fault(`env/${key}`, `must be a text, as "${String(entry)}"`);
		env[key] = entry;
	}
	return env;
}

function checkName(name: string, field: string): void {
	if (!ENV_NAME.test(name))
		throw fault(field, "is no name of a variable: letters, digits and _, not starting with a digit");
}

function healthOf(value: unknown): RuntimeFile["health"] {
	if (value === undefined) return undefined;
	if (!isRecord(value)) throw fault("health", 'must be an object, as { "type": "port" }');
	for (const key of Object.keys(value))
		if (!HEALTH_FIELDS.includes(key)) throw unknown(`health/${key}`, key, HEALTH_FIELDS);
	const type = HEALTH_TYPES.find((candidate) => candidate === value.type);
	if (value.type !== undefined && type === undefined)
		throw fault("health/type", `must be one of ${HEALTH_TYPES.join(", ")}`);
	const path = pattern(value.path, "health/path", /^\/[!-~]{0,1023}$/, "a path that starts with /");
	const { timeout } = value;
	if (
		timeout !== undefined &&
		(typeof timeout !== "number" || !Number.isInteger(timeout) || timeout < 1 || timeout > 3600)
	)
		throw fault("health/timeout", "must be a whole number of seconds from 1 to 3600");
	return {
		...(type === undefined ? {} : { type }),
		...(path === undefined ? {} : { path }),
		...(timeout === undefined ? {} : { timeout }),
	};
}

function limitsOf(value: unknown): RuntimeFile["limits"] {
	if (value === undefined) return undefined;
	if (!isRecord(value)) throw fault("limits", 'must be an object, as { "memory": 256 }');
	for (const key of Object.keys(value))
		if (!LIMIT_NAMES.some((name) => name === key)) throw unknown(`limits/${key}`, key, LIMIT_NAMES);
	const limits: { -readonly [K in keyof NonNullable<RuntimeFile["limits"]>]: number } = {};
	for (const name of LIMIT_NAMES) {
		const limit = value[name];
		if (limit === undefined) continue;
		if (!isLimit(name, limit)) throw fault(`limits/${name}`, `must be a ${limitWords(name)}`);
		limits[name] = limit;
	}
	return limits;
}
