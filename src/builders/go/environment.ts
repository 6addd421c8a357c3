import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { delimiter, dirname, isAbsolute, join, resolve } from "node:path";
import type { BuildOptions } from "../builder.ts";
import { cacheFolderOf } from "../caches.ts";
import { type GoNetwork, goNetwork } from "./network.ts";
import { type GoToolchain, MODULE_SETTINGS } from "./toolchain.ts";

/** How to reach the network from this machine; Go needs it, and so it is taken from the server's environment too. */
const NETWORK = [
	"HTTP_PROXY",
	"HTTPS_PROXY",
	"NO_PROXY",
	"http_proxy",
	"https_proxy",
	"no_proxy",
	"SSL_CERT_FILE",
	"SSL_CERT_DIR",
];
/** Credentials: only where the configuration names them. */
const CREDENTIALS = ["NETRC", "GOAUTH"];
/**
 * What a build may say for itself. Anything else could run commands (-toolexec, GOCACHEPROG), reach other files, or have Go
 * print what it sends to a module proxy, the operator's password included (GODEBUG=http2debug=2).
 */
export const SAFE = new Set(["GOAMD64", "GOARM64", "GOEXPERIMENT", "GOFIPS140"]);

const SYSTEM_PATH = ["/usr/local/bin", "/usr/bin", "/bin"];

/** What of the server has a say in a build's environment. */
export type GoServer = {
	readonly cacheFolder: string;
	/** Wins over `env`. */
	readonly configured: Readonly<Record<string, string>>;
	readonly env: Readonly<Record<string, string | undefined>>;
	readonly sandboxed: boolean;
};

export type GoEnvironment = {
	readonly env: Readonly<Record<string, string>>;
	readonly caches: GoCaches;
	readonly network: GoNetwork;
};

export type GoCaches = { readonly GOMODCACHE: string; readonly GOCACHE: string };

/** The environment of one build, and the folders that it names, `work` being the build's own. Makes HOME and TMPDIR. */
export async function goEnvironment(
	plan: { readonly toolchain: GoToolchain; readonly options: BuildOptions; readonly work: string },
	server: GoServer,
): Promise<GoEnvironment> {
	const { toolchain, options, work } = plan;
	const folders = { HOME: join(work, "home"), TMPDIR: join(work, "tmp") };
	for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true });
	const cache = cacheFolderOf(resolve(server.cacheFolder), options.namespace, "go");
	const caches = { GOMODCACHE: join(cache, "mod"), GOCACHE: join(cache, "build") };
	const configured = server.configured;
	const settings: Record<string, string> = {};
	for (const name of MODULE_SETTINGS) settings[name] = configured[name] ?? toolchain.settings[name] ?? "";
	const network = goNetwork(settings);
	const env: Record<string, string> = {};
	for (const [name, value] of Object.entries(options.env)) if (SAFE.has(name)) env[name] = value;
	Object.assign(env, settings, !server.sandboxed ? {} : network.env);
	for (const name of [...NETWORK, ...CREDENTIALS]) {
		const value = configured[name] ?? (NETWORK.includes(name) ? server.env[name] : undefined);
		if (value !== undefined) env[name] = value;
	}
	const own = {
		PATH: [dirname(toolchain.file), ...SYSTEM_PATH].join(delimiter),
		LANG: "C.UTF-8",
		CGO_ENABLED: "0",
		GOOS: options.target.os,
		GOARCH: options.target.arch,
		GOWORK: "off",
		GOENV: "off",
		GOTOOLCHAIN: "local",
		GOTELEMETRY: "off",
		// Without it the module cache is read-only, and deleting it takes more than `rm -r`.
		GOFLAGS: "-modcacherw",
		GIT_TERMINAL_PROMPT: "0",
	};
	return { env: { ...env, ...folders, ...caches, ...own }, caches, network };
}

/** Files that the environment names, where they are there: Go itself does without one that is not. */
export function filesIn(env: Readonly<Record<string, string>>): string[] {
	const named = [env.NETRC, env.SSL_CERT_FILE, ...(env.SSL_CERT_DIR ?? "").split(delimiter)];
	return named.filter((path): path is string => path !== undefined && isAbsolute(path) && existsSync(path));
}
