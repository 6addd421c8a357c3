import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { cancelled, isAppError } from "../../errors.ts";
import type { Call } from "../store.ts";
import type { Bucket } from "./bucket.ts";
import type { Entries, S3Entry } from "./entries.ts";
import type { S3Reader } from "./reader.ts";

/** Reads stored bytes again, and marks the entries whose bytes are not those that were stored. */
export class Scrub {
	readonly #entries: Entries;
	readonly #rate: number;
	readonly #read: (entry: S3Entry, signal: AbortSignal) => S3Reader;

	constructor(bucket: Bucket, entries: Entries, read: (entry: S3Entry, signal: AbortSignal) => S3Reader) {
		this.#entries = entries;
		this.#rate = bucket.settings.scrubRate;
		this.#read = read;
	}

	async *run(call: Call): AsyncGenerator<{ readonly key: string; readonly ok: boolean }, void, undefined> {
		for await (const key of this.#entries.keys("", call)) {
			const ok = await this.#verify(key, call);
			if (ok !== undefined) yield { key, ok };
		}
	}

	/** Undefined for a blob that was deleted meanwhile. */
	async #verify(key: string, call: Call): Promise<boolean | undefined> {
		const entry = await this.#entries.find(key, call);
		if (entry === undefined) return undefined;
		if (entry.damaged) return false;
		let finding = await this.#look(entry, call);
		// Bytes may have changed on their way here.
		if (finding === "other") finding = await this.#look(entry, call);
		if (finding === "gone") return undefined;
		if (finding === "same") return true;
		// Missing bytes need no mark: every reader notices them.
		if (finding === "other") await this.#entries.mark(entry, call);
		return false;
	}

	async #look(entry: S3Entry, { signal }: Call): Promise<"same" | "other" | "short" | "gone"> {
		const reader = this.#read(entry, signal);
		try {
			await reader.open();
			const hash = createHash("sha256");
			for await (const chunk of reader) {
				hash.update(chunk);
				await delay((chunk.length / this.#rate) * 1000, undefined, { signal });
			}
			return hash.digest("hex") === entry.sha256 ? "same" : "other";
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			if (isAppError(error, "not_found")) return "gone";
			if (isAppError(error, "damaged")) return "short";
			throw error;
		} finally {
			reader.close();
		}
	}
}
