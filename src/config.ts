import { cpus, homedir, totalmem } from "node:os";
import path from "node:path";
import { AppError } from "./errors.ts";

/**
 * The server's configuration: flags over `RUNTIME_*` variables over the profile over defaults. One table says all of it,
 * so that help, variables and flags cannot drift apart; every fault is reported at once.
 */
type Parsed<T> = { readonly value: T } | { readonly fault: string };
type Kind<T> = { readonly parse: (text: string) => Parsed<T>; readonly shape: string };
type Setting<T> = Kind<T> & { readonly fallback: T | (() => T); readonly about: string };

const text: Kind<string> = { parse: (value) => ({ value }), shape: "TEXT" };
const optional: Kind<string | null> = { parse: (value) => ({ value }), shape: "TEXT" };
const flag: Kind<boolean> = {
	parse: (value) => {
		if (/^(1|true|yes|on)$/i.test(value)) return { value: true };
		return /^(0|false|no|off)$/i.test(value) ? { value: false } : { fault: "must be 1 or 0" };
	},
	shape: "",
};

/** Text of a form; `words` say which. */
function matching(form: RegExp, words: string, shape: string): Kind<string> {
	return { parse: (value) => (form.test(value) ? { value } : { fault: words }), shape };
}

function whole(least: number, most: number, shape: string): Kind<number> {
	return {
		parse: (text) => {
			const value = Number(text);
			const fits = /^\d+$/.test(text) && value >= least && value <= most;
			return fits ? { value } : { fault: `must be a whole number from ${least} to ${most}` };
		},
		shape,
	};
}

const portRange: Kind<{ readonly from: number; readonly to: number } | null> = {
	parse: (text) => {
		const [, from, to] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? [];
		const fits = from !== undefined && to !== undefined && from >= 1 && to <= 65_535 && from < to;
		return fits ? { value: { from, to } } : { fault: "must be FIRST-LAST" };
	},
	shape: "FIRST-LAST",
};

const place: Kind<{ readonly host: string; readonly port: number } | null> = {
	parse: (text) => {
		const [, host = "", port = ""] = /^(\[[0-9a-f:]+\]|[^:\s]+):(\d{1,5})$/i.exec(text) ?? [];
		const fits = host !== "" && Number(port) <= 65_535;
		return fits
			? { value: { host: host.replace(/^\[|\]$/g, ""), port: Number(port) } }
			: { fault: "must be HOST:PORT" };
	},
	shape: "HOST:PORT",
};

/** Without a slash at its end. */
const httpsUrl: Kind<string | null> = {
	parse: (text) => {
		const url = URL.canParse(text) ? new URL(text) : null;
		const plain = url?.protocol === "https:" && url.username + url.password + url.search + url.hash === "";
		return plain ? { value: url.href.replace(/\/+$/, "") } : { fault: "must be an https URL with nothing but a path" };
	},
	shape: "URL",
};

const cores: Kind<number> = {
	parse: (text) => {
		const value = Number(text);
		const fits = /^\d+(\.\d+)?$/.test(text) && value >= 0.01 && value <= 1024;
		return fits ? { value } : { fault: "must be a number of cores from 0.01 to 1024" };
	},
	shape: "CORES",
};

const sandboxChoice: Kind<"auto" | "bubblewrap" | "none"> = {
	parse: (value) =>
		value === "auto" || value === "bubblewrap" || value === "none"
			? { value }
			: { fault: "must be auto, bubblewrap or none" },
	shape: "NAME",
};

const seconds = (least: number, most: number) => whole(least, most, "SECONDS");
const bytes = whole(1024, Number.MAX_SAFE_INTEGER, "BYTES");

function setting<T>(kind: Kind<T>, fallback: T | (() => T), about: string): Setting<T> {
	return { ...kind, fallback, about };
}

