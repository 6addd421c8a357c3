import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

type Upstream = () => Promise<{ readonly host: string; readonly port: number }>;

export type Fault = {
	/** From so many bytes of one connection on, nothing more comes through. */
	readonly holdAt?: number;
	/** Bytes a second. */
	readonly rate?: number;
	/** Nobody is there. */
	readonly refuse?: boolean;
};

const PIECE = 64 * 1024;

/** What lies between containers and the server: bytes go through as they are, as badly as a test wants. */
export class Wire implements AsyncDisposable {
	fault: Fault = {};
	/** Bytes towards containers, of each connection, in the order in which they came. */
	readonly carried: number[] = [];
	readonly #server: Server;
	readonly #sockets = new Set<Socket>();
	readonly #upstream: Upstream;

	private constructor(upstream: Upstream) {
		this.#upstream = upstream;
		this.#server = createServer((socket) => {
			const index = this.carried.push(0) - 1;
			this.#carry(socket, index).catch(() => socket.destroy());
		});
	}

	static async open(address: string, upstream: Upstream): Promise<Wire> {
		const wire = new Wire(upstream);
		wire.#server.listen(0, address);
		await once(wire.#server, "listening");
		return wire;
	}

	get port(): number {
		const bound = this.#server.address();
		if (bound === null || typeof bound === "string") throw new Error("no port");
		return bound.port;
	}

	get total(): number {
		return this.carried.reduce((sum, bytes) => sum + bytes, 0);
	}

	/** No fault any more, and what was carried is forgotten. */
	mend(): void {
		this.fault = {};
		this.carried.length = 0;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		for (const socket of this.#sockets) socket.destroy();
		this.#server.close();
		await once(this.#server, "close");
	}

	async #carry(near: Socket, index: number): Promise<void> {
		const { fault } = this;
		if (fault.refuse === true) return void near.resetAndDestroy();
		this.#sockets.add(near);
		const far = connect(await this.#upstream());
		this.#sockets.add(far);
		const over = new AbortController();
		for (const [one, other] of [
			[near, far],
			[far, near],
		] as const) {
			one.on("error", () => other.destroy());
			one.once("close", () => {
				this.#sockets.delete(one);
				over.abort();
				other.destroy();
			});
		}
		near.pipe(far);
		let carried = 0;
		const { holdAt = Number.POSITIVE_INFINITY, rate } = fault;
		for await (const chunk of far)
			for (let at = 0; at < chunk.length && carried < holdAt; at += PIECE) {
				const piece: Buffer = chunk.subarray(at, Math.min(at + PIECE, at + holdAt - carried));
				if (rate !== undefined) await delay((piece.length / rate) * 1000, undefined, over);
				if (!near.write(piece)) await once(near, "drain", over);
				carried += piece.length;
				this.carried[index] = carried;
				// Until one of the two goes away.
				if (carried === holdAt) await once(over.signal, "abort");
			}
		near.end();
	}
}
