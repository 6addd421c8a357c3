import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

type Env = Readonly<Record<string, string | undefined>>;

const CONNECT_LIMIT_MS = 30_000;
const MAX_ANSWER = 16 * 1024;

/** The proxy that the server itself must go through to reach an origin, by its environment; undefined: straight on. */
export function proxyFor(origin: URL, env: Env): URL | undefined {
	const set = (name: string) => env[name.toLowerCase()] || env[name] || undefined;
	const proxy = origin.protocol === "https:" ? set("HTTPS_PROXY") : set("HTTP_PROXY");
	if (proxy === undefined || isExempt(origin, set("NO_PROXY") ?? "")) return undefined;
	return new URL(/^[a-z]+:\/\//i.test(proxy) ? proxy : `http://${proxy}`);
}

/** `*`, `host`, `.domain`, `host:port`; addresses of this machine never go through a proxy. */
function isExempt(origin: URL, list: string): boolean {
	const host = bare(origin.hostname);
	if (isLoopback(host)) return true;
	return list.split(/[\s,]+/).some((entry) => {
		if (entry === "*") return true;
		const [, name = "", port] = /^\*?\.?(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? [];
		if (name === "" || (port !== undefined && port !== portOf(origin))) return false;
		return host === name || (isIP(name) === 0 && host.endsWith(`.${name}`));
	});
}

export function isLoopback(host: string): boolean {
	return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** An IPv6 address in a URL is in brackets. */
export function bare(hostname: string): string {
	return hostname.replace(/^\[|\]$/g, "");
}

export function portOf(origin: URL): string {
	return origin.port || (origin.protocol === "https:" ? "443" : "80");
}

/** A connection to host and port of an origin, through the server's own proxy where there is one. */
export async function dial(origin: URL, env: Env): Promise<Socket> {
	const proxy = proxyFor(origin, env);
	const socket = await opened(proxy ?? new URL(`http://${origin.hostname}:${portOf(origin)}`));
	if (proxy === undefined) return socket;
	try {
		const authority = `${origin.hostname}:${portOf(origin)}`;
		const lines = [`CONNECT ${authority} HTTP/1.1`, `Host: ${authority}`, ...authorization(proxy), "", ""];
		socket.write(lines.join("\r\n"));
		const answer = await head(socket);
		if (!/^HTTP\/1\.\d 200\b/.test(answer)) throw new Error(`the proxy said ${answer.split("\r\n")[0] ?? ""}`);
		return socket;
	} catch (error) {
		socket.destroy();
		throw error;
	}
}

function authorization(proxy: URL): string[] {
	if (proxy.username === "" && proxy.password === "") return [];
	const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
	return [`Proxy-Authorization: Basic ${Buffer.from(pair).toString("base64")}`];
}

function opened(to: URL): Promise<Socket> {
	const options = { host: bare(to.hostname), port: Number(portOf(to)) };
	return new Promise((resolve, reject) => {
		const tls = to.protocol === "https:";
		const servername = isIP(options.host) === 0 ? { servername: options.host } : {};
		const socket = tls ? connectTls({ ...options, ...servername }) : connectTcp(options);
		socket.setTimeout(CONNECT_LIMIT_MS, () => socket.destroy(new Error(`no connection to ${to.host} in time`)));
		socket.once("error", reject);
		socket.once(tls ? "secureConnect" : "connect", () => {
			socket.setTimeout(0).removeListener("error", reject);
			resolve(socket);
		});
	});
}

/** The head of an HTTP answer; what follows it goes back into the socket. */
function head(socket: Socket): Promise<string> {
	return new Promise((resolve, reject) => {
		let seen = Buffer.alloc(0);
		const settle = (finish: () => void) => {
			socket.setTimeout(0);
			socket.removeListener("readable", onReadable);
			socket.removeListener("error", onError);
			socket.removeListener("end", onEnd);
			finish();
		};
		const onError = (error: Error) => settle(() => reject(error));
		const onEnd = () => onError(new Error("the proxy hung up"));
		const onReadable = () => {
			for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
				seen = Buffer.concat([seen, chunk]);
				const end = seen.indexOf("\r\n\r\n");
				if (end === -1 && seen.length < MAX_ANSWER) continue;
				if (end === -1) return onError(new Error("the proxy's answer has no end"));
				const rest = seen.subarray(end + 4);
				settle(() => {
					if (rest.length > 0) socket.unshift(rest);
					resolve(seen.toString("latin1", 0, end));
				});
				return;
			}
		};
		socket.setTimeout(CONNECT_LIMIT_MS, () => socket.destroy(new Error("the proxy does not answer")));
		socket.on("readable", onReadable).once("error", onError).once("end", onEnd);
	});
}
