import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { AppError } from "../errors.ts";
import { failure } from "./failures.ts";
import type { Postgres } from "./pool.ts";

export type SoleUseOptions = {
	readonly postgres: Postgres;
	/** Somebody else has the records now. Called once at most; nothing may be decided from then on. */
	readonly onLost: (why: AppError) => void;
	/** Milliseconds that a server which is just ending has to let go. Default 15,000. */
	readonly waitMs?: number;
	/** Milliseconds between two looks whether the connection lives. Default 5,000. */
	readonly checkMs?: number;
	/** Milliseconds that PostgreSQL has to answer one. Default 10,000. */
	readonly answerMs?: number;
};

const WAIT_MS = 15_000;
const RETRY_MS = 250;
const CHECK_MS = 5_000;
const ANSWER_MS = 10_000;
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
	/** The process of PostgreSQL's that has, or had last, the lock for us. */
	#backend: Backend | undefined;
	#holding: Promise<void> = Promise.resolve();
	#checks: NodeJS.Timeout | undefined;
	#asking = false;

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
		use.#checks = setInterval(() => void use.#ask(), options.checkMs ?? CHECK_MS).unref();
		return use;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closing.abort();
		clearInterval(this.#checks);
		await this.#holding;
		// The lock goes with the connection, whatever state that is in.
		this.#client?.release(true);
		this.#client = undefined;
	}

	async #try(): Promise<boolean> {
		const { postgres } = this.#options;
		const client = await postgres.connect();
		const lost = () => this.#lost(client);
		// From the first moment: a connection that breaks while nobody listens ends the whole process.
		client.on("error", lost);
		client.once("end", lost);
		let held = false;
		try {
			await client.query(KEEPALIVE);
			const { rows } = await client.query<Backend & { held: boolean }>(
				`SELECT pg_try_advisory_lock(hashtextextended('runtime-builds server of ' || $1, 0)) AS held, pid,
					backend_start::text AS since FROM pg_stat_activity WHERE pid = pg_backend_pid()`,
				[postgres.schema],
			);
			held = rows[0]?.held === true;
			if (held) this.#backend = rows[0];
		} catch (error) {
			throw failure(error, "PostgreSQL");
		} finally {
			if (!held) client.release(true);
		}
		if (!held) return false;
		this.#client = client;
		return true;
	}

	#lost(client: pg.PoolClient): void {
		if (this.#client !== client || this.#closing.signal.aborted) return;
		this.#client = undefined;
		client.release(true);
		this.#holding = this.#again();
	}

	/** A connection that something on the way forgot ends without a word: only a question shows it. */
	async #ask(): Promise<void> {
		const client = this.#client;
		if (client === undefined || this.#asking) return;
		this.#asking = true;
		const timer = setTimeout(() => this.#lost(client), this.#options.answerMs ?? ANSWER_MS);
		try {
			await client.query("SELECT 1");
		} catch {
			this.#lost(client);
		} finally {
			clearTimeout(timer);
			this.#asking = false;
		}
	}

	/** Until it has the lock again, or knows that somebody else has it. */
	async #again(): Promise<void> {
		const { signal } = this.#closing;
		while (!signal.aborted) {
			try {
				if (await this.#try()) return;
				if (await this.#endOurs()) continue;
				// Ours may have ended between the two.
				if (await this.#try()) return;
				return this.#options.onLost(taken(this.#options.postgres.schema));
			} catch {
				// PostgreSQL is away: nobody else can have the records either.
				await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
			}
		}
	}

	/** PostgreSQL may not know yet that the connection is gone, and hold the lock for nobody. True where it did. */
	async #endOurs(): Promise<boolean> {
		const { pid, since } = this.#backend ?? {};
		const ended = await this.#options.postgres.query(
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2::timestamptz",
			[pid, since],
		);
		if (ended.length > 0) await delay(RETRY_MS);
		return ended.length > 0;
	}
}

type Backend = { readonly pid: number; readonly since: string };

function taken(schema: string): AppError {
	return new AppError("conflict", `another server works with the records in schema ${schema} of this database`, {
		field: "postgres",
		hint: "One server for each schema: end the other one, or name another with --postgres-schema.",
	});
}
