import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { access, constants, mkdtemp, open, readFile, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, isAbsolute, join } from "node:path";
import { promisify } from "node:util";
import { cancelled, messageOf } from "../../errors.ts";
import { BuildError, type Call } from "../builder.ts";
import { kindOf, record } from "./package.ts";

/** npm, and what the person who runs the server configured of it. */
export type Npm = {
	/** Absolute path of its script, which Node runs. */
	readonly script: string;
	/** Its own folder. */
	readonly folder: string;
	readonly version: string;
	/** Origins of the registries, scoped ones too. */
	readonly registries: readonly URL[];
	/** Origin of the registry that npm has where nothing is configured: lockfiles name it, and npm asks the configured one. */
	readonly replaced: string | undefined;
	/** Flags that make npm read the operator's configuration and no other. */
	readonly flags: readonly string[];
	/** Variables that hold settings, or that the configuration refers to. */
	readonly env: Readonly<Record<string, string>>;
	/** Configuration and certificates: files that npm has to read. */
	readonly files: readonly string[];
	/** Which settings this npm knows. */
	readonly knows: (setting: string) => boolean;
};

type Env = Readonly<Record<string, string | undefined>>;

const ASK_LIMIT_MS = 60_000;
const UNCONFIGURED = "the registry where nothing is configured";
const MAX_ANSWER = 8 * 1024 ** 2;
const INSTALL = "Install Node.js with npm and start the server with it on its PATH, or name it with --npm.";
/** Of the server's own variables: where packages come from, and who asks. */
const SETTINGS =
	/^npm_config_(registry|ca|cafile|cert|key|strict_ssl|fetch_timeout|maxsockets|noproxy|https?_proxy|proxy|@.*|\/\/.*|_auth.*)$/i;
const NETWORK = /^(https?_proxy|no_proxy|node_extra_ca_certs)$/i;

/** Finds npm and asks it once for its configuration, in a folder where there is none. Rejects with BuildError `unavailable`. */
export async function findNpm(command: string, serverEnv: Env, call: Call): Promise<Npm> {
	const file = await locate(command, serverEnv.PATH ?? "");
	if (file === undefined)
		throw new BuildError(
			"unavailable",
			`there is no npm on the machine that builds (looked for \`${command}\`). ${INSTALL}`,
		);
	try {
		const script = await scriptOf(file);
		const settings = await ask(file, serverEnv, call);
		const [userconfig, globalconfig] = [text(settings.userconfig), text(settings.globalconfig)];
		const written = (await Promise.all([userconfig, globalconfig].map(readIfThere))).join("\n");
		const env = passed(serverEnv, written);
		return {
			...{ script, folder: dirname(dirname(script)), version: text(settings["npm-version"]), env },
			registries: registriesOf(settings),
			replaced: registriesOf({ registry: settings[UNCONFIGURED] })[0]?.origin,
			flags: [`--userconfig=${userconfig}`, `--globalconfig=${globalconfig}`],
			files: [
				userconfig,
				globalconfig,
				text(settings.cafile),
				env.NODE_EXTRA_CA_CERTS ?? "",
				...certificates(written),
			].filter((path) => isAbsolute(path) && existsSync(path)),
			knows: (setting) => setting in settings,
		};
	} catch (error) {
		if (call.signal.aborted) throw cancelled(call.signal);
		if (error instanceof BuildError) throw error;
		throw new BuildError(
			"unavailable",
			`npm does not work on the machine that builds: ${messageOf(error)}. ${INSTALL}`,
			{
				cause: error,
			},
		);
	}
}

