import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { Load, longStream } from "./clients.ts";

const PROBE = path.resolve(import.meta.dirname, "../fixtures/monorepo/probe");

t.test("ten updates and a kill of the server under load: not one failed request", async (t) => {
	const dataDir = await dataFolder(t);
	let server = await TestServer.start({ dataDir });
	t.teardown(() => server.stop());
	const source = await server.api.uploadFolder(PROBE);
	await server.api.create({ name: "probe", source, env: { GREETING: "r1" } });
	const service = await server.api.settled("probe");
	t.match(service, { status: "Running" });
	const url = service.url ?? "";

	const load = new Load(url, { keepAlive: 4, fresh: 4, pauseMs: 15 });
	for (let revision = 2; revision <= 11; revision++) {
		const stream = longStream(url);
		// Every fourth is built anew, from source with another text; the others change the environment alone.
		const main = await readFile(path.join(PROBE, "main.go"), "utf8");
		const files = {
			"go.mod": await readFile(path.join(PROBE, "go.mod"), "utf8"),
			"main.go": main.replace('builtText = "probe"', `builtText = "built ${revision}"`),
		};
		const change = revision % 4 === 0 ? { source: await server.api.uploadFiles(files) } : {};
		await server.api.update("probe", { ...change, env: { GREETING: `r${revision}` } });
		if (revision === 6) {
			await server.kill();
			server = await TestServer.start({ dataDir });
		}
		const settled = await server.api.settled("probe");
		t.match(settled, { status: "Running", revision, url, target: null, error: null });
		t.match(await (await fetch(url)).text(), new RegExp(`^r${revision} `));
		await stream.then(
			() => t.pass("the stream across the update was whole"),
			(error: unknown) => t.fail(String(error)),
		);
	}
	const report = await load.stop();
	t.comment(
		`${report.requests} requests, ${report.perSecond.toFixed(0)}/s, ${report.failures.length} failed, ` +
			`longest ${report.longest.toFixed(0)} ms`,
	);
	t.same(report.failures.slice(0, 5), [], `no failed request of ${report.requests}`);
	t.ok(report.requests > 1000, "there was load");
});

t.test("the companion killed five times: the URL and the program come through", async (t) => {
	const dataDir = await dataFolder(t);
	const server = await TestServer.start({ dataDir });
	t.teardown(() => server.stop());
	const source = await server.api.uploadFolder(PROBE);
	await server.api.create({ name: "probe", source, env: { GREETING: "one" } });
	const { url } = await server.api.settled("probe");
	const ask = async () => (await fetch(url ?? "")).text();
	const first = await ask();
	for (let round = 1; round <= 5; round++) {
		const pid = await companionPid(dataDir);
		process.kill(pid, "SIGKILL");
		await until(async () => (await companionPid(dataDir).catch(() => pid)) !== pid, "there is a new companion");
		await until(async () => (await ask().catch(() => "")) === first, `round ${round}: the same program answers`);
		await until(async () => (await server.api.get("probe")).status === "Running", "it is Running");
	}
	t.equal(await ask(), first, "same process, same nonce, same URL");
	t.equal((await server.api.get("probe")).url, url);
	t.equal((await server.api.get("probe")).revision, 1);
});

async function companionPid(dataDir: string): Promise<number> {
	const folder = path.join(dataDir, "services", "companion");
	const newest =
		(await readdir(folder))
			.filter((name) => name.endsWith(".json"))
			.sort()
			.at(-1) ?? "";
	const record: { pid?: number } = JSON.parse(await readFile(path.join(folder, newest), "utf8"));
	if (typeof record.pid !== "number") throw new Error("no companion is recorded");
	return record.pid;
}
