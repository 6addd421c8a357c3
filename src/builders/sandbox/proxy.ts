import { once } from "node:events";
import {
	createServer,
	request as httpRequest,
	type IncomingMessage,
	type Server,
	type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { messageOf } from "../../errors.ts";
import { bare, dial, portOf } from "./upstream.ts";

export type ProxyOptions = {
	/** Path of the unix socket to listen on. */
	readonly socket: string;
	readonly hosts: readonly URL[];
	/** Bytes in both directions; past it every connection is cut. */
	readonly maxBytes: number;
	/** The server's environment: it may itself have to go through a proxy. */
	readonly env: Readonly<Record<string, string | undefined>>;
	/** Called with `host:port` of a request that was refused. */
	readonly onRefused: (authority: string) => void;
	readonly onTooMuch: () => void;
	readonly maxConnections?: number;
	readonly idleMs?: number;
};

const MAX_CONNECTIONS = 64;
const IDLE_MS = 120_000;
const PER_HOP = /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade)$/i;

/**
 * An HTTP proxy that leads to some origins and to no other: exact pairs of host and port, as they are written in the
 * configuration. Names are compared as text before they are resolved, and are resolved here, so that no spelling of an
 * address and no answer of a name server of the build's own choice leads elsewhere.
 */
export class AllowProxy implements AsyncDisposable {
	readonly #options: ProxyOptions;
	readonly #allowed: ReadonlyMap<string, URL>;
	readonly #server: Server;
	readonly #sockets = new Set<Duplex>();
	#bytes = 0;

	private constructor(options: ProxyOptions) {
		this.#options = options;
		this.#allowed = new Map(options.hosts.map((host) => [authorityOf(host), host]));
		this.#server = createServer((request, response) => void this.#forward(request, response));
		this.#server.maxConnections = options.maxConnections ?? MAX_CONNECTIONS;
		this.#server.on("connect", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
			void this.#tunnel(request, socket, head);
		});
		this.#server.on("connection", (socket: Socket) => this.#keep(socket));
	}

	static async open(options: ProxyOptions): Promise<AllowProxy> {
		const proxy = new AllowProxy(options);
		proxy.#server.listen(options.socket);
		await once(proxy.#server, "listening");
		return proxy;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		const closed = once(this.#server, "close");
		this.#server.close();
		for (const socket of this.#sockets) socket.destroy();
		await closed;
	}

	/** Each socket is counted and cut when idle; a request's failure is its own. */
	#keep(socket: Socket): void {
		this.#sockets.add(socket);
		socket.setTimeout(this.#options.idleMs ?? IDLE_MS, () => socket.destroy());
		socket.on("error", () => socket.destroy());
		socket.once("close", () => this.#sockets.delete(socket));
	}

	#count(chunk: Uint8Array): void {
		const before = this.#bytes;
		this.#bytes += chunk.byteLength;
		if (this.#bytes <= this.#options.maxBytes) return;
		if (before <= this.#options.maxBytes) this.#options.onTooMuch();
		for (const socket of this.#sockets) socket.destroy();
	}

	#refuse(authority: string): string {
		this.#options.onRefused(authority.slice(0, 300));
		const list = [...this.#allowed.keys()].join(", ");
		return `${authority.slice(0, 300)} may not be reached from a build; ${list === "" ? "nothing may" : `only ${list}`}\n`;
	}

	async #tunnel(request: IncomingMessage, client: Duplex, head: Buffer): Promise<void> {
		const authority = (request.url ?? "").toLowerCase();
		const origin = this.#allowed.get(authority);
		if (origin === undefined) {
			const words = this.#refuse(authority);
			client.end(`HTTP/1.1 403 Forbidden\r\nContent-Length: ${Buffer.byteLength(words)}\r\n\r\n${words}`);
			return;
		}
		let server: Socket;
		try {
			server = await dial(origin, this.#options.env);
		} catch (error) {
			const words = `${authority} cannot be reached: ${messageOf(error)}\n`;
			client.end(`HTTP/1.1 502 Bad Gateway\r\nContent-Length: ${Buffer.byteLength(words)}\r\n\r\n${words}`);
			return;
		}
		this.#keep(server);
		if (client.destroyed) return void server.destroy();
		client.write("HTTP/1.1 200 Connection established\r\n\r\n");
		if (head.length > 0) client.unshift(head);
		await Promise.allSettled([pipeline(client, this.#counted(), server), pipeline(server, this.#counted(), client)]);
		client.destroy();
		server.destroy();
	}

	#counted() {
		const count = (chunk: Uint8Array) => this.#count(chunk);
		return async function* (chunks: AsyncIterable<Uint8Array>) {
			for await (const chunk of chunks) {
				count(chunk);
				yield chunk;
			}
		};
	}

	/** A plain request, `GET http://host/path`: one connection each. */
	async #forward(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const url = URL.canParse(request.url ?? "") ? new URL(request.url ?? "") : undefined;
		// As it is written, before anything makes another spelling of it.
		const written = /^http:\/\/([^/?#@]+)(?=[/?#]|$)/i.exec(request.url ?? "")?.[1]?.toLowerCase() ?? "";
		const authority = /:\d+$/.test(written) ? written : `${written}:80`;
		const origin = this.#allowed.get(authority);
		if (url === undefined || origin?.protocol !== "http:") {
			const words = this.#refuse(authority);
			response.writeHead(403, { "content-type": "text/plain" }).end(words);
			request.resume();
			return;
		}
		try {
			const server = await dial(origin, this.#options.env);
			this.#keep(server);
			const outgoing = httpRequest({
				createConnection: () => server,
				method: request.method ?? "GET",
				path: `${url.pathname}${url.search}`,
				headers: { ...endToEnd(request), host: url.host, connection: "close" },
			});
			const answered = once(outgoing, "response");
			answered.catch(() => undefined);
			await pipeline(request, this.#counted(), outgoing);
			const [answer]: IncomingMessage[] = await answered;
			if (answer === undefined) return;
			response.writeHead(answer.statusCode ?? 502, endToEnd(answer));
			await pipeline(answer, this.#counted(), response);
		} catch (error) {
			if (response.headersSent) response.destroy();
			else response.writeHead(502, { "content-type": "text/plain" }).end(`${authority}: ${messageOf(error)}\n`);
		}
	}
}

/** `host:port`, as a CONNECT names it. */
export function authorityOf(origin: URL): string {
	const host = bare(origin.hostname);
	return `${host.includes(":") ? `[${host}]` : host}:${portOf(origin)}`;
}

function endToEnd(message: IncomingMessage): Record<string, string | string[]> {
	return Object.fromEntries(
		Object.entries(message.headers).flatMap(([name, value]) =>
			value === undefined || PER_HOP.test(name) ? [] : [[name, value]],
		),
	);
}