async function ask(file: string, serverEnv: Env, call: Call): Promise<Readonly<Record<string, unknown>>> {
	// Nothing of a project must have a say: not that of the server's own folder, nor one above it.
	const cwd = await mkdtemp(join(tmpdir(), "npm-"));
	// The Node beside npm is its own: by that one it knows where its global configuration is.
	const env = { ...serverEnv, PATH: [dirname(file), serverEnv.PATH ?? ""].join(delimiter) };
	const options = { cwd, env, timeout: ASK_LIMIT_MS, signal: call.signal, maxBuffer: MAX_ANSWER };
	try {
		const global = (await promisify(execFile)(file, ["config", "get", "globalconfig"], options)).stdout.trim();
		const flags = [`--prefix=${cwd}`, `--globalconfig=${global}`];
		const unset = { ...options, env: Object.fromEntries(Object.entries(env).filter(([name]) => !/^npm_/i.test(name))) };
		const none = [`--prefix=${cwd}`, "--userconfig=/nonexistent/user", "--globalconfig=/nonexistent/global"];
		const [all, registry] = await Promise.all([
			promisify(execFile)(file, ["config", "ls", "-l", "--json", ...flags], options),
			promisify(execFile)(file, ["config", "get", "registry", ...none], unset),
		]);
		return { ...record(JSON.parse(all.stdout)), [UNCONFIGURED]: registry.stdout.trim() };
	} finally {
		await rm(cwd, { recursive: true, force: true });
	}
}

/** npm is a script; where what was found only leads to one (a shim), the real one is not known. */
async function scriptOf(file: string): Promise<string> {
	const real = await realpath(file);
	const own = join(dirname(real), "..", "package.json");
	if ((await firstLine(real)).includes("node") && (await kindOf(own)) === "file") return real;
	const beside = join(dirname(process.execPath), "..", "lib", "node_modules", "npm", "bin", "npm-cli.js");
	if ((await kindOf(beside)) === "file") return realpath(beside);
	throw new BuildError(
		"unavailable",
		`${file} is not npm itself but something that leads to it: give the path of npm-cli.js as --npm`,
	);
}

async function firstLine(file: string): Promise<string> {
	await using handle = await open(file);
	const { buffer, bytesRead } = await handle.read(Buffer.alloc(200), 0, 200, 0);
	return buffer.toString("latin1", 0, bytesRead).split("\n")[0] ?? "";
}

function registriesOf(settings: Readonly<Record<string, unknown>>): URL[] {
	const origins = new Map<string, URL>();
	for (const [key, value] of Object.entries(settings)) {
		if ((key !== "registry" && !/^@.+:registry$/.test(key)) || typeof value !== "string" || !URL.canParse(value))
			continue;
		const { origin, protocol } = new URL(value);
		if (protocol === "https:" || protocol === "http:") origins.set(origin, new URL(origin));
	}
	return [...origins.values()];
}

function passed(serverEnv: Env, written: string): Record<string, string> {
	const referred = new Set(Array.from(written.matchAll(/\$\{([^}?]+)\??\}/g), ([, name = ""]) => name));
	return Object.fromEntries(
		Object.entries(serverEnv).flatMap(([name, value]) =>
			value !== undefined && (SETTINGS.test(name) || NETWORK.test(name) || referred.has(name)) ? [[name, value]] : [],
		),
	);
}

function certificates(written: string): string[] {
	return Array.from(
		written.matchAll(/^.*(?:certfile|keyfile|cafile)\s*=\s*"?([^"\n]+?)"?\s*$/gm),
		([, path = ""]) => path,
	);
}

async function readIfThere(path: string): Promise<string> {
	return (await kindOf(path)) === "file" ? readFile(path, "utf8") : "";
}

function text(value: unknown): string {
	return typeof value === "string" ? value : "";
}

async function locate(command: string, path: string): Promise<string | undefined> {
	const folders = path.split(delimiter).filter(isAbsolute);
	for (const candidate of isAbsolute(command) ? [command] : folders.map((folder) => join(folder, command))) {
		const usable = await access(candidate, constants.X_OK).then(
			() => true,
			() => false,
		);
		if (usable) return candidate;
	}
	return undefined;
}
