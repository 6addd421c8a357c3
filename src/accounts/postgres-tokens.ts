import type { Postgres } from "../postgres/pool.ts";
import type { TokenRecord, TokenStore } from "./tokens.ts";

/** Tokens in the database of the records, whose owner closes the connections. There are few: they are read at once. */
export class PostgresTokenStore implements TokenStore {
	readonly #postgres: Postgres;

	constructor(postgres: Postgres) {
		this.#postgres = postgres;
	}

	async get(id: string): Promise<TokenRecord | undefined> {
		const [row] = await this.#postgres.query<{ record: TokenRecord }>("SELECT record FROM token WHERE id = $1", [id]);
		return row?.record;
	}

	async put(record: TokenRecord): Promise<void> {
		await this.#postgres.query(
			"INSERT INTO token (id, record) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
			[record.id, JSON.stringify(record)],
		);
	}

	async *all(): AsyncIterable<TokenRecord> {
		const rows = await this.#postgres.query<{ record: TokenRecord }>("SELECT record FROM token ORDER BY id");
		for (const { record } of rows) yield record;
	}

	async delete(id: string): Promise<void> {
		await this.#postgres.query("DELETE FROM token WHERE id = $1", [id]);
	}
}
