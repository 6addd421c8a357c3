import { createHash } from "node:crypto";
import { cancellable } from "../cancellable.ts";

const CHUNK = 64 * 1024;
/** Chunks beyond a part's that may be waiting: in the stream between, and in the hands of whoever pulls. */
const AHEAD = 8;

/**
 * A body on its way to an upload: copied, since its producer may reuse its chunks, hashed and counted. The copies lie in one ring
 * that has room for a part and what is read ahead; whoever makes a part copies once more, and has done so before the ring comes
 * round.
 */
export class Chunks {
	readonly #hash = createHash("sha256");
	readonly #room: number;
	#size = 0;
	#ended = false;
	#failed: { readonly error: unknown } | undefined;

	/** `partSize` in bytes. */
	constructor(partSize: number) {
		this.#room = Math.ceil(partSize / CHUNK) + AHEAD;
	}

	/** Whether the body has come to its end. */
	get ended(): boolean {
		return this.#ended;
	}

	/** What the body threw, or `cancelled`. */
	get failed(): { readonly error: unknown } | undefined {
		return this.#failed;
	}

	/** Bytes so far. */
	get size(): number {
		return this.#size;
	}

	/** Lower-case hex SHA-256, once. */
	digest(): string {
		return this.#hash.digest("hex");
	}

	async *of(body: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
		// Grows as it fills: most blobs are small.
		const ring: Buffer[] = [];
		let turn = 0;
		let filled = 0;
		for await (const chunk of this.#watched(cancellable(body, signal))) {
			this.#hash.update(chunk);
			this.#size += chunk.length;
			for (let offset = 0; offset < chunk.length; ) {
				const buffer = ring[turn] ?? Buffer.allocUnsafeSlow(CHUNK);
				ring[turn] = buffer;
				const end = Math.min(chunk.length, offset + CHUNK - filled);
				buffer.set(chunk.subarray(offset, end), filled);
				filled += end - offset;
				offset = end;
				if (filled < CHUNK) break;
				yield buffer;
				turn = (turn + 1) % this.#room;
				filled = 0;
			}
		}
		const last = ring[turn];
		if (filled > 0 && last !== undefined) yield last.subarray(0, filled);
		this.#ended = true;
	}

	/** Apart from what takes the chunks: that may throw into it as well. */
	async *#watched(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
		try {
			yield* body;
		} catch (error) {
			this.#failed = { error };
			throw error;
		}
	}
}
