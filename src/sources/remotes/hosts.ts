import { AppError } from "../../errors.ts";

export type HostKind = "github" | "gitlab" | "bitbucket" | "git";

/** What an operator says of a git host. */
export type HostConfig = {
	/** `git.acme.dev`, or `git.acme.dev:8443` where the port is not the scheme's own. */
	readonly host: string;
	readonly kind: HostKind;
	/** Base URL of the API, without a slash at its end: `https://git.acme.dev/api/v4`. Each kind but `git` has a default. */
	readonly api?: string;
	/** Sent to this host and its API alone. */
	readonly token?: string;
	/** For git's basic authentication; each kind has a default that goes with tokens. */
	readonly username?: string;
	/** The host, or its API, may have loopback, private or link-local addresses. */
	readonly allowPrivate?: boolean;
	/** `http://` is accepted as well. */
	readonly allowHttp?: boolean;
	/** File with the certificates (PEM) to trust for this host, instead of the system's. */
	readonly ca?: string;
};

export const DEFAULT_HOSTS: readonly HostConfig[] = [
	{ host: "github.com", kind: "github", api: "https://api.github.com" },
	{ host: "gitlab.com", kind: "gitlab", api: "https://gitlab.com/api/v4" },
	{ host: "bitbucket.org", kind: "bitbucket", api: "https://api.bitbucket.org/2.0" },
];

const KINDS: readonly string[] = ["github", "gitlab", "bitbucket", "git"] satisfies HostKind[];
const API_PATHS: Readonly<Record<HostKind, string | null>> = {
	github: "/api/v3",
	gitlab: "/api/v4",
	bitbucket: "/2.0",
	git: null,
};
const USERNAMES: Readonly<Record<HostKind, string>> = {
	github: "x-access-token",
	gitlab: "oauth2",
	bitbucket: "x-token-auth",
	git: "git",
};

export type Scheme = "https" | "http";

/** One place that connections go to; `port` is never left out. `host` is canonical, an IPv6 address is in brackets. */
export type Origin = { readonly scheme: Scheme; readonly host: string; readonly port: number };

/**
 * Reads `HOST[:PORT]` as a browser would: lower case, names in punycode, every spelling of an IPv4 address as four numbers,
 * no dot at the end. Null where it is none, or holds more than that (a user's name, a path, an escape).
 */
