import { createHash } from "node:crypto";
import { AppError, isAppError, messageOf } from "../errors.ts";
import { checkNamespace, namespacedKey, namespacedPrefix } from "./keys.ts";
import type { BlobInfo, BlobStore, ByteRange, Call } from "./store.ts";

const DEFAULT_MAX_BYTES = 2 * 1024 ** 3;

/** What every blob store needs, written once: namespaces, key checks, limits, expected digests, and errors with a code. */
export class Blobs {
	readonly #store: BlobStore;
	readonly #maxBytes: number;

	/** `maxBytes` is the most that any one blob may have. Default 2 GiB. */
	constructor(store: BlobStore, options: { readonly maxBytes?: number } = {}) {
		this.#store = store;
		this.#maxBytes = options.maxBytes ?? DEFAULT_MAX_BYTES;
	}

	/** The blobs of one namespace; it cannot see those of another. Throws `invalid_argument` for what is no namespace. */
	in(namespace: string): NamespaceBlobs {
		checkNamespace(namespace);
		return new NamespaceBlobs(this.#store, namespace, this.#maxBytes);
	}

	/** Every blob of every namespace, for the collection of what nobody refers to. */
	async *everywhere(call: Call): AsyncIterable<{ readonly namespace: string; readonly key: string }> {
		for await (const full of this.#store.list("", call)) {
			const at = full.indexOf("/");
			yield { namespace: full.slice(0, at), key: full.slice(at + 1) };
		}
	}
}

export type PutCall = Call & {
	/** A smaller limit than that of all blobs. */
	readonly maxBytes?: number;
	/** The hex SHA-256 that the body must have. */
	readonly sha256?: string;
};

/** Keys, those in a BlobInfo too, are without the namespace. Promises are those of BlobStore. */
export class NamespaceBlobs {
	readonly #store: BlobStore;
	readonly #namespace: string;
	readonly #maxBytes: number;

	constructor(store: BlobStore, namespace: string, maxBytes: number) {
		this.#store = store;
		this.#namespace = namespace;
		this.#maxBytes = maxBytes;
	}

	/**
	 * Rejects, with nothing stored, with `too_large` past the limit, with `invalid_argument` if the body does not have the
	 * expected digest, and with the body's own error as it is.
	 */
	async put(key: string, body: AsyncIterable<Uint8Array>, call: PutCall): Promise<BlobInfo> {
		const full = namespacedKey(this.#namespace, key);
		const limits = {
			maxBytes: Math.min(call.maxBytes ?? this.#maxBytes, this.#maxBytes),
			sha256: expectedDigest(call.sha256),
		};
		const failed: { error?: unknown } = {};
		try {
			return this.#own(await this.#store.put(full, guarded(body, limits, failed), { signal: call.signal }));
		} catch (error) {
			if ("error" in failed && failed.error === error) throw error;
			throw wrapped(error, "the blob could not be stored");
		}
	}

	async get(key: string, call: Call & { readonly range?: ByteRange }): Promise<AsyncIterable<Uint8Array>> {
		const full = namespacedKey(this.#namespace, key);
		try {
			return new WrappedErrors(await this.#store.get(full, call));
		} catch (error) {
			throw wrapped(error, "the blob could not be read");
		}
	}

	async stat(key: string, call: Call): Promise<BlobInfo> {
		const full = namespacedKey(this.#namespace, key);
		try {
			return this.#own(await this.#store.stat(full, call));
		} catch (error) {
			throw wrapped(error, "the blob could not be looked up");
		}
	}

	async *list(prefix: string, call: Call): AsyncGenerator<string, void, undefined> {
		const full = namespacedPrefix(this.#namespace, prefix);
		try {
			for await (const key of this.#store.list(full, call)) yield key.slice(this.#namespace.length + 1);
		} catch (error) {
			throw wrapped(error, "the blobs could not be listed");
		}
	}

	async delete(key: string, call: Call): Promise<void> {
		const full = namespacedKey(this.#namespace, key);
		try {
			await this.#store.delete(full, call);
		} catch (error) {
			throw wrapped(error, "the blob could not be deleted");
		}
	}

	#own(info: BlobInfo): BlobInfo {
		return { ...info, key: info.key.slice(this.#namespace.length + 1) };
	}
}

function expectedDigest(sha256: string | undefined): string | undefined {
	if (sha256 === undefined || /^[0-9a-f]{64}$/i.test(sha256)) return sha256?.toLowerCase();
	throw new AppError("invalid_argument", "the expected SHA-256 is not 64 hex digits", { field: "sha256" });
}

/** The body, as long as it keeps to the limits. What it throws is also left in `failed`, to be told from the store's errors. */
async function* guarded(
	body: AsyncIterable<Uint8Array>,
	limits: { readonly maxBytes: number; readonly sha256: string | undefined },
	failed: { error?: unknown },
): AsyncGenerator<Uint8Array, void, undefined> {
	const hash = limits.sha256 === undefined ? undefined : createHash("sha256");
	let size = 0;
	const source = body[Symbol.asyncIterator]();
	let ended = false;
	try {
		for (;;) {
			let result: IteratorResult<Uint8Array>;
			try {
				result = await source.next();
			} catch (error) {
				ended = true;
				failed.error = error;
				throw error;
			}
			if (result.done === true) {
				ended = true;
				break;
			}
			size += result.value.length;
			if (size > limits.maxBytes)
				throw new AppError("too_large", `the body has more than the allowed ${limits.maxBytes} bytes`);
			hash?.update(result.value);
			yield result.value;
		}
	} finally {
		if (!ended) await source.return?.();
	}
	const actual = hash?.digest("hex");
	if (actual !== limits.sha256) {
		throw new AppError("invalid_argument", `the body has the SHA-256 ${actual}, not the expected ${limits.sha256}`, {
			field: "sha256",
		});
	}
}

function wrapped(error: unknown, message: string): AppError {
	return isAppError(error) ? error : new AppError("internal", `${message}: ${messageOf(error)}`, { cause: error });
}

/** A class, not a generator: one that never started would not tell the store that its reader was given up. */
class WrappedErrors implements AsyncIterableIterator<Uint8Array, undefined, undefined> {
	readonly #source: AsyncIterator<Uint8Array>;

	constructor(source: AsyncIterable<Uint8Array>) {
		this.#source = source[Symbol.asyncIterator]();
	}

	[Symbol.asyncIterator](): this {
		return this;
	}

	async next(): Promise<IteratorResult<Uint8Array, undefined>> {
		try {
			const result = await this.#source.next();
			return result.done === true ? { done: true, value: undefined } : { done: false, value: result.value };
		} catch (error) {
			throw wrapped(error, "the blob could not be read");
		}
	}

	async return(): Promise<IteratorResult<Uint8Array, undefined>> {
		await this.#source.return?.();
		return { done: true, value: undefined };
	}
}
