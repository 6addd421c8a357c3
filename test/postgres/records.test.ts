import { setTimeout as delay } from "node:timers/promises";
import { pino } from "pino";
import t from "tap";
import { openRecords } from "../../src/compose-records.ts";
import { loadConfig } from "../../src/config.ts";
import type { AppError } from "../../src/errors.ts";
import { MIGRATIONS } from "../../src/postgres/migrations.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { SoleUse } from "../../src/postgres/sole-use.ts";
import { PostgresHost } from "../hosts/postgres.ts";

const HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";

t.test(
	"whoever lost the records to another server changes nothing more",
	{
		skip: await PostgresHost.missing(),
	},
	async (t) => {
		const host = await PostgresHost.start();
		t.teardown(() => host.stop());
		const url = await host.database("taken");
		const opened: AsyncDisposable[] = [];
		t.teardown(async () => {
			for (const resource of opened.reverse()) await resource[Symbol.asyncDispose]();
		});
		const own = <T extends AsyncDisposable>(resource: T): T => {
			opened.push(resource);
			return resource;
		};
		const lost = Promise.withResolvers<AppError>();
		const config = loadConfig(["--postgres", url], {});
		const { tokens } = await openRecords(config, "unused", pino({ level: "silent" }), own, lost.resolve);
		const token = { id: "a", hash: "", account: { name: "a", namespace: "a", administrator: false }, createdAt: "" };
		await tokens.put(token);
		const other = own(await Postgres.open({ url }, MIGRATIONS));
		const heir = SoleUse.take({ postgres: other, onLost: () => undefined });
		heir.then(own, () => undefined);
		let over = false;
		void lost.promise.then(() => {
			over = true;
		});
		while (!over) {
			await host.sql("taken", `SELECT pg_terminate_backend(pid) FROM (${HOLDER}) AS held`);
			await delay(20);
		}
		t.match(await lost.promise, { code: "conflict" });
		await t.rejects(tokens.put({ ...token, id: "b" }), { code: "unavailable" });
		t.equal(await host.sql("taken", "SELECT string_agg(id, ',') FROM runtime_builds.token"), "a");
	},
);
