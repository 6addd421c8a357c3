import type { Database, Operation } from "../leveldb/database.ts";
import type { TokenRecord, TokenStore } from "./tokens.ts";

const key = (id: string) => `token!${id}`;

/** Records of tokens kept at hand: every request asks for one. */
const KEPT = 1_000;

/** Tokens in the database of the records, which its owner closes. Nobody else writes them there. */
export class LevelTokenStore implements TokenStore {
	readonly #database: Database;
	/** The longest kept first. */
	readonly #kept = new Map<string, TokenRecord>();
	/** Grows with every change, before and after it: what was read meanwhile may be out of date, and is not kept. */
	#changes = 0;

	constructor(database: Database) {
		this.#database = database;
	}

	async get(id: string): Promise<TokenRecord | undefined> {
		const kept = this.#kept.get(id);
		if (kept !== undefined) return kept;
		const changes = this.#changes;
		const value = await this.#database.get(key(id));
		if (value === undefined) return undefined;
		const record: TokenRecord = JSON.parse(value);
		if (changes === this.#changes) this.#keep(record);
		return record;
	}

	put(record: TokenRecord): Promise<void> {
		return this.#change(record.id, { put: key(record.id), value: JSON.stringify(record) });
	}

	async *all(): AsyncIterable<TokenRecord> {
		for await (const [, value] of this.#database.range({ gt: "token!", lt: 'token"' })) yield JSON.parse(value);
	}

	delete(id: string): Promise<void> {
		return this.#change(id, { delete: key(id) });
	}

	/** From the moment in which it begins, and whatever becomes of it, the database alone says what is so. */
	async #change(id: string, operation: Operation): Promise<void> {
		this.#forget(id);
		try {
			await this.#database.commit([operation]);
		} finally {
			this.#forget(id);
		}
	}

	#forget(id: string): void {
		this.#changes++;
		this.#kept.delete(id);
	}

	#keep(record: TokenRecord): void {
		const [oldest] = this.#kept.keys();
		if (this.#kept.size >= KEPT && oldest !== undefined) this.#kept.delete(oldest);
		this.#kept.set(record.id, record);
	}
}
