import { randomUUID } from "node:crypto";
import { AppError, cancelled, isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import { Turns } from "../../turns.ts";
import { boundsOf, infoOf } from "../entry.ts";
import type { BlobInfo, BlobStore, ByteRange, Call } from "../store.ts";
import { Bucket } from "./bucket.ts";
import { Entries, exists, type S3Entry } from "./entries.ts";
import { blame } from "./failures.ts";
import { type S3Options, settled } from "./options.ts";
import { claim } from "./owner.ts";
import { type Abilities, probe } from "./probe.ts";
import { S3Reader } from "./reader.ts";
import { Scrub } from "./scrub.ts";
import { sweep } from "./sweep.ts";
import { upload } from "./upload.ts";

/** How long the opening may take. */
const OPEN_MS = 60_000;

/**
 * Blobs in a bucket, for any number of servers at once. `index/<key>` holds a blob's entry and is what makes it exist, `data/<key>/
 * <unique>` its bytes, `probe/` what the opening tries. Needs an endpoint that reads what was written (S3 does since 2020).
 */
export class S3BlobStore implements BlobStore {
	/** For whoever runs the server: a promise that this endpoint does not let us keep. */
	readonly warning: string | undefined;
	readonly #bucket: Bucket;
	readonly #entries: Entries;
	readonly #scrub: Scrub;
	readonly #now: () => Date;
	readonly #unique: () => string;
	readonly #closing = new AbortController();
	/** Names of data objects that no entry names yet. */
	readonly #unfinished = new Set<string>();
	/** Whoever changes a key's entry from here holds the key meanwhile. */
	readonly #turns = new Turns();
	readonly #readers = new Set<S3Reader>();
	readonly #working = new Set<Promise<unknown>>();
	#swept: Promise<number> = Promise.resolve(0);
	#closed: Promise<void> | undefined;

	private constructor(bucket: Bucket, abilities: Abilities, options: S3Options) {
		this.#bucket = bucket;
		this.#entries = new Entries(bucket, abilities);
		this.#scrub = new Scrub(bucket, this.#entries, (entry, signal) => this.#reader(entry, undefined, signal));
		this.#now = options.now ?? (() => new Date());
		this.#unique = options.unique ?? randomUUID;
		if (!abilities.create)
			this.warning =
				"the S3 endpoint does not heed If-None-Match: with more than one server two may store one key at the same time, and one of them is lost";
	}

	/**
	 * Tries the bucket, and starts a sweep in the background. Rejects with `invalid_argument` whose `field` is the setting that is
	 * wrong (`s3Endpoint`, `s3Region`, `s3Bucket`, `s3Credentials`, `s3Prefix`, `s3Checksums`), or with `unavailable`.
	 */
	static async open(options: S3Options): Promise<S3BlobStore> {
		const settings = settled(options);
		const bucket = new Bucket(settings);
		try {
			const store = new S3BlobStore(bucket, await probe(bucket, { signal: AbortSignal.timeout(OPEN_MS) }), options);
			store.#swept = store.sweep({ signal: store.#closing.signal });
			// Whoever wants to know asks `swept`; a sweep that failed is repeated at the next opening.
			store.#swept.catch(() => undefined);
			return store;
		} catch (error) {
			bucket.close();
			throw blame(error, settings);
		}
	}

	/** How much the sweep after the opening removed; rejects if it failed or was cut short. */
	get swept(): Promise<number> {
		return this.#swept;
	}

	/**
	 * Makes whoever asks first the owner of what is below the prefix; answers whose it is. `id`: letters, digits and `-`. Where the
	 * endpoint does not heed If-None-Match, two who ask at the same moment may both be told that it is theirs.
	 */
	claim(id: string, call: Call): Promise<string> {
		return this.#work(call, (inner) => claim(this.#bucket, id, inner));
	}

	/** Removes what was left by puts and deletes that were cut off, here or elsewhere; → how much. Repeat it now and then. */
	sweep(call: Call): Promise<number> {
		return this.#work(call, (inner) => sweep(this.#bucket, this.#entries, this.#unfinished, inner));
	}

	/** Holds (parallel parts + 2) × part size in memory. What it has begun to commit cannot be cancelled any more. */
	put(key: string, body: AsyncIterable<Uint8Array>, call: Call): Promise<BlobInfo> {
		return this.#work(call, (inner) => this.#put(key, body, inner));
	}

	async get(key: string, call: Call & { readonly range?: ByteRange }): Promise<AsyncIterable<Uint8Array>> {
		return this.#work(call, async (inner) => {
			for (;;) {
				const entry = await this.#entries.get(key, inner);
				if (entry.damaged) throw damaged(key);
				// Thrown before anything is asked of the data.
				boundsOf(call.range, entry.size);
				const reader = this.#reader(entry, call.range, call.signal);
				try {
					await reader.open();
					return reader;
				} catch (error) {
					// Deleted and stored again since the entry was read.
					if (!isAppError(error, "not_found") || (await this.#entries.find(key, inner)) === undefined) throw error;
				}
			}
		});
	}

	stat(key: string, call: Call): Promise<BlobInfo> {
		return this.#work(call, async (inner) => infoOf(await this.#entries.get(key, inner)));
	}

	async *list(prefix: string, call: Call): AsyncGenerator<string, void, undefined> {
		const inner = this.#inner(call);
		for await (const key of this.#entries.keys(prefix, inner)) {
			if (inner.signal.aborted) throw cancelled(inner.signal);
			yield key;
			if (inner.signal.aborted) throw cancelled(inner.signal);
		}
	}

	delete(key: string, call: Call): Promise<void> {
		return this.#work(call, (inner) =>
			this.#turns.inTurn(key, async () => {
				const entry = await this.#entries.find(key, inner);
				if (entry === undefined) return;
				await this.#entries.remove(key, inner);
				failpoint("s3.entry_removed");
				await this.#bucket.remove(this.#entries.dataName(key, entry.object), inner);
			}),
		);
	}

	/**
	 * Reads every blob again, slowly (`scrubRate`), and says whether its bytes still have the hash of its entry. One that has not,
	 * twice, is quarantined where the endpoint heeds `If-Match`: `get` rejects with `damaged` from then on, until it is deleted.
	 */
	async *scrub(call: Call): AsyncGenerator<{ readonly key: string; readonly ok: boolean }, void, undefined> {
		yield* this.#scrub.run(this.#inner(call));
	}

	/** Uploads that are under way are cancelled, readers end with `unavailable`. */
	[Symbol.asyncDispose](): Promise<void> {
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async #close(): Promise<void> {
		const reason = closedError();
		this.#closing.abort(reason);
		for (const reader of this.#readers) reader.close(reason);
		await Promise.allSettled(this.#working);
		this.#bucket.close();
	}

	async #put(key: string, body: AsyncIterable<Uint8Array>, { signal }: Call): Promise<BlobInfo> {
		if ((await this.#entries.find(key, { signal })) !== undefined) throw exists(key);
		const object = this.#unique();
		const name = this.#entries.dataName(key, object);
		// Another server's sweep takes what is older for a leftover.
		const tooLong = AbortSignal.timeout(Math.min(this.#bucket.settings.leftoverAge / 2, 2 ** 31 - 1));
		this.#unfinished.add(name);
		try {
			const written = await upload(this.#bucket, name, body, AbortSignal.any([signal, tooLong]));
			const entry: S3Entry = { key, object, ...written, createdAt: this.#now().toISOString(), damaged: false };
			failpoint("s3.before_entry");
			const insertion = await this.#turns.inTurn(key, () => this.#entries.insert(entry));
			if (insertion.stored === "yes") {
				failpoint("s3.after_entry");
				return infoOf(entry);
			}
			if (insertion.stored === "no") await this.#discard(name);
			throw insertion.error;
		} catch (error) {
			if (tooLong.aborted && !signal.aborted && isAppError(error, "cancelled"))
				throw new AppError("unavailable", "the blob took too long to be sent", { cause: error });
			throw error;
		} finally {
			this.#unfinished.delete(name);
		}
	}

	async #discard(name: string): Promise<void> {
		// Where the endpoint is away, it is the sweep's.
		await this.#bucket.remove(name, { signal: AbortSignal.timeout(15_000) }).catch(() => undefined);
	}

	#reader(entry: S3Entry, range: ByteRange | undefined, signal: AbortSignal): S3Reader {
		const name = this.#entries.dataName(entry.key, entry.object);
		const part = { name, etag: entry.etag, size: entry.size, ...boundsOf(range, entry.size) };
		const reader = new S3Reader(
			this.#bucket,
			part,
			signal,
			() => this.#missing(entry),
			(closed) => this.#readers.delete(closed),
		);
		this.#readers.add(reader);
		if (this.#closing.signal.aborted) reader.close(closedError());
		return reader;
	}

	/** What it means that an entry's data is not there, or is another's: the blob was deleted since, or is damaged. */
	async #missing(entry: S3Entry): Promise<AppError> {
		const current = await this.#entries.find(entry.key, { signal: this.#closing.signal });
		if (current?.object === entry.object) return damaged(entry.key);
		return new AppError("not_found", `blob ${entry.key} was deleted`);
	}

	#inner(call: Call): Call {
		if (this.#closing.signal.aborted) throw closedError();
		if (call.signal.aborted) throw cancelled(call.signal);
		return { signal: AbortSignal.any([call.signal, this.#closing.signal]) };
	}

	async #work<T>(call: Call, action: (inner: Call) => Promise<T>): Promise<T> {
		const work = action(this.#inner(call));
		this.#working.add(work);
		try {
			return await work;
		} finally {
			this.#working.delete(work);
		}
	}
}

function damaged(key: string): AppError {
	return new AppError("damaged", `blob ${key} is damaged: its bytes are not those that were stored`, {
		hint: "store it again",
	});
}

function closedError(): AppError {
	return new AppError("unavailable", "the blob store is closed");
}