export function readAuthority(text: string, scheme: Scheme = "https"): Origin | null {
	if (text === "" || /[\s\\%@/?#<>^|\p{Cc}]/u.test(text) || !URL.canParse(`${scheme}://${text}/`)) return null;
	const url = new URL(`${scheme}://${text}/`);
	const host = url.hostname.replace(/\.$/, "");
	if (host === "" || host.endsWith(".")) return null;
	const port = url.port === "" ? defaultPort(scheme) : Number(url.port);
	return port === 0 ? null : { scheme, host, port };
}

export function defaultPort(scheme: Scheme): number {
	return scheme === "https" ? 443 : 80;
}

/** `host`, or `host:port` where the port is not the scheme's own. */
export function authority(origin: Origin): string {
	return origin.port === defaultPort(origin.scheme) ? origin.host : `${origin.host}:${origin.port}`;
}

/** The origin of a URL; null where it is not http(s). */
export function originOf(url: URL): Origin | null {
	if (url.protocol !== "https:" && url.protocol !== "http:") return null;
	return readAuthority(url.host, url.protocol === "https:" ? "https" : "http");
}

/** The first entry that speaks of this origin, its API's origin not counted. */
export function hostFor(hosts: readonly HostConfig[], origin: Origin): HostConfig | undefined {
	return hosts.find((config) => {
		const own = readAuthority(config.host, origin.scheme);
		return own !== null && own.host === origin.host && own.port === origin.port;
	});
}

/** As `hostFor`, or else the entry whose API is there. */
export function ownerOf(hosts: readonly HostConfig[], origin: Origin): HostConfig | undefined {
	const own = hostFor(hosts, origin);
	if (own !== undefined) return own;
	return hosts.find((config) => {
		const api = apiOf(config);
		const at = api === null ? null : originOf(new URL(api));
		return at !== null && at.scheme === origin.scheme && at.host === origin.host && at.port === origin.port;
	});
}

/** Base URL of the host's API without a slash at its end, or null for a plain git host. */
export function apiOf(config: HostConfig): string | null {
	if (config.kind === "git") return null;
	const given = config.api ?? DEFAULT_HOSTS.find(({ host, kind }) => host === config.host && kind === config.kind)?.api;
	return (given ?? `https://${config.host}${API_PATHS[config.kind]}`).replace(/\/+$/, "");
}

export function usernameOf(config: HostConfig): string {
	return config.username ?? USERNAMES[config.kind];
}

const TEXTS = ["host", "kind", "api", "token", "username", "ca"] as const;
const FLAGS = ["allowPrivate", "allowHttp"] as const;

/**
 * Reads an operator's file: a JSON array of hosts. Rejects with `invalid_argument`, whose field is `hosts/INDEX/FIELD` and
 * whose message never repeats a token.
 */
export function parseHosts(json: string): HostConfig[] {
	const refuse = (field: string, message: string, cause?: unknown) =>
		new AppError("invalid_argument", `the file of git hosts: ${message}`, { field, cause });
	let list: unknown;
	try {
		list = JSON.parse(json);
	} catch {
		// The parser's message repeats a piece of the file, which may be a token.
		throw refuse("hosts", "it is not JSON");
	}
	if (!Array.isArray(list)) throw refuse("hosts", "it must be an array of hosts");
	const hosts = list.map((entry: unknown, index) => readHost(entry, index, refuse));
	hosts.forEach((host, index) => {
		const first = hosts.findIndex((other) => other.host === host.host);
		if (first !== index)
			throw refuse(`hosts/${index}/host`, `entries ${first + 1} and ${index + 1} are both for ${host.host}`);
	});
	return hosts;
}

function readHost(entry: unknown, index: number, refuse: (field: string, message: string) => AppError): HostConfig {
	const fault = (field: string, message: string) =>
		refuse(`hosts/${index}/${field}`, `entry ${index + 1}, field ${field}: ${message}`);
	if (typeof entry !== "object" || entry === null || Array.isArray(entry))
		throw refuse(`hosts/${index}`, `entry ${index + 1} must be an object`);
	const fields = new Map<string, unknown>(Object.entries(entry));
	const texts = new Map<string, string>();
	const flags = new Map<string, boolean>();
	for (const [name, value] of fields) {
		if (TEXTS.some((known) => known === name)) {
			if (typeof value !== "string" || value === "" || /[\p{Cc}]/u.test(value))
				throw fault(name, "must be a text on one line");
			texts.set(name, value);
		} else if (FLAGS.some((known) => known === name)) {
			if (typeof value !== "boolean") throw fault(name, "must be true or false");
			flags.set(name, value);
		} else throw fault(name, `is not known; known are ${[...TEXTS, ...FLAGS].join(", ")}`);
	}
	const origin = readAuthority(texts.get("host") ?? "");
	if (origin === null) throw fault("host", "must be HOST or HOST:PORT");
	const kind = texts.get("kind") ?? "";
	if (!isKind(kind)) throw fault("kind", `must be one of ${KINDS.join(", ")}`);
	const allowHttp = flags.get("allowHttp") ?? false;
	const api = texts.get("api");
	if (api !== undefined) checkApi(api, kind, allowHttp, (message) => fault("api", message));
	const token = texts.get("token");
	const username = texts.get("username");
	const ca = texts.get("ca");
	return {
		host: authority(origin),
		kind,
		...(api === undefined ? {} : { api: api.replace(/\/+$/, "") }),
		...(token === undefined ? {} : { token }),
		...(username === undefined ? {} : { username }),
		...(ca === undefined ? {} : { ca }),
		allowPrivate: flags.get("allowPrivate") ?? false,
		allowHttp,
	};
}

function isKind(text: string): text is HostKind {
	return KINDS.includes(text);
}

function checkApi(api: string, kind: HostKind, allowHttp: boolean, fault: (message: string) => AppError): void {
	if (kind === "git") throw fault("a host of kind git has no API");
	const url = URL.canParse(api) ? new URL(api) : null;
	const origin = url === null ? null : originOf(url);
	if (url === null || origin === null) throw fault("must be a URL such as https://git.acme.dev/api/v4");
	if (origin.scheme === "http" && !allowHttp) throw fault("must start with https:// unless allowHttp is true");
	if (url.username !== "" || url.password !== "") throw fault("must not hold credentials; write them as token");
	if (url.search !== "" || url.hash !== "") throw fault("must not hold a query or a fragment");
}
