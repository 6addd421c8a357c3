import { AppError, isAppError } from "../../errors.ts";
import { decodeEntry, type Entry, parseEntry, unreadable } from "../entry.ts";
import type { Call } from "../store.ts";
import type { Bucket, Conditions } from "./bucket.ts";
import { isRefusal } from "./failures.ts";
import { decodeKey, encodeKey, encodePrefix } from "./names.ts";

/** `object` is the last part of the name of its data object. */
export type S3Entry = Entry & {
	/** The data object's, empty where the endpoint gives none. */
	readonly etag: string;
};

/** `unknown`: it may be there, or still come to be, and the data object must stay. */
export type Insertion = { readonly stored: "yes" } | { readonly stored: "no" | "unknown"; readonly error: unknown };

const INSERT_TRIES = 3;

/** The index: one small object for each key. A blob exists if and only if its key's is there. */
export class Entries {
	readonly #bucket: Bucket;
	readonly #root: string;
	readonly #dataRoot: string;
	/** Whether the endpoint heeds `If-None-Match: *` and `If-Match`. */
	readonly #conditional: { readonly create: boolean; readonly replace: boolean };

	constructor(bucket: Bucket, conditional: { readonly create: boolean; readonly replace: boolean }) {
		this.#bucket = bucket;
		this.#root = `${bucket.settings.prefix}index/`;
		this.#dataRoot = `${bucket.settings.prefix}data/`;
		this.#conditional = conditional;
	}

	dataName(key: string, object: string): string {
		return `${this.#dataRoot}${encodeKey(key)}/${object}`;
	}

	async find(key: string, call: Call): Promise<S3Entry | undefined> {
		return (await this.#read(key, call))?.entry;
	}

	/** Rejects with `not_found`. */
	async get(key: string, call: Call): Promise<S3Entry> {
		const entry = await this.find(key, call);
		if (entry === undefined) throw new AppError("not_found", `there is no blob ${key}`);
		return entry;
	}

	/** In ascending order; rejects with `internal` if the endpoint lists in another. */
	async *keys(prefix: string, call: Call): AsyncGenerator<string, void, undefined> {
		let last = "";
		for await (const { name } of this.#bucket.list(`${this.#root}${encodePrefix(prefix)}`, call)) {
			const key = decodeKey(name.slice(this.#root.length));
			if (key === undefined) continue;
			if (key <= last) throw new AppError("internal", "the S3 endpoint does not list names in their order");
			last = key;
			yield key;
		}
	}

	/** Makes the blob seen, unless its key exists. Not to be cancelled: whoever begins it has to know its end. */
	async insert(entry: S3Entry): Promise<Insertion> {
		const call = { signal: AbortSignal.timeout(INSERT_TRIES * this.#bucket.settings.smallRequestTimeout) };
		let doubt = false;
		let error: unknown;
		for (let tries = 0; tries < INSERT_TRIES; tries++) {
			try {
				await this.#create(entry, call);
				return { stored: "yes" };
			} catch (failure) {
				error = failure;
			}
			if (isRefusal(error)) return { stored: doubt ? "unknown" : "no", error };
			doubt ||= isAppError(error, "unavailable") || isAppError(error, "cancelled");
			// Its answer was lost, or an earlier try of ours came through after all, or another was first.
			const current = await this.find(entry.key, call).catch((failure: unknown) => ({ failure }));
			if (current === undefined) continue;
			if ("failure" in current) break;
			return current.object === entry.object ? { stored: "yes" } : { stored: "no", error: exists(entry.key) };
		}
		const message = `it is not known whether blob ${entry.key} was stored: the S3 endpoint did not say`;
		return { stored: "unknown", error: new AppError("unavailable", message, { cause: error }) };
	}

	/** Marks the blob as damaged if it is still this one. False where the endpoint cannot make sure of that. */
	async mark(entry: S3Entry, call: Call): Promise<boolean> {
		if (!this.#conditional.replace) return false;
		const current = await this.#read(entry.key, call);
		if (current?.entry.object !== entry.object || current.etag === "") return false;
		try {
			await this.#put({ ...entry, damaged: true }, call, { ifMatch: current.etag });
			return true;
		} catch (error) {
			const changed = isAppError(error, "precondition_failed") || isAppError(error, "conflict");
			if (changed || isAppError(error, "not_found")) return false;
			throw error;
		}
	}

	async remove(key: string, call: Call): Promise<void> {
		await this.#bucket.remove(`${this.#root}${encodeKey(key)}`, call);
	}

	async #create(entry: S3Entry, call: Call): Promise<void> {
		if (this.#conditional.create) {
			await this.#put(entry, call, { ifNoneMatch: "*" });
			return;
		}
		const current = await this.find(entry.key, call);
		if (current !== undefined) {
			if (current.object !== entry.object) throw exists(entry.key);
			return;
		}
		await this.#put(entry, call, {});
		// Whoever came between has overwritten ours.
		if ((await this.find(entry.key, call))?.object !== entry.object) throw exists(entry.key);
	}

	async #put(entry: S3Entry, call: Call, conditions: Conditions): Promise<void> {
		const { object, size, sha256, createdAt, etag, damaged } = entry;
		const content = JSON.stringify({ object, size, sha256, createdAt, etag, damaged });
		await this.#bucket.put(`${this.#root}${encodeKey(entry.key)}`, content, call, conditions);
	}

	async #read(key: string, call: Call): Promise<{ readonly entry: S3Entry; readonly etag: string } | undefined> {
		try {
			const { content, etag } = await this.#bucket.read(`${this.#root}${encodeKey(key)}`, call);
			return { entry: decode(key, content), etag };
		} catch (error) {
			if (isAppError(error, "not_found")) return undefined;
			throw error;
		}
	}
}

export function exists(key: string): AppError {
	return new AppError("conflict", `blob ${key} exists already, and blobs cannot be changed`);
}

/** Rejects with `internal` what this version cannot read. */
function decode(key: string, content: string): S3Entry {
	const value = parseEntry(key, content);
	if ("etag" in value && typeof value.etag === "string") return { ...decodeEntry(key, value), etag: value.etag };
	throw unreadable(key);
}
