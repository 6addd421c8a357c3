import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { cancelled, isAppError } from "../errors.ts";
import type { Turns } from "../turns.ts";
import { type Entry, encodeEntry } from "./entry.ts";
import { ObjectReader } from "./object-reader.ts";
import type { Objects } from "./objects.ts";
import type { Call } from "./store.ts";

const PAGE = 100;

/** Reads stored bytes again, and marks the entries whose bytes are not those that were stored. */
export class Scrub {
	readonly #objects: Objects;
	readonly #turns: Turns;
	readonly #rate: number;

	/** `turns` are those of whoever changes a key's entry; `rate` is in bytes a second. */
	constructor(objects: Objects, turns: Turns, rate: number) {
		this.#objects = objects;
		this.#turns = turns;
		this.#rate = rate;
	}

	async *run(call: Call): AsyncGenerator<{ readonly key: string; readonly ok: boolean }, void, undefined> {
		let after = "b/";
		for (;;) {
			// In pages, so that no snapshot is held for hours.
			const page: string[] = [];
			for await (const [key] of this.#objects.index.range({ gt: after, lt: "b/\x7f", limit: PAGE }))
				page.push(key.slice(2));
			for (const key of page) {
				if (call.signal.aborted) throw cancelled(call.signal);
				const ok = await this.#verify(key, call);
				if (ok !== undefined) yield { key, ok };
				after = `b/${key}`;
			}
			if (page.length < PAGE) return;
		}
	}

	/** Undefined for a blob that was deleted meanwhile. */
	async #verify(key: string, call: Call): Promise<boolean | undefined> {
		const entry = await this.#objects.find(key);
		if (entry === undefined) return undefined;
		if (entry.damaged) return false;
		if ((await this.#hashOf(entry, call)) === entry.sha256) return true;
		return this.#turns.inTurn(key, async () => {
			const current = await this.#objects.find(key);
			if (current?.object !== entry.object) return undefined;
			await this.#objects.index.commit([{ put: `b/${key}`, value: encodeEntry({ ...entry, damaged: true }) }]);
			return false;
		});
	}

	/** Undefined if the file is missing, has another size or cannot be read. */
	async #hashOf(entry: Entry, { signal }: Call): Promise<string | undefined> {
		const handle = await this.#objects.open(entry);
		if (handle === undefined) return undefined;
		const reader = new ObjectReader(handle, { start: 0, end: entry.size }, signal, () => undefined);
		try {
			if ((await handle.stat()).size !== entry.size) return undefined;
			const hash = createHash("sha256");
			for await (const chunk of reader) {
				hash.update(chunk);
				await delay((chunk.length / this.#rate) * 1000, undefined, { signal });
			}
			return hash.digest("hex");
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			if (isAppError(error, "damaged") || isAppError(error, "internal")) return undefined;
			throw error;
		} finally {
			await reader.close();
		}
	}
}
