import path from "node:path";
import { AppError } from "./errors.ts";
import { SETTINGS, type Values } from "./settings.ts";

/** The configuration: every setting, and where the server listens. */
export type Config = Readonly<Values> & { readonly host: string; readonly port: number };

/** The variable of a setting: `maxSourceBytes` is `RUNTIME_MAX_SOURCE_BYTES`. */
export function variableOf(name: string): string {
	return `RUNTIME_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** The flag of a setting: `maxSourceBytes` is `--max-source-bytes`. */
export function flagOf(name: string): string {
	return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/**
 * Flags over `RUNTIME_*` variables over the profile over defaults. One table says all of it, so that help, variables and flags
 * cannot drift apart; every fault is reported at once. Rejects with `invalid_argument` whose message names every fault.
 */
export function loadConfig(argv: readonly string[], env: Readonly<Record<string, string | undefined>>): Config {
	const faults: string[] = [];
	const flags = readFlags(argv, faults);
	const values = new Map<string, unknown>();
	for (const [name, entry] of Object.entries(SETTINGS)) {
		const given = flags.get(name) ?? present(env[variableOf(name)]);
		const from = flags.has(name) ? flagOf(name) : variableOf(name);
		const parsed = given === undefined ? { value: fallbackOf(entry) } : entry.parse(given);
		if ("fault" in parsed) faults.push(`${from} ${parsed.fault}; it is "${given}"`);
		values.set(name, "fault" in parsed ? fallbackOf(entry) : parsed.value);
	}
	const config = complete(values);
	if ((config.tlsCert === null) !== (config.tlsKey === null))
		faults.push(`${flagOf("tlsCert")} and ${flagOf("tlsKey")} go together`);
	if (config.sandbox === "container" && config.profile !== "docker")
		faults.push(`${flagOf("sandbox")} container needs ${flagOf("profile")} docker; it is "${config.profile}"`);
	if (passwordIn(flags.get("postgres")))
		faults.push(
			`${flagOf("postgres")} holds a password, and flags can be seen by every user of this machine: put it into PGPASSWORD or ` +
				`~/.pgpass, or the whole URL into ${variableOf("postgres")}`,
		);
	const given = Object.keys(SETTINGS).filter((name) => flags.has(name) || present(env[variableOf(name)]) !== undefined);
	const aimless = given.find((name) => name.startsWith("s3") && config.s3Bucket === null);
	if (isPlainHttpElsewhere(config.s3Endpoint) && !config.insecureHttp)
		faults.push(
			`${flagOf("s3Endpoint")} is http on another machine, and sources and builds would cross the network in the clear: ` +
				`use https, or ${flagOf("insecureHttp")}`,
		);
	if (aimless !== undefined) faults.push(`${flagOf(aimless)} needs ${flagOf("s3Bucket")}`);
	if (config.port > 65_535) faults.push(`${flagOf("address")} has no such port: ${config.port}`);
	if (!isLoopback(config.host) && config.tlsCert === null && !config.insecureHttp)
		faults.push(
			`${config.host} can be reached from other machines, and tokens would cross the network in the clear: ` +
				`give ${flagOf("tlsCert")} and ${flagOf("tlsKey")}, or ${flagOf("insecureHttp")} behind a proxy that has TLS`,
		);
	if (faults.length > 0)
		throw new AppError("invalid_argument", faults.join("\n"), { hint: "runtime server --help lists every setting." });
	return Object.freeze(config);
}

/** The text of `runtime server --help`. */
export function configHelp(): string {
	const rows = Object.entries(SETTINGS).map(([name, { shape, about }]) => [
		`${flagOf(name)} ${shape}`.trimEnd(),
		about,
	]);
	const width = Math.max(...rows.map(([left = ""]) => left.length));
	return [
		"Usage: runtime server [options]",
		"",
		"Takes source in, gives running services out. Each option is also a variable: --data-dir is RUNTIME_DATA_DIR.",
		"",
		"Options:",
		...rows.map(([left = "", right]) => `  ${left.padEnd(width)}  ${right}`),
		"",
	].join("\n");
}

function readFlags(argv: readonly string[], faults: string[]): Map<string, string> {
	const flags = new Map<string, string>();
	const names = new Map(Object.keys(SETTINGS).map((name) => [flagOf(name), name]));
	for (let index = 0; index < argv.length; index++) {
		const [option = "", inline] = split(argv[index] ?? "");
		const name = names.get(option);
		if (name === undefined) {
			faults.push(`${option} is not known`);
			continue;
		}
		const isSwitch = Object.entries(SETTINGS).some(([key, entry]) => key === name && entry.shape === "");
		const next = argv[index + 1];
		if (inline !== undefined) flags.set(name, inline);
		else if (isSwitch) flags.set(name, "1");
		else if (next === undefined || next.startsWith("--")) faults.push(`${option} needs a value`);
		else {
			flags.set(name, next);
			index++;
		}
	}
	return flags;
}

function split(argument: string): [string, string | undefined] {
	const at = argument.indexOf("=");
	return at === -1 ? [argument, undefined] : [argument.slice(0, at), argument.slice(at + 1)];
}

function present(value: string | undefined): string | undefined {
	return value === undefined || value === "" ? undefined : value;
}

function fallbackOf(entry: { readonly fallback: unknown }): unknown {
	return typeof entry.fallback === "function" ? entry.fallback() : entry.fallback;
}

function complete(values: ReadonlyMap<string, unknown>): Config {
	// The table above is the type: every value in the map came from its own setting's parser or fallback.
	const typed = Object.fromEntries(values) as Values;
	const at = typed.address.lastIndexOf(":");
	return {
		...typed,
		dataDir: path.resolve(typed.dataDir),
		host: typed.address.slice(0, at).replace(/^\[|\]$/g, ""),
		port: Number(typed.address.slice(at + 1)),
	};
}

function passwordIn(url: string | undefined): boolean {
	if (url === undefined || !URL.canParse(url)) return false;
	const { password, searchParams } = new URL(url);
	return password !== "" || searchParams.has("password");
}

function isPlainHttpElsewhere(endpoint: string | null): boolean {
	if (endpoint === null || !URL.canParse(endpoint)) return false;
	const { protocol, hostname } = new URL(endpoint);
	return protocol === "http:" && !isLoopback(hostname.replace(/^\[|\]$/g, ""));
}

function isLoopback(host: string): boolean {
	return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}
