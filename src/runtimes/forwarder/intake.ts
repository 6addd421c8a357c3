import type { Socket } from "node:net";
import { guessProtocol, looksLikeResponse } from "./protocol.ts";
import { dialBackend, dialRoute, relay } from "./tunnel.ts";
import type { Backend, RouteTable } from "./upstreams.ts";

/** A client that says nothing for so long may be waiting for the server to speak first. */
const SILENT_MS = 50;
/** A method that does not get complete in this time is no HTTP. */
const UNKNOWN_MS = 1_000;
/** For a request line, and for a client that is silent while there is nobody to ask. */
const PATIENCE_MS = 60_000;
const REDIAL_MS = 1_000;

export type IntakeOptions = {
	readonly table: RouteTable;
	/** Takes over a connection that speaks HTTP/1.x, with the bytes read from it. */
	readonly http: (socket: Socket, bytes: Buffer) => void;
	/** A TCP connection goes to an upstream from here on. */
	readonly tunnelled: () => void;
	/** Nothing is to be decided any more. */
	readonly settled: (intake: Intake) => void;
};

/**
 * A client's connection until it is known what it speaks.
 *
 * A silent client is dialled through to the upstream to see who speaks first. Until somebody does, that connection (the
 * probe) binds nothing: it is dropped when the route changes, and when the client turns out to speak HTTP.
 */
export class Intake {
	readonly #socket: Socket;
	readonly #options: IntakeOptions;
	#bytes: Buffer = Buffer.alloc(0);
	#timer: NodeJS.Timeout | undefined;
	readonly #gone = new AbortController();
	#probe: { readonly backend: Backend; readonly socket: Socket } | null = null;
	/** Changes with each probe and route, so that a dial that was overtaken sees it. */
	#epoch = 0;
	#settled = false;

	readonly #onData = (chunk: Buffer) => this.#read(chunk);
	readonly #onEnd = () => void this.#passThrough();
	readonly #onClose = () => this.#settle();

	constructor(socket: Socket, options: IntakeOptions) {
		this.#socket = socket;
		this.#options = options;
		socket.on("data", this.#onData);
		socket.on("end", this.#onEnd);
		socket.on("close", this.#onClose);
		this.#wait(SILENT_MS, () => void this.#ask());
	}

	/** The route has changed: asks the new upstreams if the client is still silent. */
	rerouted(): void {
		if (this.#settled || this.#bytes.length > 0) return;
		if (this.#probe !== null && this.#options.table.has(this.#probe.backend)) return;
		this.#dropProbe();
		this.#wait(SILENT_MS, () => void this.#ask());
	}

	#wait(ms: number, then: () => void): void {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(then, ms);
	}

	#read(chunk: Buffer): void {
		this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
		switch (guessProtocol(this.#bytes)) {
			case "http":
				this.#dropProbe();
				this.#settle();
				this.#options.http(this.#socket, this.#bytes);
				break;
			case "other":
				void this.#passThrough();
				break;
			case "method":
				this.#wait(PATIENCE_MS, () => this.#socket.destroy());
				break;
			case "unknown":
				this.#wait(UNKNOWN_MS, () => void this.#passThrough());
				break;
		}
	}

	async #ask(): Promise<void> {
		const backend = this.#options.table.pick();
		if (backend === undefined) {
			this.#wait(PATIENCE_MS, () => this.#socket.destroy());
			return;
		}
		const epoch = ++this.#epoch;
		const socket = await dialBackend(backend, this.#gone.signal);
		if (socket === null) {
			if (!this.#settled && epoch === this.#epoch) this.#wait(REDIAL_MS, () => void this.#ask());
			return;
		}
		if (this.#settled || epoch !== this.#epoch || this.#bytes.length > 0) {
			socket.destroy();
			return;
		}
		clearTimeout(this.#timer);
		this.#probe = { backend, socket };
		socket.once("data", (chunk: Buffer) => {
			if (this.#probe?.socket !== socket) return;
			socket.pause();
			if (looksLikeResponse(chunk)) {
				this.#stopAsking();
				return;
			}
			socket.unshift(chunk);
			void this.#passThrough();
		});
		const over = () => {
			if (this.#probe?.socket === socket) this.#stopAsking();
		};
		socket.once("end", over);
		socket.once("close", over);
	}

	/** The upstream has nothing to say to a silent client: HTTP servers end such connections after a while. */
	#stopAsking(): void {
		this.#dropProbe();
		this.#wait(PATIENCE_MS, () => this.#socket.destroy());
	}

	#dropProbe(): void {
		this.#epoch++;
		const probe = this.#probe;
		this.#probe = null;
		probe?.socket.destroy();
	}

	async #passThrough(): Promise<void> {
		const client = this.#socket;
		const probe = this.#probe;
		this.#probe = null;
		const usable = probe !== null && !probe.socket.destroyed && this.#options.table.has(probe.backend);
		if (!usable) probe?.socket.destroy();
		client.pause();
		this.#settle();
		const gone = new AbortController();
		const abort = () => gone.abort();
		client.once("close", abort);
		const peer = usable ? probe : await dialRoute(this.#options.table, gone.signal);
		client.off("close", abort);
		if (peer === null) {
			client.destroy();
			return;
		}
		this.#options.tunnelled();
		if (this.#bytes.length > 0) peer.socket.write(this.#bytes);
		relay(client, peer.socket, peer.backend);
	}

	#settle(): void {
		if (this.#settled) return;
		this.#settled = true;
		clearTimeout(this.#timer);
		this.#gone.abort();
		this.#dropProbe();
		this.#socket.off("data", this.#onData);
		this.#socket.off("end", this.#onEnd);
		this.#socket.off("close", this.#onClose);
		this.#options.settled(this);
	}
}
