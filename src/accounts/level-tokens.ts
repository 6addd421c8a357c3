import type { Database } from "../leveldb/database.ts";
import type { TokenRecord, TokenStore } from "./tokens.ts";

const key = (id: string) => `token!${id}`;

/** Tokens in the database of the records, which its owner closes. */
export class LevelTokenStore implements TokenStore {
	readonly #database: Database;

	constructor(database: Database) {
		this.#database = database;
	}

	async get(id: string): Promise<TokenRecord | undefined> {
		const value = await this.#database.get(key(id));
		return value === undefined ? undefined : JSON.parse(value);
	}

	async put(record: TokenRecord): Promise<void> {
		await this.#database.commit([{ put: key(record.id), value: JSON.stringify(record) }]);
	}

	async *all(): AsyncIterable<TokenRecord> {
		for await (const [, value] of this.#database.range({ gt: "token!", lt: 'token"' })) yield JSON.parse(value);
	}

	async delete(id: string): Promise<void> {
		await this.#database.commit([{ delete: key(id) }]);
	}
}
