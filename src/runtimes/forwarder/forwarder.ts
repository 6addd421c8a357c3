import { once } from "node:events";
import { Agent, createServer as createHttpServer, type IncomingMessage, type Server, ServerResponse } from "node:http";
import { createServer, type Socket, type Server as TcpServer } from "node:net";
import type { Duplex } from "node:stream";
import { AppError, cancelled } from "../../errors.ts";
import { Exchange } from "./exchange.ts";
import { withoutUpgrade } from "./headers.ts";
import { Intake } from "./intake.ts";
import { RouteTable, type Upstream } from "./upstreams.ts";

export type { Upstream } from "./upstreams.ts";

/** Long, so that a client never sends a request on a connection that is just being closed. */
const KEEP_ALIVE_MS = 10 * 60_000;
const MAX_CONNECTIONS = 8_192;

export type ForwarderOptions = {
	readonly host: string;
	/** 0: any that is free. */
	readonly port: number;
	/** Connections beyond this number are closed at once. Default 8192. */
	readonly maxConnections?: number;
	/** Bytes of a request's head. Default as node: 16 KiB. */
	readonly maxHeaderSize?: number;
	/** Reuse connections to upstreams. Default true. */
	readonly pool?: boolean;
};

/**
 * A service's address: takes connections for as long as the service lives, and sends what comes to the upstreams of the
 * moment. HTTP/1.x is forwarded request by request, so that a connection goes on over a switch; everything else
 * (TLS, HTTP/2, a server that speaks first) passes as TCP, connection by connection. It buffers nothing and has no time
 * limit on a request.
 *
 * While the route is empty HTTP gets 503 with `Retry-After: 1`, and other connections are closed.
 */
export class Forwarder implements AsyncDisposable {
	readonly host: string;
	readonly port: number;
	readonly #tcp: TcpServer;
	readonly #http: Server;
	readonly #table: RouteTable;
	readonly #fresh = new Agent({ keepAlive: false });
	readonly #sockets = new Set<Socket>();
	readonly #intakes = new Set<Intake>();
	#requests = 0;

	private constructor(tcp: TcpServer, host: string, port: number, options: ForwarderOptions) {
		this.#tcp = tcp;
		this.host = host;
		this.port = port;
		this.#table = new RouteTable(options.pool ?? true);
		this.#http = createHttpServer({
			// None of node's own limits may cut a slow stream or a slow upload.
			requestTimeout: 0,
			keepAliveTimeout: KEEP_ALIVE_MS,
			...(options.maxHeaderSize === undefined ? {} : { maxHeaderSize: options.maxHeaderSize }),
		});
		this.#http.timeout = 0;
		this.#http.on("request", (req, res) => this.#exchange(req, res, false));
		this.#http.on("checkContinue", (req, res) => this.#exchange(req, res, true));
		this.#http.on("checkExpectation", (req, res) => this.#exchange(req, res, true));
		this.#http.on("upgrade", (req, socket, head) => this.#upgrade(req, socket, head));
		tcp.on("connection", (socket) => this.#accept(socket));
	}

	/** Rejects with the system's error (`EADDRINUSE`, `EACCES`) where it cannot listen. */
	static async listen(options: ForwarderOptions): Promise<Forwarder> {
		const tcp = createServer({ allowHalfOpen: true, noDelay: true });
		tcp.maxConnections = options.maxConnections ?? MAX_CONNECTIONS;
		tcp.listen({ host: options.host, port: options.port });
		await once(tcp, "listening");
		const address = tcp.address();
		if (address === null || typeof address === "string") throw new AppError("internal", "listening without a port");
		return new Forwarder(tcp, options.host, address.port, options);
	}

	/** From now on new requests go to these in turn. None: 503. What is under way elsewhere goes on. */
	route(upstreams: readonly Upstream[]): void {
		this.#table.set(upstreams);
		for (const intake of [...this.#intakes]) intake.rerouted();
	}

	/**
	 * Closes idle connections to an upstream, and resolves when no request or tunnel uses it; after `timeoutMs` cuts what
	 * is left and says how many that were. Take it out of the route first. Rejects with `cancelled` when aborted, and
	 * cuts nothing then.
	 */
	async drain(
		upstreamId: string,
		{ timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
	): Promise<{ cut: number }> {
		if (signal.aborted) throw cancelled(signal);
		const backends = this.#table.named(upstreamId);
		for (const backend of backends) backend.pool?.closeIdle();
		const busy = () => backends.some((backend) => backend.uses.size > 0);
		if (!busy()) return { cut: 0 };
		const { promise, resolve } = Promise.withResolvers<void>();
		const stopWatching = backends.map((backend) =>
			backend.onIdle(() => {
				if (!busy()) resolve();
			}),
		);
		const timer = setTimeout(resolve, timeoutMs);
		const aborted = () => resolve();
		signal.addEventListener("abort", aborted, { once: true });
		await promise;
		signal.removeEventListener("abort", aborted);
		clearTimeout(timer);
		for (const stop of stopWatching) stop();
		if (signal.aborted) throw cancelled(signal);
		let cut = 0;
		for (const backend of backends) {
			for (const use of [...backend.uses]) {
				cut++;
				use.cut();
			}
			backend.pool?.closeIdle();
		}
		return { cut };
	}

	/** `requests` counts tunnels too, since the start; `inFlight` is what upstreams are serving now. */
	stats(): { requests: number; inFlight: number } {
		return { requests: this.#requests, inFlight: this.#table.inFlight() };
	}

	/** Stops listening and cuts every connection: drain first. */
	async [Symbol.asyncDispose](): Promise<void> {
		const closed = this.#tcp.listening ? once(this.#tcp, "close") : Promise.resolve();
		this.#tcp.close();
		this.#table.set([]);
		for (const socket of this.#sockets) socket.destroy();
		this.#fresh.destroy();
		this.#http.close();
		await closed;
	}

	#accept(socket: Socket): void {
		this.#sockets.add(socket);
		socket.on("close", () => this.#sockets.delete(socket));
		// A connection's end is what matters, whatever the reason: `close` follows.
		socket.on("error", () => socket.destroy());
		const intake = new Intake(socket, {
			table: this.#table,
			http: (taken, bytes) => this.#feed(taken, bytes),
			tunnelled: () => void this.#requests++,
			settled: (done) => void this.#intakes.delete(done),
		});
		this.#intakes.add(intake);
	}

	/** Gives a connection to the HTTP parser as if these bytes had just come. */
	#feed(socket: Duplex, bytes: Buffer): void {
		this.#http.emit("connection", socket);
		socket.emit("data", bytes);
	}

	#exchange(req: IncomingMessage, res: ServerResponse, expectsContinue: boolean): void {
		this.#requests++;
		new Exchange(req, res, { table: this.#table, fresh: this.#fresh, expectsContinue });
	}

	#upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
		const hasBody = req.headers["content-length"] !== undefined || req.headers["transfer-encoding"] !== undefined;
		if (hasBody || /^\s*h2c\s*$/i.test(req.headers.upgrade ?? "")) {
			// Nobody has to follow a wish to upgrade (RFC 9110, 7.8), and this way the connection is not tied to one upstream.
			this.#feed(socket, Buffer.concat([withoutUpgrade(req), head]));
			return;
		}
		this.#requests++;
		const res = new ServerResponse(req);
		res.shouldKeepAlive = false;
		res.assignSocket(req.socket);
		res.on("finish", () => socket.end());
		new Exchange(req, res, { table: this.#table, fresh: this.#fresh, upgrade: { socket, head } });
	}
}
