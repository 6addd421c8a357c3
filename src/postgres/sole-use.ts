import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { AppError } from "../errors.ts";
import type { Postgres } from "./pool.ts";

export type SoleUseOptions = {
	readonly postgres: Postgres;
	/** Somebody else has the records now. Called once at most; nothing may be decided from then on. */
	readonly onLost: (why: AppError) => void;
	/** Milliseconds that a server which is just ending has to let go. Default 15,000. */
	readonly waitMs?: number;
};

const WAIT_MS = 15_000;
const RETRY_MS = 250;
/** PostgreSQL notices within 12 s that a server's machine is gone, and frees the records. */
const KEEPALIVE = "SET tcp_keepalives_idle = 6; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";

/**
 * Sees to it that one server alone works with a schema: by a lock that PostgreSQL holds for as long as a connection of its
 * own lives. After a lost connection it is taken again; what another server had meanwhile is lost.
 */
export class SoleUse implements AsyncDisposable {
	readonly #options: SoleUseOptions;
	readonly #closing = new AbortController();
	#client: pg.PoolClient | undefined;
	#holding: Promise<void> = Promise.resolve();

	private constructor(options: SoleUseOptions) {
		this.#options = options;
	}

	/** Rejects with `conflict` where another server works with the schema. */
	static async take(options: SoleUseOptions): Promise<SoleUse> {
		const use = new SoleUse(options);
		const until = performance.now() + (options.waitMs ?? WAIT_MS);
		while (!(await use.#try())) {
			if (performance.now() >= until) throw taken(options.postgres.schema);
			await delay(RETRY_MS);
		}
		return use;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closing.abort();
		await this.#holding;
		// The lock goes with the connection, whatever state that is in.
		this.#client?.release(true);
		this.#client = undefined;
	}

	async #try(): Promise<boolean> {
		const { postgres } = this.#options;
		const client = await postgres.connect();
		let held = false;
		try {
			await client.query(KEEPALIVE);
			const { rows } = await client.query<{ held: boolean }>(
				"SELECT pg_try_advisory_lock(hashtextextended('runtime-builds server of ' || $1, 0)) AS held",
				[postgres.schema],
			);
			held = rows[0]?.held === true;
		} finally {
			if (!held) client.release(true);
		}
		if (!held) return false;
		this.#client = client;
		const lost = () => {
			if (this.#client !== client || this.#closing.signal.aborted) return;
			this.#client = undefined;
			client.release(true);
			this.#holding = this.#again();
		};
		client.once("error", lost);
		client.once("end", lost);
		return true;
	}

	/** Until it has the lock again, or knows that somebody else has it. */
	async #again(): Promise<void> {
		const { signal } = this.#closing;
		while (!signal.aborted) {
			try {
				if (await this.#try()) return;
				return this.#options.onLost(taken(this.#options.postgres.schema));
			} catch {
				// PostgreSQL is away: nobody else can have the records either.
				await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
			}
		}
	}
}

function taken(schema: string): AppError {
	return new AppError("conflict", `another server works with the records in schema ${schema} of this database`, {
		field: "postgres",
		hint: "One server for each schema: end the other one, or name another with --postgres-schema.",
	});
}
