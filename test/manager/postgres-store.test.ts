import t from "tap";
import { PostgresServiceStore } from "../../src/manager/postgres-store.ts";
import { MIGRATIONS } from "../../src/postgres/migrations.ts";
import { Postgres, type Row } from "../../src/postgres/pool.ts";
import { type Opened, serviceStoreSuite } from "../conformance/service-store.ts";
import { PostgresHost } from "../hosts/postgres.ts";

t.test("PostgreSQL", { skip: await PostgresHost.missing() }, async (t) => {
	const host = await PostgresHost.start();
	t.teardown(() => host.stop());
	let databases = 0;

	const open = async (url: string): Promise<Opened> => {
		const store = new PostgresServiceStore(await Postgres.open({ url }, MIGRATIONS));
		const close = () => store[Symbol.asyncDispose]();
		const reopen = async () => {
			await close();
			return open(url);
		};
		return { store, close, reopen };
	};

	t.test("a page is no longer than it may be, whatever the records hold, and none is left out", async (t) => {
		const postgres = await Postgres.open({ url: await host.database("large") }, MIGRATIONS);
		const store = new PostgresServiceStore(postgres);
		t.teardown(() => store[Symbol.asyncDispose]());
		// Half of them are small; PostgreSQL compresses all.
		await postgres.query(`INSERT INTO service SELECT 'id', 'default', 'app', 'latest', 1, '{}'`);
		await postgres.query(`INSERT INTO revision SELECT 'id', number, json_build_object('revision', number,
			'env', repeat('x', CASE WHEN number % 40 < 20 THEN 1000000 ELSE 10 END)) FROM generate_series(1, 900) AS number`);
		const query = postgres.query.bind(postgres);
		let most = 0;
		postgres.query = async <T extends Row>(text: string, values?: readonly unknown[]) => {
			const rows = await query<T>(text, values);
			most = Math.max(most, JSON.stringify(rows).length);
			return rows;
		};
		let expected = 900;
		for await (const { revision } of store.revisions("id", null)) if (revision !== expected--) break;
		t.equal(expected, 0);
		t.ok(most < 6_000_000, `${most} characters at once`);
	});

	t.test("numbers that no record has find nothing", async (t) => {
		const { store, close } = await open(await host.database("numbers"));
		t.teardown(close);
		t.equal(await store.revision("id", 99_999_999_999), undefined);
		for await (const found of store.revisions("id", 1e21)) t.fail(`${found.revision}`);
		for await (const found of store.events("id", 1e21)) t.fail(`${found.seq}`);
	});

	serviceStoreSuite(t, "PostgreSQL", async () => open(await host.database(`suite_${++databases}`)));
});