const SETTINGS = {
	profile: setting(
		matching(/^(local|dev|docker)$/, "must be local, dev or docker", "NAME"),
		"local",
		"what it is made of: local builds and runs processes; docker builds and runs containers; dev runs source in place, and answers when it runs",
	),
	address: setting(
		matching(/^(\[[0-9a-f:]+\]|[^:\s]+):\d{1,5}$/i, "must be HOST:PORT", "HOST:PORT"),
		"127.0.0.1:8080",
		"where to listen; port 0 picks a free one",
	),
	dataDir: setting(
		text,
		() => path.join(process.env.XDG_DATA_HOME ?? path.join(homedir(), ".local", "share"), "runtime-builds"),
		"where everything is kept",
	),
	cacheDir: setting(
		optional,
		null,
		"where builders keep downloads and compiled packages; by default in the data folder",
	),
	tlsCert: setting(optional, null, "file with the certificate chain, PEM"),
	tlsKey: setting(optional, null, "file with the certificate's private key, PEM"),
	insecureHttp: setting(flag, false, "listen beyond this machine without TLS all the same"),
	stopServices: setting(flag, false, "when the server ends, end the services too"),
	logLevel: setting(
		matching(/^(debug|info|warn|error|silent)$/, "must be debug, info, warn, error or silent", "LEVEL"),
		"warn",
		"how much the server says of itself: debug, info, warn, error, silent",
	),
	maxSourceBytes: setting(bytes, 2 * 1024 ** 3, "the largest archive that is taken"),
	maxUnpackedBytes: setting(bytes, 4 * 1024 ** 3, "the largest tree that an archive may unpack to"),
	maxSourceFiles: setting(whole(1, 10_000_000, "COUNT"), 100_000, "the most entries that an archive may hold"),
	builds: setting(whole(1, 256, "COUNT"), () => cpus().length, "builds at the same time; as many as cores by default"),
	buildTimeout: setting(seconds(1, 86_400), 15 * 60, "how long a build may take"),
	synchronousTimeout: setting(
		seconds(1, 86_400),
		5 * 60,
		"profile dev: how long a request may take to run its service",
	),
	maxBuildLogBytes: setting(bytes, 16 * 1024 ** 2, "the most that is kept of one build's log"),
	sandbox: setting(
		sandboxChoice,
		"auto",
		"what builds run in: auto is bubblewrap where it works; bubblewrap does not start without it; none",
	),
	openBuilds: setting(flag, false, "without a sandbox, build for others than the administrator all the same"),
	buildMemory: setting(whole(64, 16_777_216, "MIB"), 4096, "memory of one build in a sandbox"),
	buildProcesses: setting(whole(32, 4_194_304, "COUNT"), 1024, "processes and threads of one build in a sandbox"),
	buildDisk: setting(whole(16, 1_073_741_824, "MIB"), 8192, "what one build in a sandbox may add to the disk"),
	go: setting(text, "go", "the Go command"),
	npm: setting(
		text,
		"npm",
		"the npm command, for Node's builds; registries and credentials are those of its configuration",
	),
	git: setting(text, "git", "the git command"),
	gitHosts: setting(
		optional,
		null,
		"JSON file with git hosts: their kind, API, token, CA, and whether they may be private",
	),
	sourceAge: setting(seconds(0, 10 ** 9), 24 * 3600, "how long a source that no service uses is kept"),
	keepBuilds: setting(whole(1, 1000, "COUNT"), 5, "how many of a service's newest builds are kept to roll back to"),
	collectEvery: setting(seconds(1, 10 ** 6), 3600, "how often what nobody needs is removed"),
	scrubEvery: setting(seconds(1, 10 ** 9), 24 * 3600, "how often stored bytes are read again to see if they are whole"),
	stopGrace: setting(seconds(0, 3600), 10, "how long a program may take to end after SIGTERM"),
	drain: setting(seconds(0, 3600), 30, "how long requests to a replaced revision may go on"),
	ports: setting(portRange, null, "ports for services; by default from 20000 to below the system's own range"),
	docker: setting(
		optional,
		null,
		"profile docker: the engine's socket; by default that of DOCKER_HOST, or the usual one",
	),
	image: setting(optional, null, "profile docker: your own base image, with the loader; by default one is made"),
	imageNode: setting(optional, null, "profile docker: the same for services that need Node"),
	memory: setting(
		whole(16, 1_048_576, "MIB"),
		512,
		"profile docker: memory of an instance, where its service says nothing",
	),
	cpu: setting(cores, 1, "profile docker: cores of an instance, where its service says nothing"),
	processes: setting(
		whole(8, 4_194_304, "COUNT"),
		256,
		"profile docker: processes and threads of an instance, the same",
	),
	maxMemory: setting(
		whole(16, 1_048_576, "MIB"),
		() => Math.max(16, Math.floor(totalmem() / 1024 ** 2)),
		"profile docker: the most memory that a service may ask for",
	),
	maxCpu: setting(cores, () => cpus().length, "profile docker: the most cores that a service may ask for"),
	maxProcesses: setting(
		whole(8, 4_194_304, "COUNT"),
		4096,
		"profile docker: the most processes that a service may ask for",
	),
	loaderAddress: setting(
		place,
		null,
		"where containers get their builds; by default the bridge's address and a port that is chosen once",
	),
	loaderUrl: setting(
		httpsUrl,
		null,
		"the https URL by which containers reach that address, where it is another one; nothing between may end TLS",
	),
	acceptLoss: setting(flag, false, "start although records are missing that had been written"),
} as const;

type Settings = typeof SETTINGS;
type Values = { [K in keyof Settings]: Settings[K] extends Setting<infer T> ? T : never };

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

/** Reads flags and variables. Rejects with `invalid_argument` whose message names every fault. */
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

function isLoopback(host: string): boolean {
	return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}
