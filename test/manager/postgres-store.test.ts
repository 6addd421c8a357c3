import t from "tap";
import { PostgresServiceStore } from "../../src/manager/postgres-store.ts";
import { MIGRATIONS } from "../../src/postgres/migrations.ts";
import { Postgres } from "../../src/postgres/pool.ts";
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

	serviceStoreSuite(t, "PostgreSQL", async () => open(await host.database(`suite_${++databases}`)));
});
