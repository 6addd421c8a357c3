import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { messageOf, systemCode, usage } from "./errors.ts";
import { quote } from "./format.ts";

/** Where the server is, and who we are to it. */
export type Connection = {
	readonly url: URL;
	/** The URL as people read it, without a closing slash. */
	readonly label: string;
	/** Where the URL was found; for `-v`. */
	readonly from: "--server" | "RUNTIME_URL" | "server.json" | "default";
	readonly token: string | undefined;
	readonly tokenFrom: "RUNTIME_TOKEN" | "admin-token" | undefined;
	/** Undefined: the token's own. */
	readonly namespace: string | undefined;
	/** What a command must repeat to mean the same server and namespace: `` or ` --server URL --namespace NAME`. */
	readonly flags: string;
};

export type ConnectionOptions = {
	readonly env: NodeJS.ProcessEnv;
	readonly server?: string | undefined;
	readonly namespace?: string | undefined;
	/** Of the project's file; flag and variable go before it. */
	readonly projectNamespace?: string | undefined;
	readonly insecure?: boolean;
};

const DEFAULT_URL = "http://127.0.0.1:8080";
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** The data folder of a server on this machine. */
export function dataFolder(env: NodeJS.ProcessEnv): string {
	if (env.RUNTIME_DATA_DIR) return env.RUNTIME_DATA_DIR;
	return join(env.XDG_DATA_HOME || join(env.HOME || homedir(), ".local", "share"), "runtime-builds");
}

/**
 * Flag, then variable, then the data folder, then the default address. The data folder's token goes to the server that
 * the data folder names and to no other. Throws a usage error for a URL that is none, and for a token that would go over
 * the network in the clear.
 */
export async function connect(options: ConnectionOptions): Promise<Connection> {
	const { env } = options;
	const folder = dataFolder(env);
	const local = await serverOf(folder);
	let from: Connection["from"] = "default";
	let typed = DEFAULT_URL;
	if (options.server !== undefined) [from, typed] = ["--server", options.server];
	else if (env.RUNTIME_URL) [from, typed] = ["RUNTIME_URL", env.RUNTIME_URL];
	else if (local !== undefined) [from, typed] = ["server.json", local.href];
	const url = parse(typed, from);
	let token = env.RUNTIME_TOKEN?.trim() || undefined;
	let tokenFrom: Connection["tokenFrom"] = token === undefined ? undefined : "RUNTIME_TOKEN";
	if (token === undefined && local !== undefined && sameServer(url, local)) {
		token = (await read(join(folder, "admin-token")))?.trim() || undefined;
		if (token !== undefined) tokenFrom = "admin-token";
	}
	if (token !== undefined && /[^\x21-\x7e]/.test(token))
		throw usage(`The token in ${tokenFrom} holds characters that no token has`);
	const insecure = options.insecure === true || env.RUNTIME_INSECURE === "1";
	if (token !== undefined && url.protocol === "http:" && !isLoopback(url.hostname) && !insecure) {
		throw usage(`Refusing to send a token to ${label(url)} in the clear`, [
			`Try:  --server https://${url.host}`,
			"Or:   --insecure, where the network is trusted",
		]);
	}
	const named = options.namespace ?? (env.RUNTIME_NAMESPACE || undefined);
	const namespace = named ?? options.projectNamespace;
	if (namespace !== undefined && !NAME.test(namespace)) {
		throw usage(`"${namespace}" is no namespace: lower-case letters, digits and -, at most 63`);
	}
	const flags: string[] = [];
	if (options.server !== undefined) flags.push(` --server ${quote(options.server)}`);
	if (namespace !== undefined && (options.namespace !== undefined || named === undefined))
		flags.push(` --namespace ${namespace}`);
	return { url, label: label(url), from, token, tokenFrom, namespace, flags: flags.join("") };
}

function label(url: URL): string {
	return url.href.replace(/\/+$/, "");
}

function parse(typed: string, from: Connection["from"]): URL {
	const withScheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(typed) ? typed : `http://${typed}`;
	const url = URL.canParse(withScheme) ? new URL(withScheme) : undefined;
	if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
		throw usage(`${from}: "${typed}" is no http or https URL`, [`Try:  ${DEFAULT_URL}`]);
	}
	if (url.username !== "" || url.password !== "") throw usage(`${from}: no credentials in a URL; set RUNTIME_TOKEN`);
	url.search = "";
	url.hash = "";
	return url;
}

/** A missing file is no server; a broken one is worth a word. */
async function serverOf(folder: string): Promise<URL | undefined> {
	const path = join(folder, "server.json");
	const text = await read(path);
	if (text === undefined) return undefined;
	try {
		const data: unknown = JSON.parse(text);
		if (typeof data === "object" && data !== null && "url" in data && typeof data.url === "string")
			return parse(data.url, "server.json");
		throw new Error("it has no url");
	} catch (error) {
		throw usage(`Cannot read ${path}: ${messageOf(error)}`, ["Try:  --server URL"]);
	}
}

async function read(path: string): Promise<string | undefined> {
	try {
		return await readFile(path, "utf8");
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOENT" || code === "ENOTDIR" || code === "EACCES") return undefined;
		throw error;
	}
}

function sameServer(a: URL, b: URL): boolean {
	if (a.protocol !== b.protocol || a.port !== b.port || label(a).length === 0) return false;
	if (a.pathname.replace(/\/+$/, "") !== b.pathname.replace(/\/+$/, "")) return false;
	return a.hostname === b.hostname || (isLoopback(a.hostname) && isLoopback(b.hostname));
}

export function isLoopback(hostname: string): boolean {
	const host = hostname.replace(/^\[|\]$/g, "");
	if (isIP(host) === 4) return host.startsWith("127.");
	return host === "::1" || host === "localhost" || host.endsWith(".localhost");
}
