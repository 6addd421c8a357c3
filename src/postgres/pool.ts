import { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { AppError, isAppError, messageOf } from "../errors.ts";
import { failure, isTransient, stateOf } from "./failures.ts";

export type PostgresOptions = {
	/** `postgres://USER@HOST/DATABASE`; what it does not say is read from PGUSER, PGPASSWORD, … as libpq does. */
	readonly url: string;
	/** Holds all tables; made where it does not exist. Letters, digits and `_`. */
	readonly schema?: string;
	/** Connections at the same time. Default 10. */
	readonly connections?: number;
	/** Milliseconds until a connection must be there. Default 5,000. */
	readonly connectMs?: number;
	/** Milliseconds that one statement may take. Default 30,000. */
	readonly statementMs?: number;
	/** Milliseconds more, until a server that does not answer at all is given up. Default 5,000. */
	readonly graceMs?: number;
	/** Milliseconds that PostgreSQL may take to take leave. Default 2,000. */
	readonly closeMs?: number;
	/** Told of connections that broke while nobody used them; they are replaced. */
	readonly report?: (error: unknown) => void;
};

export type Row = Readonly<Record<string, unknown>>;

/** Tries of a statement that another made impossible: a deadlock, a serialization failure. */
const ATTEMPTS = 5;
const BACKOFF_MS = 5;
const SCHEMA = /^[a-z_][a-z0-9_]{0,62}$/;
/** Any number: all servers that bring the tables up to date take the same lock. */
const MIGRATION_LOCK = 7_263_548_190;

/**
 * Connections to PostgreSQL. Each statement is a transaction of its own: one round trip, durable when it resolves. One that
 * rejects with `unavailable` may have happened all the same.
 */
export class Postgres implements AsyncDisposable {
	readonly schema: string;
	readonly #pool: pg.Pool;
	readonly #sockets: ReadonlySet<Socket>;
	readonly #closeMs: number;
	#closed: Promise<void> | undefined;

	private constructor(pool: pg.Pool, schema: string, sockets: ReadonlySet<Socket>, closeMs: number) {
		this.#pool = pool;
		this.schema = schema;
		this.#sockets = sockets;
		this.#closeMs = closeMs;
	}

	/**
	 * Connects, and brings the tables up to date: `migrations` are run once each, in their order, by one server at a time.
	 * Rejects with `unavailable` where PostgreSQL is not reached, with `invalid_argument` (field `postgres`) for what must be
	 * configured in another way.
	 */
	static async open(options: PostgresOptions, migrations: readonly string[]): Promise<Postgres> {
		const {
			schema = "runtime_builds",
			connections = 10,
			connectMs = 5_000,
			statementMs = 30_000,
			graceMs = 5_000,
			closeMs = 2_000,
		} = options;
		if (!SCHEMA.test(schema)) throw invalid(`${schema} is no name for a schema`, "Take letters, digits and _.");
		const { connectionString, asked } = checkedUrl(options.url);
		const sockets = new Set<Socket>();
		const pool = new pg.Pool({
			stream: () => {
				const socket = new Socket();
				sockets.add(socket);
				return socket.once("close", () => sockets.delete(socket));
			},
			connectionString,
			max: connections,
			connectionTimeoutMillis: connectMs,
			statement_timeout: statementMs,
			idle_in_transaction_session_timeout: statementMs,
			// Ends the wait for a server that is gone without a word.
			query_timeout: statementMs + graceMs,
			keepAlive: true,
			// Read committed, whatever the database is set to: collection relies on seeing what it waited for.
			options: `${asked} -c search_path=${schema} -c lock_timeout=${statementMs} -c default_transaction_isolation=read\\ committed`,
			application_name: "runtime-builds",
		});
		pool.on("error", (error) => options.report?.(error));
		const postgres = new Postgres(pool, schema, sockets, closeMs);
		try {
			await postgres.#check();
			await postgres.#migrate(migrations);
			return postgres;
		} catch (error) {
			await postgres[Symbol.asyncDispose]();
			throw isAppError(error) ? refused(error) : failure(error, "PostgreSQL");
		}
	}

	/** Rejects with `unavailable`, `no_space`, `conflict` (a unique key is taken) or `internal`. */
	async query<T extends Row = Row>(text: string, values: readonly unknown[] = []): Promise<T[]> {
		for (let attempt = 1; ; attempt++) {
			if (this.#closed !== undefined) throw new AppError("unavailable", "the connections to PostgreSQL are closed");
			try {
				return (await this.#pool.query<T>(text, [...values])).rows;
			} catch (error) {
				if (!isTransient(error) || attempt >= ATTEMPTS) throw failure(error, "PostgreSQL");
			}
			await delay(BACKOFF_MS * attempt ** 2);
		}
	}

	/** Runs `body` in one transaction, again where another made it impossible: it must do nothing but ask. */
	async transaction<T>(body: (query: Query) => Promise<T>): Promise<T> {
		for (let attempt = 1; ; attempt++) {
			try {
				return await this.#transaction(body);
			} catch (error) {
				if (isAppError(error)) throw error;
				if (!isTransient(error) || attempt >= ATTEMPTS) throw failure(error, "PostgreSQL");
			}
			await delay(BACKOFF_MS * attempt ** 2);
		}
	}

	/** A connection of its own for as long as it is wanted, for LISTEN and for locks of a session. The caller releases it. */
	async connect(): Promise<pg.PoolClient> {
		if (this.#closed !== undefined) throw new AppError("unavailable", "the connections to PostgreSQL are closed");
		return this.#pool.connect().catch((error: unknown) => {
			throw failure(error, "PostgreSQL");
		});
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closed ??= this.#close();
		await this.#closed;
	}

	/** The client waits for ever for a server that does not take leave, and its connections keep the process alive. */
	async #close(): Promise<void> {
		const timer = setTimeout(() => {
			for (const socket of this.#sockets) socket.destroy();
		}, this.#closeMs);
		try {
			await this.#pool.end();
			await Promise.all([...this.#sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve))));
		} finally {
			clearTimeout(timer);
		}
	}

	async #transaction<T>(body: (query: Query) => Promise<T>): Promise<T> {
		const client = await this.connect();
		let broken: Error | undefined;
		const lost = (error: Error) => {
			broken = error;
		};
		client.on("error", lost);
		try {
			await client.query("BEGIN");
			const result = await body(async (text, values = []) => (await client.query(text, [...values])).rows);
			await client.query("COMMIT");
			return result;
		} catch (error) {
			await client.query("ROLLBACK").catch((cause: Error) => lost(cause));
			throw error;
		} finally {
			client.off("error", lost);
			client.release(broken);
		}
	}

	/** What is acknowledged here must be durable there. */
	async #check(): Promise<void> {
		const [row] = await this.query<{ version: string; fsync: string; commit: string; encoding: string }>(
			`SELECT current_setting('server_version_num') AS version, current_setting('fsync') AS fsync,
				current_setting('synchronous_commit') AS commit, current_setting('server_encoding') AS encoding`,
		);
		if (row === undefined) throw new AppError("internal", "PostgreSQL did not say what it is");
		if (Number(row.version) < 130_000) throw invalid("PostgreSQL is older than 13", "Use 13 or newer.");
		// SQL_ASCII takes every byte as it is.
		if (!["UTF8", "SQL_ASCII"].includes(row.encoding))
			throw invalid(
				`the database's encoding is ${row.encoding}, which has not every character that programs print`,
				"CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'",
			);
		if (row.commit === "off")
			throw invalid(
				"synchronous_commit is off, so that PostgreSQL loses acknowledged changes when it crashes",
				"ALTER ROLE … SET synchronous_commit = on",
			);
		if (row.fsync === "off")
			throw invalid("fsync is off, so that PostgreSQL loses everything in a power cut", "Set fsync = on.");
	}

	async #migrate(migrations: readonly string[]): Promise<void> {
		const { schema } = this;
		await this.transaction(async (query) => {
			await query(`SELECT pg_advisory_xact_lock(${MIGRATION_LOCK})`);
			// Not asked for where it is there: a role may use a schema without the right to make one.
			const [found] = await query("SELECT 1 FROM pg_namespace WHERE nspname = $1", [schema]);
			if (found === undefined) await query(`CREATE SCHEMA ${schema}`);
			await query("CREATE TABLE IF NOT EXISTS migration (number integer PRIMARY KEY)");
			const [{ done } = {}] = await query("SELECT coalesce(max(number), 0) AS done FROM migration");
			if (Number(done) > migrations.length)
				throw invalid(
					`the tables in schema ${schema} are of a newer version of this server (${done}; this one knows ${migrations.length})`,
					"Start the newer version.",
				);
			for (const [index, migration] of migrations.entries()) {
				if (index + 1 <= Number(done)) continue;
				await query(migration);
				await query("INSERT INTO migration VALUES ($1)", [index + 1]);
			}
		}).catch((error: unknown) => {
			// 3F000: it may not even look into a schema that is there.
			if (["42501", "3F000"].includes(stateOf(isAppError(error) ? error.cause : error) ?? ""))
				throw invalid(
					`this role may not make tables in schema ${schema}: ${messageOf(error)}`,
					`CREATE SCHEMA ${schema} AUTHORIZATION the role`,
				);
			throw error;
		});
	}
}

export type Query = (text: string, values?: readonly unknown[]) => Promise<Row[]>;

function invalid(message: string, hint: string): AppError {
	return new AppError("invalid_argument", message, { field: "postgres", hint });
}

/** Who starts a server with the wrong user, password or database must not wait until it comes right. */
function refused(error: AppError): AppError {
	const state = stateOf(error.cause);
	if (state?.startsWith("28"))
		return invalid(error.message, "Check the user, PGPASSWORD or ~/.pgpass, and pg_hba.conf.");
	if (state === "3D000") return invalid(error.message, "Create the database, or name another: CREATE DATABASE …");
	return error;
}

/** What to connect to, and the `options` it asks for, which would replace ours. Never repeats the URL: it may hold a password. */
function checkedUrl(text: string): { readonly connectionString: string; readonly asked: string } {
	const url = URL.canParse(text) ? new URL(text) : null;
	if (url === null || !/^postgres(ql)?:$/.test(url.protocol))
		throw invalid("this is no URL of a PostgreSQL database", "Write postgres://USER@HOST:5432/DATABASE.");
	const asked = url.searchParams.getAll("options").join(" ");
	if (asked === "") return { connectionString: text, asked };
	url.searchParams.delete("options");
	return { connectionString: url.href, asked };
}
