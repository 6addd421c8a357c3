import { connect, createServer, type Socket } from "node:net";
import t, { type Test } from "tap";
import { Postgres } from "../../src/postgres/pool.ts";
import { SoleUse } from "../../src/postgres/sole-use.ts";
import { PostgresHost } from "../hosts/postgres.ts";

const HOLDER =
	"SELECT pid FROM pg_locks JOIN pg_database ON oid = database WHERE locktype = 'advisory' AND granted AND datname = current_database()";

t.test("one server for a schema", { skip: await PostgresHost.missing() }, async (t) => {
	const host = await PostgresHost.start();
	t.teardown(() => host.stop());

	t.test("a connection that breaks while it asks for the lock is no more than a failed try", async (t) => {
		let cut = 0;
		const { url } = await proxied(t, host, "cut", {
			asks: (from, chunk) => {
				if (cut === 0 || !chunk.includes("pg_try_advisory_lock")) return true;
				cut--;
				from.destroy();
				return false;
			},
		});
		const postgres = await Postgres.open({ url }, []);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		const lost: unknown[] = [];
		const onLost = (why: unknown) => lost.push(why);
		cut = 1;
		await t.rejects(SoleUse.take({ postgres, onLost }), { code: "unavailable" });
		const use = await SoleUse.take({ postgres, onLost });
		t.teardown(() => use[Symbol.asyncDispose]());
		const before = await host.sql("cut", HOLDER);
		cut = 3;
		await host.sql("cut", `SELECT pg_terminate_backend(pid) FROM (${HOLDER}) AS held`);
		for (let now = ""; now === "" || now === before; now = await host.sql("cut", HOLDER))
			await new Promise((resolve) => setTimeout(resolve, 20));
		t.equal(cut, 0, "three tries broke");
		t.same(lost, []);
	});

	t.test("a connection that PostgreSQL believes to live does not keep its own server out", async (t) => {
		const { url, pairs } = await proxied(t, host, "ghost", { tells: () => false });
		const postgres = await Postgres.open({ url }, []);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		const lost: unknown[] = [];
		const use = await SoleUse.take({ postgres, onLost: (why) => lost.push(why) });
		t.teardown(() => use[Symbol.asyncDispose]());
		const before = await host.sql("ghost", HOLDER);
		for (const [from] of pairs) from.destroy();
		for (let now = before; now === "" || now === before; now = await host.sql("ghost", HOLDER))
			await new Promise((resolve) => setTimeout(resolve, 20));
		t.same(lost, []);
	});

	t.test("who has lost the lock without a word notices", async (t) => {
		let silent = false;
		const { url } = await proxied(t, host, "silent", {
			tells: () => !silent,
			asks: () => !silent,
			answers: () => !silent,
		});
		const postgres = await Postgres.open({ url }, []);
		const other = await Postgres.open({ url: host.url("silent") }, []);
		const { promise, resolve } = Promise.withResolvers<unknown>();
		const use = await SoleUse.take({ postgres, onLost: resolve, checkMs: 50, answerMs: 200 });
		t.teardown(async () => {
			await use[Symbol.asyncDispose]();
			await Promise.all([postgres[Symbol.asyncDispose](), other[Symbol.asyncDispose]()]);
		});
		silent = true;
		await host.sql("silent", `SELECT pg_terminate_backend(pid) FROM (${HOLDER}) AS held`);
		const heir = await SoleUse.take({ postgres: other, onLost: () => undefined });
		silent = false;
		t.match(await promise, { code: "conflict", field: "postgres" });
		await heir[Symbol.asyncDispose]();
	});
});

type Rules = {
	/** Whether a chunk is handed on to PostgreSQL. */
	readonly asks?: (from: Socket, chunk: Buffer) => boolean;
	/** Whether what PostgreSQL says comes back. */
	readonly answers?: () => boolean;
	/** Whether an end is handed on, in either direction. */
	readonly tells?: () => boolean;
};

/** A database behind something that may break connections, or be silent. */
async function proxied(
	t: Test,
	host: PostgresHost,
	database: string,
	{ asks = () => true, answers = () => true, tells = () => true }: Rules,
) {
	const pairs: [Socket, Socket][] = [];
	const proxy = createServer({ allowHalfOpen: true }, (from) => {
		const to = connect({ port: host.port, host: "127.0.0.1", allowHalfOpen: true });
		pairs.push([from, to]);
		for (const [one, another] of [
			[from, to],
			[to, from],
		] as const) {
			one.on("error", () => undefined);
			one.on("end", () => tells() && another.destroy());
			one.on("close", () => tells() && another.destroy());
		}
		from.on("data", (chunk) => asks(from, chunk) && to.write(chunk));
		to.on("data", (chunk) => answers() && !from.destroyed && from.write(chunk));
	});
	await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
	t.teardown(() => {
		for (const socket of pairs.flat()) socket.destroy();
		proxy.close();
	});
	const address = proxy.address();
	if (address === null || typeof address === "string") throw new Error("no port");
	await host.database(database);
	return { url: host.url(database).replace(`:${host.port}/`, `:${address.port}/`), pairs };
}
