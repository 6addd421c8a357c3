import type { ErrorCode } from "../errors.ts";

/** Every call can be cancelled; a cancelled call rejects with code `cancelled` and leaves nothing behind. */
export type Call = { readonly signal: AbortSignal };

export type BlobInfo = {
	readonly key: string;
	/** Bytes. */
	readonly size: number;
	/** Lower-case hex SHA-256 of the bytes, computed while they were written. */
	readonly sha256: string;
	/** When it was committed, ISO 8601 UTC. */
	readonly createdAt: string;
};

/** Bytes `start` to `end`, both inclusive, counted from 0, as in RFC 9110. */
export type ByteRange = { readonly start: number; readonly end: number };

/** What a blob store may reject with. */
export type BlobErrorCode = Extract<
	ErrorCode,
	| "not_found"
	| "conflict"
	| "range"
	| "invalid_argument"
	| "cancelled"
	| "no_space"
	| "unavailable"
	| "internal"
	| "damaged"
>;

/**
 * A store for large immutable objects (source archives and builds).
 *
 * Adapters implement it; callers use it through `Blobs` (blob/blobs.ts), which owns namespaces, key checks and limits.
 * After the model of go-cloud's blob driver. Keys given to an adapter are already checked: one or more `/`-separated
 * segments of `[A-Za-z0-9._-]`, none starting with a dot, at most 512 characters in all. Different keys never collide.
 */
export interface BlobStore extends AsyncDisposable {
	/**
	 * Stores the whole of `body` under `key`. Atomic: unseen by every other call until it has resolved, and then durable
	 * over a power cut. If `body` throws or the call is aborted it rejects with that error and nothing is left behind, not
	 * even a temporary file after a crash (one is removed at the next opening). Blobs are immutable: a key that exists
	 * rejects with `conflict`. A chunk may be reused by the producer after it has pulled the next one.
	 * Rejects with `no_space` when the disk is full.
	 */
	put(key: string, body: AsyncIterable<Uint8Array>, call: Call): Promise<BlobInfo>;

	/**
	 * Streams a blob. Rejects with `not_found` or `range` before the first byte. A chunk is valid until the next one is
	 * pulled, so that a store may reuse its buffers; stopping the iteration early releases everything.
	 * A blob deleted while it is being read is either read to its end or throws; it is never silently cut short. Where bytes
	 * are known to be missing or changed it rejects with `damaged`, or the iteration does: another try ends the same way.
	 */
	get(key: string, call: Call & { readonly range?: ByteRange }): Promise<AsyncIterable<Uint8Array>>;

	/** Rejects with `not_found`. */
	stat(key: string, call: Call): Promise<BlobInfo>;

	/** Every key that starts with `prefix`, in ascending byte order. */
	list(prefix: string, call: Call): AsyncIterable<string>;

	/** Idempotent: a key that does not exist is no error. Durable when it resolves. */
	delete(key: string, call: Call): Promise<void>;
}
