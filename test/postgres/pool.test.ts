import { connect, createServer, type Socket } from "node:net";
import t from "tap";
import { AppError } from "../../src/errors.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresHost } from "../hosts/postgres.ts";

const TABLES = ["CREATE TABLE thing (id text PRIMARY KEY, value text)"];

t.test("connections to PostgreSQL", { skip: await PostgresHost.missing() }, async (t) => {
	const host = await PostgresHost.start();
	t.teardown(() => host.stop());

	t.test("the tables are made once, however many servers start at the same time", async (t) => {
		const url = await host.database("many");
		const opened = await Promise.all(Array.from({ length: 8 }, () => Postgres.open({ url }, TABLES)));
		t.teardown(() => Promise.all(opened.map((postgres) => postgres[Symbol.asyncDispose]())));
		t.equal(await host.sql("many", "SELECT count(*) FROM runtime_builds.migration"), "1");
		const newer = await Postgres.open({ url }, [...TABLES, "ALTER TABLE thing ADD COLUMN more text"]);
		await newer.query("INSERT INTO thing VALUES ('a', 'b', 'c')");
		await newer[Symbol.asyncDispose]();
		await t.rejects(Postgres.open({ url }, TABLES), {
			code: "invalid_argument",
			field: "postgres",
			message: /newer version/,
		});
		await opened[0]?.query("INSERT INTO thing (id, value) VALUES ('x', 'y')");
		t.equal(await host.sql("many", "SELECT count(*) FROM runtime_builds.thing"), "2", "who was there goes on");
	});

	t.test("a migration that fails leaves nothing of it", async (t) => {
		const url = await host.database("broken");
		await t.rejects(Postgres.open({ url }, [...TABLES, "ALTER TABLE nothing ADD COLUMN x text"]), AppError);
		t.equal(await host.sql("broken", "SELECT count(*) FROM pg_tables WHERE schemaname = 'runtime_builds'"), "0");
	});

	t.test("what must be configured in another way is said, without the password", async (t) => {
		const url = await host.database("settings");
		await host.sql("settings", "CREATE ROLE careless LOGIN; ALTER ROLE careless SET synchronous_commit = off");
		await host.sql("settings", "CREATE ROLE poor LOGIN");
		const of = (user: string) => Postgres.open({ url: host.url("settings", user) }, TABLES);
		await t.rejects(of("careless"), { code: "invalid_argument", field: "postgres", message: /synchronous_commit/ });
		await t.rejects(of("poor"), { code: "invalid_argument", field: "postgres", hint: /CREATE SCHEMA runtime_builds/ });
		await t.rejects(of("nobody"), { code: "invalid_argument", message: /role "nobody" does not exist/ });
		await t.rejects(Postgres.open({ url: host.url("nowhere") }, TABLES), {
			code: "invalid_argument",
			hint: /CREATE DATABASE/,
		});
		await t.rejects(Postgres.open({ url: "mysql://x:secret@h/d" }, []), {
			code: "invalid_argument",
			message: /^((?!secret).)*$/,
		});
		await t.rejects(Postgres.open({ url, schema: "Robert'); --" }, []), { code: "invalid_argument" });
		await host.sql("settings", "CREATE SCHEMA theirs AUTHORIZATION poor");
		const poor = await Postgres.open({ url: host.url("settings", "poor"), schema: "theirs" }, TABLES);
		t.same(await poor.query("SELECT * FROM thing"), [], "a schema of its own is enough");
		await poor[Symbol.asyncDispose]();
	});

	t.test("what the URL or the database is set to does not take the place of what the records need", async (t) => {
		const url = await host.database("given");
		await host.sql("given", "ALTER DATABASE given SET default_transaction_isolation = 'repeatable read'");
		const postgres = await Postgres.open({ url: `${url}?options=-c%20work_mem%3D9MB` }, TABLES);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		t.equal(await host.sql("given", "SELECT count(*) FROM runtime_builds.thing"), "0", "its tables are in its schema");
		const [set] = await postgres.query(
			"SELECT current_setting('work_mem') AS memory, current_setting('transaction_isolation') AS isolation",
		);
		t.same(set, { memory: "9MB", isolation: "read committed" });
		await host.sql("given", "CREATE DATABASE western TEMPLATE template0 ENCODING 'LATIN1'");
		await t.rejects(Postgres.open({ url: host.url("western") }, TABLES), {
			code: "invalid_argument",
			field: "postgres",
			message: /LATIN1/,
		});
		await host.sql("given", "CREATE ROLE outsider LOGIN");
		await t.rejects(Postgres.open({ url: host.url("given", "outsider") }, TABLES), {
			code: "invalid_argument",
			hint: /CREATE SCHEMA/,
		});
	});

	t.test("a crash is unavailable, and the same connections work when it is back", async (t) => {
		const told: unknown[] = [];
		const url = await host.database("crash");
		const postgres = await Postgres.open({ url, report: (error) => told.push(error) }, TABLES);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		const acknowledged: string[] = [];
		const writing = (async () => {
			for (let index = 0; ; index++) {
				await postgres.query("INSERT INTO thing VALUES ($1, 'v')", [`k${index}`]);
				acknowledged.push(`k${index}`);
			}
		})();
		writing.catch(() => undefined);
		while (acknowledged.length < 50) await new Promise((resolve) => setTimeout(resolve, 5));
		await host.crash();
		await t.rejects(writing, { code: "unavailable" });
		await t.rejects(postgres.query("SELECT 1"), { code: "unavailable" });
		await host.resume();
		const rows = await postgres.query<{ id: string }>("SELECT id FROM thing");
		const kept = new Set(rows.map(({ id }) => id));
		t.same(
			acknowledged.filter((id) => !kept.has(id)),
			[],
			"nothing that was acknowledged is lost",
		);
		t.ok(kept.size <= acknowledged.length + 1, "and at most the one that was under way is there besides");
	});

	t.test("a server that does not answer is given up", async (t) => {
		const sockets = new Set<Socket>();
		let silent = false;
		const proxy = createServer({ allowHalfOpen: true }, (from) => {
			const to = connect({ port: host.port, host: "127.0.0.1", allowHalfOpen: true });
			for (const socket of [from, to]) {
				sockets.add(socket);
				socket.on("error", () => undefined);
			}
			from.on("data", (chunk) => silent || to.write(chunk));
			to.on("data", (chunk) => silent || from.write(chunk));
			from.on("end", () => silent || to.destroy());
			to.on("end", () => silent || from.destroy());
		});
		await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
		t.teardown(() => {
			for (const socket of sockets) socket.destroy();
			proxy.close();
		});
		const address = proxy.address();
		if (address === null || typeof address === "string") throw new Error("no port");
		await host.database("silent");
		const url = host.url("silent").replace(`:${host.port}/`, `:${address.port}/`);
		const postgres = await Postgres.open(
			{ url, statementMs: 200, graceMs: 300, connectMs: 1_000, closeMs: 200 },
			TABLES,
		);
		silent = true;
		await t.rejects(postgres.query("SELECT 1"), { code: "unavailable" });
		silent = false;
		for (const socket of sockets) socket.destroy();
		t.same(await postgres.query("SELECT 1 AS one"), [{ one: 1 }], "the next one has another connection");
		silent = true;
		await postgres[Symbol.asyncDispose]();
		const open = process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;
		t.equal(open, [...sockets].filter((socket) => !socket.destroyed).length, "nor is its leave waited for");
	});

	t.test("a statement that takes too long, and a deadlock", async (t) => {
		const url = await host.database("locks");
		const postgres = await Postgres.open({ url, statementMs: 500 }, TABLES);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		await t.rejects(postgres.query("SELECT pg_sleep(20)"), { code: "unavailable" });
		await postgres.query("INSERT INTO thing VALUES ('a', ''), ('b', '')");
		await host.sql("locks", "ALTER DATABASE locks SET deadlock_timeout = '20ms'");
		const patient = await Postgres.open({ url }, TABLES);
		t.teardown(() => patient[Symbol.asyncDispose]());
		const both = (first: string, second: string) =>
			patient.transaction(async (query) => {
				await query("UPDATE thing SET value = value || '+' WHERE id = $1", [first]);
				await query("SELECT pg_sleep(0.05)");
				await query("UPDATE thing SET value = value || '+' WHERE id = $1", [second]);
			});
		await Promise.all([both("a", "b"), both("b", "a"), both("a", "b"), both("b", "a")]);
		const rows = await patient.query<{ value: string }>("SELECT value FROM thing");
		for (const { value } of rows) t.match(value, /^\+{4}$/, "each was done once");
	});

	t.test("a unique key that is taken is a conflict", async (t) => {
		const postgres = await Postgres.open({ url: await host.database("unique") }, TABLES);
		t.teardown(() => postgres[Symbol.asyncDispose]());
		await postgres.query("INSERT INTO thing VALUES ('a', '')");
		await t.rejects(postgres.query("INSERT INTO thing VALUES ('a', '')"), { code: "conflict" });
		await t.rejects(postgres.query("SELECT nothing"), { code: "internal" });
	});
});
