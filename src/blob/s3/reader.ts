import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { AppError, cancelled, isAppError } from "../../errors.ts";
import type { Bucket, Content } from "./bucket.ts";
import { failureOf } from "./failures.ts";

const FIRST_PAUSE_MS = 100;

export type Part = {
	/** Of the data object. */
	readonly name: string;
	readonly etag: string;
	/** Of the whole blob, in bytes. */
	readonly size: number;
	readonly start: number;
	/** Exclusive. */
	readonly end: number;
};

/**
 * Streams a part of a data object. A connection that breaks or stalls is taken up again where it was, on the same object; one that
 * ends early never looks complete. Ends at an early stop, an abort and by `close`.
 */
export class S3Reader implements AsyncIterableIterator<Uint8Array, undefined, undefined> {
	readonly #bucket: Bucket;
	readonly #part: Part;
	readonly #damaged: () => Promise<AppError>;
	readonly #ending = new AbortController();
	readonly #signal: AbortSignal;
	readonly #onAbort: () => void;
	readonly #onClose: (reader: S3Reader) => void;
	#position: number;
	#body: Readable | undefined;
	#chunks: AsyncIterator<unknown> | undefined;
	#error: unknown;
	#closed = false;

	/** `damaged` tells what it means that the object is not as recorded. */
	constructor(
		bucket: Bucket,
		part: Part,
		signal: AbortSignal,
		damaged: () => Promise<AppError>,
		onClose: (reader: S3Reader) => void,
	) {
		this.#bucket = bucket;
		this.#part = part;
		this.#position = part.start;
		this.#signal = signal;
		this.#damaged = damaged;
		this.#onClose = onClose;
		this.#onAbort = () => this.close(cancelled(signal));
		signal.addEventListener("abort", this.#onAbort);
		if (signal.aborted) this.#onAbort();
	}

	/** Asks for the first bytes. Rejects with `damaged`, `not_found` or `unavailable`. */
	async open(): Promise<void> {
		try {
			await this.#open();
		} catch (error) {
			this.close(error);
			throw this.#error;
		}
	}

	[Symbol.asyncIterator](): this {
		return this;
	}

	async next(): Promise<IteratorResult<Uint8Array, undefined>> {
		for (let failures = 0; !this.#closed && this.#position < this.#part.end; ) {
			try {
				if (this.#chunks === undefined) await this.#open();
				const result = await this.#chunks?.next();
				if (this.#closed) break;
				if (result?.done === false && result.value instanceof Uint8Array) {
					this.#position += result.value.length;
					if (this.#position > this.#part.end) throw await this.#damaged();
					if (this.#position === this.#part.end) this.#release();
					return { done: false, value: result.value };
				}
				throw new AppError("unavailable", "the S3 endpoint ended its answer early");
			} catch (error) {
				this.#release();
				const failure = failureOf("GetObject", error);
				if (!isAppError(failure, "unavailable") || ++failures > this.#bucket.settings.resumes) this.close(failure);
				else await this.#pause(failures);
			}
		}
		this.close();
		if (this.#error === undefined) return { done: true, value: undefined };
		const error = this.#error;
		this.#error = undefined;
		throw error;
	}

	async return(): Promise<IteratorResult<Uint8Array, undefined>> {
		this.close();
		return { done: true, value: undefined };
	}

	/** Ends the stream; with an error the next pull rejects with it. */
	close(error?: unknown): void {
		if (this.#closed) return;
		this.#closed = true;
		this.#error = error;
		this.#signal.removeEventListener("abort", this.#onAbort);
		this.#ending.abort(error);
		this.#release();
		this.#onClose(this);
	}

	async #open(): Promise<void> {
		const { name, etag, size, end } = this.#part;
		const bounds = size === 0 ? undefined : { start: this.#position, end };
		let content: Content;
		try {
			content = await this.#bucket.get(name, bounds, etag, { signal: this.#ending.signal });
		} catch (error) {
			if (this.#error !== undefined) throw this.#error;
			const other = ["not_found", "range", "precondition_failed"];
			throw isAppError(error) && other.includes(error.code) ? await this.#damaged() : error;
		}
		const { total = size, length = end - this.#position } = content;
		if (this.#closed || total !== size || length !== end - this.#position) {
			content.body.on("error", () => undefined).destroy();
			throw this.#error ?? (await this.#damaged());
		}
		this.#body = content.body;
		this.#chunks = content.body[Symbol.asyncIterator]();
	}

	#release(): void {
		const body = this.#body;
		this.#body = undefined;
		this.#chunks = undefined;
		// What it still throws concerns nobody. Read to its end, the connection can be used again.
		body?.on("error", () => undefined);
		if (this.#position === this.#part.end) body?.resume();
		else body?.destroy();
	}

	async #pause(failures: number): Promise<void> {
		const time = FIRST_PAUSE_MS * 2 ** (failures - 1);
		// Who ends the stream ends the pause; the loop sees it.
		await delay(time, undefined, { signal: this.#ending.signal }).catch(() => undefined);
	}
}
