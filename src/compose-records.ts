import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import { LevelTokenStore } from "./accounts/level-tokens.ts";
import type { TokenStore } from "./accounts/tokens.ts";
import type { Config } from "./config.ts";
import { AppError, messageOf } from "./errors.ts";
import { Database } from "./leveldb/database.ts";
import { LevelServiceStore } from "./manager/level-store.ts";
import type { ServiceStore } from "./manager/store.ts";
import { patiently } from "./patience.ts";

export type Records = {
	readonly store: ServiceStore;
	readonly tokens: TokenStore;
	/** Unique; made with the records, and theirs for ever. */
	readonly id: string;
};

/** Below no kind of record. */
const ID_KEY = "records-id";

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
	const store = own(new LevelServiceStore(database));
	return { store, tokens: new LevelTokenStore(database), id: await idOf(database) };
}

async function idOf(database: Database): Promise<string> {
	const known = await database.get(ID_KEY);
	if (known !== undefined) return known;
	const id = randomUUID();
	await database.commit([{ put: ID_KEY, value: id }]);
	return id;
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
	const postgres = await patiently("PostgreSQL", () => Postgres.open(options, MIGRATIONS), log);
	const store = own(new PostgresServiceStore(postgres));
	const onLost = (why: AppError) => {
		// Ending puts builds back, in records that are another's by then.
		void postgres[Symbol.asyncDispose]();
		lost(why);
	};
	own(await SoleUse.take({ postgres, onLost }));
	await postgres.query("INSERT INTO records_id (id) VALUES ($1) ON CONFLICT DO NOTHING", [randomUUID()]);
	const [row] = await postgres.query<{ id: string }>("SELECT id FROM records_id");
	if (row === undefined) throw new AppError("internal", "the records in PostgreSQL have no id");
	return { store, tokens: new PostgresTokenStore(postgres), id: row.id };
}
