import { randomUUID } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { AppError, cancelled, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { Database, type DatabaseOptions } from "../leveldb/database.ts";
import { failure } from "../leveldb/failures.ts";
import { makeFolder } from "../leveldb/folders.ts";
import { Reserve } from "../leveldb/reserve.ts";
import { Turns } from "../turns.ts";
import { cancellable } from "./cancellable.ts";
import { Digester } from "./digester.ts";
import { boundsOf, type Entry, encodeEntry, infoOf } from "./entry.ts";
import { ObjectReader } from "./object-reader.ts";
import { ObjectWriter, removeFile } from "./object-writer.ts";
import { Objects } from "./objects.ts";
import { Scrub } from "./scrub.ts";
import type { BlobInfo, BlobStore, ByteRange, Call } from "./store.ts";

export type LevelBlobStoreOptions = {
	readonly database?: DatabaseOptions;
	/** Default the wall clock. */
	readonly now?: () => Date;
	/** Makes file names: unique, `[a-z0-9-]`, at least two characters. Default a random UUID. */
	readonly unique?: () => string;
	/** Bytes that must stay free on the disk; `put` rejects with `no_space` before. Default 64 MiB, 0 for none. */
	readonly reserve?: number;
	/** How fast the scrub reads, bytes a second. Default 32 MiB. */
	readonly scrubRate?: number;
};

const DEFAULT_RESERVE = 64 * 1024 * 1024;

/**
 * Blobs on one machine: the index in a Database, the bytes in files beside it, because LevelDB holds a whole value in memory.
 * `index/` the database · `objects/ab/<unique>` the bytes · `temporary/` what is being written.
 * In the index `b/<key>` holds a blob's entry, and `o/<unique>` names the key whose file that is.
 */
export class LevelBlobStore implements BlobStore {
	readonly #folder: string;
	readonly #objects: Objects;
	readonly #now: () => Date;
	readonly #unique: () => string;
	readonly #scrubRate: number;
	readonly #reserve: Reserve;
	readonly #digester = new Digester();
	readonly #closing = new AbortController();
	/** Files of puts that are under way: the sweep leaves them alone. */
	readonly #unfinished = new Set<string>();
	/** Whoever checks a key's entry in order to change it holds the key meanwhile. */
	readonly #turns = new Turns();
	readonly #readers = new Set<ObjectReader>();
	readonly #puts = new Set<Promise<unknown>>();
	#swept: Promise<number> = Promise.resolve(0);
	#closed: Promise<void> | undefined;

	private constructor(folder: string, index: Database, options: LevelBlobStoreOptions) {
		this.#folder = folder;
		this.#objects = new Objects(folder, index);
		this.#now = options.now ?? (() => new Date());
		this.#unique = options.unique ?? randomUUID;
		this.#reserve = new Reserve(folder, options.reserve ?? DEFAULT_RESERVE);
		this.#scrubRate = options.scrubRate ?? 32 * 1024 * 1024;
	}

	/** Opens or creates a store. Rejects as Database.open does. Starts a sweep in the background. */
	static async open(folder: string, options: LevelBlobStoreOptions = {}): Promise<LevelBlobStore> {
		const index = await Database.open(join(folder, "index"), options.database);
		try {
			await makeFolder(join(folder, "objects"));
			const temporary = join(folder, "temporary");
			await makeFolder(temporary);
			for (const name of await readdir(temporary)) await removeFile(join(temporary, name));
		} catch (error) {
			await index[Symbol.asyncDispose]();
			throw failure(error, `cannot open the blob store in ${folder}`);
		}
		const store = new LevelBlobStore(folder, index, options);
		store.#swept = store.#objects.sweep(store.#unfinished, store.#closing.signal);
		// Whoever wants to know asks `swept`; a sweep that failed is repeated at the next opening.
		store.#swept.catch(() => undefined);
		return store;
	}

	/** The number of files without an entry that the sweep after the opening removed; rejects if it failed or was cut short. */
	get swept(): Promise<number> {
		return this.#swept;
	}

	put(key: string, body: AsyncIterable<Uint8Array>, call: Call): Promise<BlobInfo> {
		const put = this.#put(key, body, call);
		this.#puts.add(put);
		const forget = () => this.#puts.delete(put);
		put.then(forget, forget);
		return put;
	}

	async get(key: string, call: Call & { readonly range?: ByteRange }): Promise<AsyncIterable<Uint8Array>> {
		this.#check(call);
		for (;;) {
			const entry = await this.#objects.entry(key);
			if (entry.damaged) throw damaged(key);
			const bounds = boundsOf(call.range, entry.size);
			const handle = await this.#objects.open(entry);
			if (handle === undefined) {
				// Deleted since the index was read, or really missing.
				if ((await this.#objects.entry(key)).object === entry.object) throw damaged(key);
				continue;
			}
			try {
				if ((await handle.stat()).size !== entry.size) throw damaged(key);
				this.#check(call);
			} catch (error) {
				await handle.close();
				throw failure(error, `cannot read blob ${key}`);
			}
			const reader = new ObjectReader(handle, bounds, call.signal, (closed) => this.#readers.delete(closed));
			this.#readers.add(reader);
			return reader;
		}
	}

	async stat(key: string, call: Call): Promise<BlobInfo> {
		this.#check(call);
		return infoOf(await this.#objects.entry(key));
	}

	async *list(prefix: string, call: Call): AsyncGenerator<string, void, undefined> {
		this.#check(call);
		// No character of a key sorts after DEL.
		for await (const [key] of this.#objects.index.range({ gte: `b/${prefix}`, lt: `b/${prefix}\x7f` })) {
			this.#check(call);
			yield key.slice(2);
		}
	}

	async delete(key: string, call: Call): Promise<void> {
		this.#check(call);
		await this.#turns.inTurn(key, async () => {
			const entry = await this.#objects.find(key);
			if (entry === undefined) return;
			await this.#objects.index.commit([{ delete: `b/${key}` }, { delete: `o/${entry.object}` }]);
			await removeFile(this.#objects.path(entry.object));
		});
	}

	/**
	 * Reads every blob again, slowly (`scrubRate`), and says whether its bytes still have the hash of its entry. One that has
	 * not is quarantined: `get` rejects with `damaged` from then on, until it is deleted. The caller decides when.
	 */
	async *scrub(call: Call): AsyncGenerator<{ readonly key: string; readonly ok: boolean }, void, undefined> {
		const scrub = new Scrub(this.#objects, this.#turns, this.#scrubRate);
		const signal = AbortSignal.any([call.signal, this.#closing.signal]);
		yield* scrub.run({ signal });
	}

	/** Uploads that are under way are cancelled, readers end with `unavailable`. */
	[Symbol.asyncDispose](): Promise<void> {
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async #close(): Promise<void> {
		const reason = closedError();
		this.#closing.abort(reason);
		await Promise.allSettled([...this.#puts, this.#swept, ...[...this.#readers].map((reader) => reader.close(reason))]);
		await this.#turns.settled();
		await this.#digester[Symbol.asyncDispose]();
		await this.#objects.index[Symbol.asyncDispose]();
	}

	async #put(key: string, body: AsyncIterable<Uint8Array>, call: Call): Promise<BlobInfo> {
		this.#check(call);
		if ((await this.#objects.find(key)) !== undefined) throw exists(key);
		const object = this.#unique();
		this.#unfinished.add(object);
		try {
			const writer = await ObjectWriter.open(join(this.#folder, "temporary", object), this.#digester);
			let tried = false;
			try {
				failpoint("blob.temp_open");
				const signal = AbortSignal.any([call.signal, this.#closing.signal]);
				for await (const chunk of cancellable(body, signal)) {
					await this.#reserve.take(chunk.length);
					await writer.write(chunk);
				}
				const written = await writer.finish(this.#objects.path(object));
				if (signal.aborted) throw cancelled(signal);
				const entry: Entry = { key, object, ...written, createdAt: this.#now().toISOString(), damaged: false };
				tried = true;
				await this.#turns.inTurn(key, () => this.#insert(entry));
				failpoint("blob.after_index");
				return infoOf(entry);
			} catch (error) {
				// After a failed write only the reopened index knows whether the entry is there, and then the file must stay.
				const stored = tried ? await this.#outcome(key, object) : "no";
				if (stored === "no") await writer.discard();
				else await writer.close();
				if (typeof stored === "object") return infoOf(stored);
				throw error;
			}
		} finally {
			this.#unfinished.delete(object);
		}
	}

	async #insert(entry: Entry): Promise<void> {
		if ((await this.#objects.find(entry.key)) !== undefined) throw exists(entry.key);
		await this.#objects.index.commit([
			{ put: `b/${entry.key}`, value: encodeEntry(entry) },
			{ put: `o/${entry.object}`, value: entry.key },
		]);
	}

	/** Whether the index holds this file's entry after all. */
	async #outcome(key: string, object: string): Promise<Entry | "no" | "unknown"> {
		try {
			const entry = await this.#objects.find(key);
			return entry?.object === object ? entry : "no";
		} catch (error) {
			if (!isAppError(error)) throw error;
			return "unknown";
		}
	}

	#check(call: Call): void {
		if (this.#closing.signal.aborted) throw closedError();
		if (call.signal.aborted) throw cancelled(call.signal);
	}
}

function exists(key: string): AppError {
	return new AppError("conflict", `blob ${key} exists already, and blobs cannot be changed`);
}

function damaged(key: string): AppError {
	return new AppError("damaged", `blob ${key} is damaged: its bytes are not those that were stored`, {
		hint: "store it again",
	});
}

function closedError(): AppError {
	return new AppError("unavailable", "the blob store is closed");
}
