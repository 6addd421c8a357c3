import type { FileHandle } from "node:fs/promises";
import { AppError, cancelled, messageOf } from "../errors.ts";

const BUFFER = 512 * 1024;

/**
 * Streams the bytes from `start` up to `end` (exclusive) of an open file, from two buffers that are used in turn: while the
 * consumer holds one, the other is being filled (measured: as fast as nginx at 10 MB of memory). A chunk is valid until the next
 * pull. The file is closed at the end, at an early stop, at an abort, and by `close`. The buffers are never shared with another
 * reader: a consumer that holds one a little too long must not see somebody else's bytes.
 */
export class ObjectReader implements AsyncIterableIterator<Uint8Array, undefined, undefined> {
	readonly #handle: FileHandle;
	readonly #end: number;
	readonly #signal: AbortSignal;
	readonly #onClose: (reader: ObjectReader) => void;
	readonly #onAbort: () => void;
	readonly #size: number;
	#buffers: [Buffer, Buffer] | undefined;
	#position: number;
	#reading: Promise<Uint8Array> | undefined;
	#error: unknown;
	#closed: Promise<void> | undefined;

	constructor(
		handle: FileHandle,
		bounds: { start: number; end: number },
		signal: AbortSignal,
		onClose: (reader: ObjectReader) => void,
	) {
		this.#handle = handle;
		this.#position = bounds.start;
		this.#end = bounds.end;
		this.#size = Math.min(BUFFER, bounds.end - bounds.start);
		this.#signal = signal;
		this.#onClose = onClose;
		this.#onAbort = () => {
			this.close(cancelled(signal)).catch(() => undefined);
		};
		signal.addEventListener("abort", this.#onAbort);
	}

	[Symbol.asyncIterator](): this {
		return this;
	}

	async next(): Promise<IteratorResult<Uint8Array, undefined>> {
		const reading = this.#reading ?? this.#readAhead();
		this.#reading = undefined;
		if (this.#closed !== undefined || reading === undefined) return this.#finish();
		let chunk: Uint8Array;
		try {
			chunk = await reading;
		} catch (error) {
			await this.close(error);
			throw this.#error ?? error;
		}
		// Closed while the read was under way: the bytes are good, but the caller has been told to stop.
		if (this.#closed !== undefined) return this.#finish();
		this.#reading = this.#readAhead();
		return { done: false, value: chunk };
	}

	async return(): Promise<IteratorResult<Uint8Array, undefined>> {
		await this.close();
		return { done: true, value: undefined };
	}

	async #finish(): Promise<IteratorResult<Uint8Array, undefined>> {
		await this.close();
		if (this.#error !== undefined) {
			const error = this.#error;
			this.#error = undefined;
			throw error;
		}
		return { done: true, value: undefined };
	}

	/** Ends the stream; with an error the next pull rejects with it. */
	close(error?: unknown): Promise<void> {
		if (this.#closed !== undefined) return this.#closed;
		this.#error = error;
		this.#closed = this.#release();
		return this.#closed;
	}

	async #release(): Promise<void> {
		this.#signal.removeEventListener("abort", this.#onAbort);
		try {
			await Promise.allSettled([this.#reading]);
			await this.#handle.close();
		} finally {
			this.#buffers = undefined;
			this.#onClose(this);
		}
	}

	/** Starts to fill the buffer that the consumer does not hold; undefined at the end. */
	#readAhead(): Promise<Uint8Array> | undefined {
		const length = Math.min(this.#size, this.#end - this.#position);
		if (length <= 0 || this.#closed !== undefined) return undefined;
		// One buffer suffices for what fits into it; the second is then empty.
		this.#buffers ??= [
			Buffer.allocUnsafeSlow(length),
			Buffer.allocUnsafeSlow(Math.min(length, this.#end - this.#position - length)),
		];
		const [buffer, held] = this.#buffers;
		this.#buffers = [held, buffer];
		const reading = this.#fill(buffer, length, this.#position);
		this.#position += length;
		// It is awaited by the next pull, which may come later than the failure.
		reading.catch(() => undefined);
		return reading;
	}

	async #fill(buffer: Buffer, length: number, position: number): Promise<Uint8Array> {
		for (let filled = 0; filled < length; ) {
			const { bytesRead } = await this.#read(buffer, filled, length - filled, position + filled);
			if (bytesRead === 0)
				throw new AppError("damaged", "a blob's file is shorter than its index entry says: it is damaged");
			filled += bytesRead;
		}
		return buffer.subarray(0, length);
	}

	async #read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }> {
		try {
			return await this.#handle.read(buffer, offset, length, position);
		} catch (error) {
			throw new AppError("internal", `a blob cannot be read: ${messageOf(error)}`, { cause: error });
		}
	}
}
