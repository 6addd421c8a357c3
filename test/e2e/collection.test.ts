import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { systemCode } from "../../src/errors.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";

/** Files below the data folder by their size, LevelDB's and the server's own aside. */
async function stored(dataDir: string): Promise<string[]> {
	for (;;) {
		try {
			return await look(dataDir);
		} catch (error) {
			// A folder went while we looked.
			if (systemCode(error) !== "ENOENT") throw error;
		}
	}
}

async function look(dataDir: string): Promise<string[]> {
	const found: string[] = [];
	for (const part of ["blobs/objects", "build-logs", "services", "directories", "work"]) {
		const folder = path.join(dataDir, part);
		if (!existsSync(folder)) continue;
		for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
			if (!entry.isFile()) continue;
			const file = path.join(entry.parentPath, entry.name);
			const { size } = await stat(file).catch(() => ({ size: 0 }));
			found.push(`${path.relative(dataDir, file)} ${size}`);
		}
	}
	return found.sort();
}

const program = (text: string) => ({
	"go.mod": "module example.com/app\n\ngo 1.21\n",
	"main.go": `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, ${JSON.stringify(text)}, os.Getenv("MORE")) })
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`,
});

for (const profile of ["local", "dev"])
	t.test(`profile ${profile}: the disk is what it was after everything is killed and collected`, async (t) => {
		const dataDir = await dataFolder(t);
		const args = ["--profile", profile, "--source-age", "0", "--collect-every", "1", "--stop-services"];
		const server = await TestServer.start({ dataDir, args });
		t.teardown(() => server.stop());
		const { api } = server;
		const before = await stored(dataDir);
		const names = ["one", "two", "three"];
		for (const name of names) {
			// The collector may be faster than we are: the age is nothing here.
			let status = 0;
			while (status !== 201 && status !== 202) {
				const source = await api.uploadFiles(program(name));
				({ status } = await api.call("POST", "/services", { name, source }));
				if (status !== 404 && status > 202) throw new Error(`${name}: ${status}`);
			}
			await api.settled(name);
			t.equal((await api.get(name)).status, "Running");
		}
		const answer = await api.call("PATCH", "/services/one/latest", { env: { MORE: "!" } });
		t.ok(answer.status === 200 || answer.status === 202);
		const one = await api.settled("one");
		t.equal(await (await fetch(one.url ?? "")).text(), "one!");
		await api.uploadFiles(program("nobody's"));
		t.ok((await stored(dataDir)).length > before.length);
		for (const name of names) t.equal((await api.call("DELETE", `/services/${name}/latest`)).status, 202);
		let now: string[] = [];
		await until(async () => {
			// A folder may go while it is being listed: then the next look tells.
			now = await stored(dataDir).catch(() => now);
			return now.join("\n") === before.join("\n");
		}, "nothing more is stored than before").catch(() => undefined);
		t.same(now, before);
	});

t.test("after five updates a rollback answers with the old bytes, and nothing is built", async (t) => {
	const dataDir = await dataFolder(t);
	const server = await TestServer.start({ dataDir, args: ["--stop-services", "--keep-builds", "6"] });
	t.teardown(() => server.stop());
	const { api } = server;
	await api.create({ name: "app", source: await api.uploadFiles(program("r1")), env: { MORE: " a" } });
	const first = await api.settled("app");
	const reply = async () => (await fetch(first.url ?? "")).text();
	t.equal(await reply(), "r1 a");
	for (let revision = 2; revision <= 6; revision++) {
		await api.update("app", { source: await api.uploadFiles(program(`r${revision}`)), env: { MORE: ` ${revision}` } });
		t.match(await api.settled("app"), { revision, target: null });
		t.equal(await reply(), `r${revision} ${revision}`);
	}
	const logs = () => stored(dataDir).then((files) => files.filter((file) => file.startsWith("build-logs")));
	const objects = () => stored(dataDir).then((files) => files.filter((file) => file.startsWith("blobs")));
	const before = [await logs(), await objects()];
	t.equal((await api.call("POST", "/services/app/latest/rollback", { revision: 1 })).status, 202);
	const rolled = await api.settled("app");
	t.match(rolled, { status: "Running", revision: 7, target: null, build: first.build, source: first.source });
	t.equal(await reply(), "r1 a", "the old bytes with the old environment");
	t.same([await logs(), await objects()], before, "no build, no log of one, no bytes");
	const moves = (await api.entries("/services/app/latest/events")).filter(({ revision }) => revision === 7);
	t.same(
		moves.map(({ to }) => to),
		["Pending", "Starting", "Running"],
	);
});

t.test("a key outlives a server that was killed between the commit and the answer", async (t) => {
	const dataDir = await dataFolder(t);
	const first = await TestServer.start({ dataDir, env: { RUNTIME_FAILPOINTS: "manager.after_pending:1=kill" } });
	t.teardown(() => first.stop());
	const source = await first.api.uploadFiles(program("once"));
	const create = (server: TestServer, env: Record<string, string>) =>
		server.api.call("POST", "/services", { name: "app", source, env }, { "idempotency-key": "deploy-1" });
	await t.rejects(create(first, {}), "nobody answered");
	for (let round = 0; round < 2; round++) {
		const server = await TestServer.start({ dataDir, args: ["--stop-services"] });
		t.teardown(() => server.stop());
		const answers = await Promise.all(Array.from({ length: 10 }, () => create(server, {})));
		t.same([...new Set(answers.map(({ status }) => status))], [202]);
		t.ok(answers.every(({ headers }) => headers.get("idempotency-replayed") === "true"));
		t.match((await create(server, { A: "1" })).body, { status: 422, code: "key_reused", field: "Idempotency-Key" });
		const service = await server.api.settled("app");
		t.match(service, { status: "Running", revision: 1, target: null });
		await server.stop();
	}
});
