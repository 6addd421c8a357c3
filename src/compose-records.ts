import type { Logger } from "pino";
import { LevelTokenStore } from "./accounts/level-tokens.ts";
import type { TokenStore } from "./accounts/tokens.ts";
import type { Config } from "./config.ts";
import { AppError, messageOf } from "./errors.ts";
import { Database } from "./leveldb/database.ts";
import { LevelServiceStore } from "./manager/level-store.ts";
import type { ServiceStore } from "./manager/store.ts";

export type Records = { readonly store: ServiceStore; readonly tokens: TokenStore };

/** How long PostgreSQL may take to be there when the server starts: the two may have been started together. */
const PATIENCE_MS = 30_000;
const RETRY_MS = 500;

/** The records and tokens: in LevelDB in `folder`, or in PostgreSQL. Each part is handed to `own`, to be closed with the rest. */
export async function openRecords(
	config: Config,
	folder: string,
	log: Logger,
	own: <T extends AsyncDisposable>(resource: T) => T,
	lost: (why: AppError) => void,
): Promise<Records> {
	if (config.postgres !== null) return openPostgres(config.postgres, config, log, own, lost);
	const database = await Database.open(folder, { acceptLoss: config.acceptLoss });
	return { store: own(new LevelServiceStore(database)), tokens: new LevelTokenStore(database) };
}

async function openPostgres(
	url: string,
	config: Config,
	log: Logger,
	own: <T extends AsyncDisposable>(resource: T) => T,
	lost: (why: AppError) => void,
): Promise<Records> {
	// Loaded where they are wanted alone: the embedded default starts without PostgreSQL's client.
	const [{ Postgres }, { SoleUse }, { MIGRATIONS }, { PostgresServiceStore }, { PostgresTokenStore }] =
		await Promise.all([
			import("./postgres/pool.ts"),
			import("./postgres/sole-use.ts"),
			import("./postgres/migrations.ts"),
			import("./manager/postgres-store.ts"),
			import("./accounts/postgres-tokens.ts"),
		]);
	const report = (error: unknown) => log.warn({ why: messageOf(error) }, "a connection to PostgreSQL broke");
	const options = { url, schema: config.postgresSchema, report };
	const postgres = await patiently(() => Postgres.open(options, MIGRATIONS), log);
	const store = own(new PostgresServiceStore(postgres));
	const onLost = (why: AppError) => {
		// Ending puts builds back, in records that are another's by then.
		void postgres[Symbol.asyncDispose]();
		lost(why);
	};
	own(await SoleUse.take({ postgres, onLost }));
	return { store, tokens: new PostgresTokenStore(postgres) };
}

async function patiently<T>(open: () => Promise<T>, log: Logger): Promise<T> {
	for (const until = performance.now() + PATIENCE_MS; ; ) {
		try {
			return await open();
		} catch (error) {
			const away = error instanceof AppError && error.code === "unavailable";
			if (!away || performance.now() >= until) throw error;
			log.warn({ why: messageOf(error) }, "PostgreSQL is not reached yet");
		}
		await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
	}
}
