import { type Agent, type ClientRequest, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { messageOf } from "../../errors.ts";
import { type RequestHead, requestHead, responseHeaders, trailerPairs, wireHead } from "./headers.ts";
import { isConnectError, RETRY_EVERY_MS, RETRY_FOR_MS, relay } from "./tunnel.ts";
import type { Backend, RouteTable, Use } from "./upstreams.ts";

/** RFC 9110, 9.2.2: these may be sent again when a connection turns out closed before anything was answered. */
const IDEMPOTENT = new Set([
	"GET",
	"HEAD",
	"OPTIONS",
	"TRACE",
	"PUT",
	"DELETE",
	"PROPFIND",
	"REPORT",
	"SEARCH",
	"QUERY",
]);

export type ExchangeOptions = {
	readonly table: RouteTable;
	/** Makes a connection for each request. */
	readonly fresh: Agent;
	/** The client waits for a 100 before it sends its body. */
	readonly expectsContinue?: boolean;
	/** The client wishes to upgrade: its connection and what it has sent behind the head. */
	readonly upgrade?: { readonly socket: Duplex; readonly head: Buffer };
};

/**
 * `waiting` no answer yet · `answering` the head of the upstream's answer was passed on · `tunnel` upgraded · `over` answered
 * by ourselves, or the client is gone.
 */
type State = "waiting" | "answering" | "tunnel" | "over";

/** One HTTP request on its way to an upstream and its answer on the way back; starts at once. */
export class Exchange {
	readonly #req: IncomingMessage;
	readonly #res: ServerResponse;
	readonly #options: ExchangeOptions;
	readonly #head: RequestHead;
	/** A lost connection can be made good: nothing of the request is used up, and sending it twice does no harm. */
	readonly #repeatable: boolean;
	#state: State = "waiting";
	#out: ClientRequest | undefined;
	#refused: Set<Backend> | undefined;
	#giveUpAt = 0;
	#retry: NodeJS.Timeout | undefined;
	#continued = false;

	constructor(req: IncomingMessage, res: ServerResponse, options: ExchangeOptions) {
		this.#req = req;
		this.#res = res;
		this.#options = options;
		this.#head = requestHead(req, options.upgrade !== undefined);
		this.#repeatable = !this.#head.hasBody && options.upgrade === undefined && IDEMPOTENT.has(req.method ?? "");
		res.sendDate = false;
		res.on("close", () => {
			if (this.#state === "tunnel" || res.writableFinished) return;
			this.#state = "over";
			clearTimeout(this.#retry);
			this.#out?.destroy();
		});
		this.#attempt(false);
	}

	#attempt(fresh: boolean): void {
		if (this.#state !== "waiting") return;
		const { table } = this.#options;
		const backend = table.pick(this.#refused);
		if (backend === undefined) {
			if (table.empty) this.#refuse(503, "No instance of this service is ready.");
			else if (performance.now() >= this.#giveUpAt) this.#refuse(503, "No instance of this service takes connections.");
			else {
				this.#refused?.clear();
				this.#retry = setTimeout(() => this.#attempt(fresh), RETRY_EVERY_MS);
			}
			return;
		}
		const { host, port } = backend.upstream;
		const pool = this.#repeatable && !fresh ? backend.pool : null;
		let out: ClientRequest;
		try {
			out = request({
				agent: pool ?? this.#options.fresh,
				host,
				port,
				method: this.#req.method,
				path: this.#req.url,
				headers: this.#head.headers,
			});
		} catch (error) {
			this.#refuse(400, `This request cannot be passed on: ${messageOf(error)}`);
			return;
		}
		this.#out = out;
		const use: Use = { cut: () => this.#cut() };
		backend.uses.add(use);
		out.on("close", () => {
			backend.release(use);
			// What is left of an upload that nobody takes has to be read for the connection to go on.
			if (this.#state !== "waiting") this.#req.resume();
			else if (this.#out === out) this.#refuse(502, "The service closed the connection without an answer.");
		});
		out.on("error", (error) => this.#failed(error, out, backend));
		out.on("response", (incoming) => this.#answer(incoming));
		out.on("continue", () => {
			this.#continued = true;
			if (this.#state === "waiting" && this.#req.httpVersionMinor >= 1) this.#res.writeContinue();
		});
		out.on("information", (info) => this.#inform(info.statusCode, info.statusMessage, info.rawHeaders));
		const { upgrade } = this.#options;
		if (upgrade !== undefined) {
			out.on("upgrade", (incoming, socket, head) => this.#tunnel(upgrade, incoming, socket, head, backend));
		}
		if (!this.#head.hasBody) out.end();
		else {
			out.flushHeaders();
			// Not a byte of the body is taken before a connection stands, so that another upstream can be tried.
			out.on("socket", (socket) => {
				if (socket.connecting) socket.once("connect", () => this.#upload(out));
				else this.#upload(out);
			});
		}
	}

	#upload(out: ClientRequest): void {
		const req = this.#req;
		const useless = () => out.destroyed || this.#state === "over";
		let ended = false;
		let writing = 0;
		const finish = () => {
			if (!ended || writing > 0 || useless()) return;
			if (req.rawTrailers.length > 0) out.addTrailers(trailerPairs(req.rawTrailers));
			out.end();
		};
		req.on("data", (chunk: Buffer) => {
			if (useless()) return;
			// Not before what the upstream has sent is read: one that answers early (413) and closes makes the write fail, and
			// with it node gives up the answer.
			writing++;
			req.pause();
			setImmediate(() => {
				writing--;
				if (useless() || out.write(chunk)) req.resume();
				finish();
			});
		});
		out.on("drain", () => req.resume());
		// May come while the last chunk still waits to be written.
		req.on("end", () => {
			ended = true;
			finish();
		});
	}

	#inform(status: number, message: string, raw: readonly string[]): void {
		// A pipelined request whose turn has not come has no socket: informing is optional, so it goes without.
		if (status === 100 || this.#state !== "waiting" || this.#req.httpVersionMinor < 1) return;
		this.#res.socket?.write(wireHead(`HTTP/1.1 ${status} ${message}`, responseHeaders(raw, false)));
	}

	#answer(incoming: IncomingMessage): void {
		const res = this.#res;
		if (this.#state !== "waiting") {
			incoming.destroy();
			return;
		}
		this.#state = "answering";
		// A client that was never told to go on may send its body or not: only a new connection is unambiguous.
		if (this.#options.expectsContinue === true && !this.#continued) res.shouldKeepAlive = false;
		try {
			const headers = responseHeaders(incoming.rawHeaders, this.#req.httpVersionMinor >= 1);
			res.writeHead(incoming.statusCode ?? 502, incoming.statusMessage ?? "", headers);
		} catch (error) {
			this.#state = "waiting";
			incoming.destroy();
			this.#refuse(502, `The service's answer cannot be passed on: ${messageOf(error)}`);
			return;
		}
		let begun = false;
		incoming.on("data", (chunk: Buffer) => {
			begun = true;
			if (!res.write(chunk)) incoming.pause();
		});
		res.on("drain", () => incoming.resume());
		incoming.on("end", () => {
			begun = true;
			if (incoming.rawTrailers.length > 0) res.addTrailers(trailerPairs(incoming.rawTrailers));
			res.end();
		});
		incoming.on("error", () => res.destroy());
		// A head without a body yet (an event stream) must not wait for one; with the body at hand it is one write for both.
		setImmediate(() => {
			if (!begun && !res.destroyed) res.flushHeaders();
		});
	}

	#tunnel(
		upgrade: { readonly socket: Duplex; readonly head: Buffer },
		incoming: IncomingMessage,
		socket: Duplex,
		head: Buffer,
		backend: Backend,
	): void {
		const client = upgrade.socket;
		if (this.#state !== "waiting" || client.destroyed) {
			socket.destroy();
			return;
		}
		this.#state = "tunnel";
		const sameSocket = this.#res.socket;
		if (sameSocket !== null) this.#res.detachSocket(sameSocket);
		client.write(wireHead(`HTTP/1.1 ${incoming.statusCode} ${incoming.statusMessage}`, incoming.rawHeaders));
		if (head.length > 0) client.write(head);
		if (upgrade.head.length > 0) socket.write(upgrade.head);
		relay(client, socket, backend);
	}

	#failed(error: Error, out: ClientRequest, backend: Backend): void {
		if (out !== this.#out) return;
		if (this.#state === "answering") {
			// An answer that has begun can only be broken off. One that is complete has nothing more to lose.
			if (!this.#res.writableEnded) this.#res.destroy();
			return;
		}
		if (this.#state !== "waiting") return;
		this.#out = undefined;
		if (isConnectError(error)) {
			this.#refused ??= new Set();
			this.#refused.add(backend);
			if (this.#giveUpAt === 0) this.#giveUpAt = performance.now() + RETRY_FOR_MS;
			this.#attempt(false);
		} else if (out.reusedSocket && this.#repeatable) {
			this.#attempt(true);
		} else {
			this.#refuse(502, "The service closed the connection without an answer.");
		}
	}

	#cut(): void {
		if (this.#state === "waiting") this.#refuse(502, "The service was stopped before it had answered.");
		else if (!this.#res.writableEnded) this.#res.destroy();
		this.#out?.destroy();
	}

	/** Answers in the upstream's place. 503 says that no program has seen the request. */
	#refuse(status: 400 | 502 | 503, text: string): void {
		if (this.#state !== "waiting") return;
		this.#state = "over";
		const res = this.#res;
		const body = `${text}\n`;
		const headers = ["Content-Type", "text/plain; charset=utf-8", "Content-Length", String(Buffer.byteLength(body))];
		if (status !== 400) headers.push("Retry-After", "1");
		if (this.#options.expectsContinue === true && !this.#continued) res.shouldKeepAlive = false;
		res.writeHead(status, headers);
		res.end(body);
		this.#req.resume();
	}
}
