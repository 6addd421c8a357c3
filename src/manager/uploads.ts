import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { type SourceRecord, sourceKey } from "./model.ts";
import type { ServiceStore } from "./store.ts";

export type UploadsDeps = {
	readonly store: ServiceStore;
	readonly blobs: Blobs;
	/** A new unique id, of letters, digits and `-`. */
	readonly newId: () => string;
};

/** Takes sources: bytes first, then the record that makes them one. */
export class Uploads {
	readonly #deps: UploadsDeps;
	/** From before a blob exists until its record does, or never will. */
	readonly #underWay = new Set<string>();

	constructor(deps: UploadsDeps) {
		this.#deps = deps;
	}

	/** Whether this blob is being written or recorded by this server; once it is not, it never will be again. */
	isUnderWay(namespace: string, key: string): boolean {
		return this.#underWay.has(`${namespace}/${key}`);
	}

	/** Streams an archive into the namespace's blobs; resolves when it is on disk and can be used by a create. */
	async take(
		namespace: string,
		body: AsyncIterable<Uint8Array>,
		options: Call & { readonly maxBytes: number; readonly sha256?: string },
	): Promise<SourceRecord> {
		const id = this.#deps.newId();
		const key = sourceKey(id);
		const mark = `${namespace}/${key}`;
		this.#underWay.add(mark);
		try {
			failpoint("manager.upload_begun");
			const { sha256, size, createdAt } = await this.#deps.blobs.in(namespace).put(key, body, options);
			return await this.#record({ namespace, id, sha256, size, createdAt }, key);
		} finally {
			this.#underWay.delete(mark);
		}
	}

	async #record(record: SourceRecord, key: string): Promise<SourceRecord> {
		try {
			failpoint("manager.upload_stored");
			await this.#deps.store.putSource(record);
		} catch (error) {
			if (!mayHaveHappened(error)) await this.#remove(record.namespace, key);
			throw error;
		}
		failpoint("manager.upload_recorded");
		return record;
	}

	async #remove(namespace: string, key: string): Promise<void> {
		try {
			await this.#deps.blobs.in(namespace).delete(key, { signal: new AbortController().signal });
		} catch {
			// Why the upload failed matters to its client; this blob has no record, and a sweep takes it.
		}
	}
}

/** As the store promises: any other error means that nothing was recorded. */
function mayHaveHappened(error: unknown): boolean {
	return isAppError(error, "unavailable") || isAppError(error, "no_space");
}
