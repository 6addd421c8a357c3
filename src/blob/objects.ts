import { type FileHandle, open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { AppError, systemCode } from "../errors.ts";
import type { Database } from "../leveldb/database.ts";
import { failure } from "../leveldb/failures.ts";
import { decodeEntry, type Entry, parseEntry } from "./entry.ts";
import { removeFile } from "./object-writer.ts";

/** The index and the files that its entries name. */
export class Objects {
	readonly index: Database;
	readonly #folder: string;

	/** `folder` is the store's. */
	constructor(folder: string, index: Database) {
		this.#folder = join(folder, "objects");
		this.index = index;
	}

	path(object: string): string {
		return join(this.#folder, object.slice(0, 2), object);
	}

	async find(key: string): Promise<Entry | undefined> {
		const text = await this.index.get(`b/${key}`);
		return text === undefined ? undefined : decodeEntry(key, parseEntry(key, text));
	}

	/** Rejects with `not_found`. */
	async entry(key: string): Promise<Entry> {
		const entry = await this.find(key);
		if (entry === undefined) throw new AppError("not_found", `there is no blob ${key}`);
		return entry;
	}

	/** Undefined where the file is missing. */
	async open(entry: Entry): Promise<FileHandle | undefined> {
		try {
			return await open(this.path(entry.object), "r");
		} catch (error) {
			if (systemCode(error) === "ENOENT") return undefined;
			throw failure(error, `cannot open blob ${entry.key}`);
		}
	}

	/**
	 * Removes files that no entry refers to: a crash between rename and index, or between index and unlink, leaves one. Those of
	 * `unfinished` are left alone. Resolves with how many it removed.
	 */
	async sweep(unfinished: ReadonlySet<string>, signal: AbortSignal): Promise<number> {
		let removed = 0;
		for (const shard of await readdir(this.#folder)) {
			for (const object of await readdir(join(this.#folder, shard))) {
				signal.throwIfAborted();
				// In this order: a put that ends between the two questions is in the index by then.
				if (unfinished.has(object) || (await this.index.get(`o/${object}`)) !== undefined) continue;
				await removeFile(join(this.#folder, shard, object));
				removed++;
			}
		}
		return removed;
	}
}
