import t from "tap";
import { helloProgram } from "../fixtures/hello.ts";
import { dataFolder, endOf, TestServer, until } from "../harness/server.ts";
import { PostgresHost } from "../hosts/postgres.ts";

t.test("a server with its records in PostgreSQL", { skip: await PostgresHost.missing() }, async (t) => {
	const host = await PostgresHost.start();
	t.teardown(() => host.stop());
	const args = ["--postgres", await host.database("records")];
	const dataDir = await dataFolder(t, args);
	let server = await TestServer.start({ dataDir, args });
	t.teardown(() => server.stop());
	const { api } = server;
	const source = await api.uploadFiles(helloProgram('os.Getenv("WORDS")'));
	await api.call("POST", "/services", { name: "hello", source, env: { WORDS: "one" } }, { "Idempotency-Key": "k" });
	const first = await api.settled("hello");
	t.match(first, { status: "Running", revision: 1, error: null });
	const says = async () => (await fetch(first.url ?? "")).text();
	t.equal(await says(), "one");

	await t.test("kill -9, and another server goes on with what it finds", async (t) => {
		await server.kill();
		t.equal(await says(), "one", "the service needs no server");
		server = await TestServer.start({ dataDir, args });
		t.match(await server.api.get("hello"), { id: first.id, status: "Running", url: first.url });
		const again = await server.api.call(
			"POST",
			"/services",
			{ name: "hello", source, env: { WORDS: "one" } },
			{ "Idempotency-Key": "k" },
		);
		t.match(again, { status: 202, body: { id: first.id } }, "its idempotency keys, too");
		await server.api.call("PATCH", "/services/hello/latest", { env: { WORDS: "two" } });
		t.match(await server.api.settled("hello"), { status: "Running", revision: 2, url: first.url });
		t.equal(await says(), "two");
	});

	await t.test("while PostgreSQL is down it says so, services go on, and nothing needs a restart", async (t) => {
		await host.crash();
		t.match(await server.api.call("GET", "/services"), { status: 503, body: { code: "unavailable" } });
		t.match(await server.api.call("PATCH", "/services/hello/latest", { env: { WORDS: "lost" } }), { status: 503 });
		t.equal(await says(), "two");
		await host.resume();
		await until(async () => (await server.api.call("GET", "/services")).status === 200, "it answers again");
		t.match(await server.api.get("hello"), { status: "Running", revision: 2 });
		await server.api.call("PATCH", "/services/hello/latest", { env: { WORDS: "three" } });
		t.match(await server.api.settled("hello"), { status: "Running", revision: 3 });
		t.equal(await says(), "three");
	});

	await t.test("one server for each schema", async (t) => {
		const second = await dataFolder(t);
		const { code, output } = await endOf({ dataDir: second, args });
		t.equal(code, 1);
		t.match(output, /another server works with the records.*\n.*--postgres-schema/);
		t.equal((await server.api.call("GET", "/services")).status, 200);
		const other = await TestServer.start({ dataDir: second, args: [...args, "--postgres-schema", "other"] });
		t.match((await other.api.call("GET", "/services")).body, { services: [] }, "another schema is another server's");
		await other.stop();
	});

	await t.test("a server that lost its hold on the records takes it again, or ends", async (t) => {
		const holders = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";
		const before = await host.sql("records", holders);
		await host.sql("records", `SELECT pg_terminate_backend(pid) FROM (${holders}) AS holder`);
		await until(async () => !["", before].includes(await host.sql("records", holders)), "it holds them again");
		t.equal(server.child.exitCode, null);
		const second = await dataFolder(t);
		const waiting = TestServer.start({ dataDir: second, args });
		const ended = new Promise((resolve) => server.child.once("exit", resolve));
		let over = false;
		void ended.then(() => {
			over = true;
		});
		// Whoever asks first has it: sooner or later that is the one who waits.
		await until(async () => {
			await host.sql("records", `SELECT pg_terminate_backend(pid) FROM (${holders}) AS holder`);
			return over;
		}, "the first server ends");
		t.equal(await ended, 1);
		t.match(server.output, /another server works with the records/);
		const heir = await waiting;
		t.match(await heir.api.get("hello"), { name: "hello" }, "with its own data folder, and so its own token");
		await heir.api.call("DELETE", "/services/hello/latest");
		await until(async () => (await heir.api.call("GET", "/services/hello/latest")).status === 404, "it is gone");
		await heir.stop();
	});

	await t.test("a password is no flag, and what is wrong is said at once", async (t) => {
		const said = async (args: readonly string[], env: Record<string, string> = {}) =>
			endOf({ dataDir: await dataFolder(t), args, env });
		for (const url of ["postgres://me:secret@127.0.0.1/x", "postgres://me@127.0.0.1/x?password=secret"]) {
			const flagged = await said(["--postgres", url]);
			t.equal(flagged.code, 2, url);
			t.match(flagged.output, /PGPASSWORD/);
			t.notMatch(flagged.output, /secret/);
		}
		const nowhere = await said([], { RUNTIME_POSTGRES: host.url("nowhere") });
		t.match(nowhere, { code: 1, output: /database "nowhere" does not exist\n.*CREATE DATABASE/ });
	});
});
