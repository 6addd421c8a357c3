import t from "tap";
import { cli } from "../../harness/cli.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { until } from "../../harness/server.ts";
import { Load, longStream } from "../../load/clients.ts";
import { PROBE, probeSaying, running, Site, text } from "./site.ts";

const without = await Dockerd.missing();
if (without !== false) t.plan(0, without);
else {
	const site = await Site.open(t);
	const server = await site.server();
	const { api } = server;
	const source = await api.uploadFolder(PROBE);
	await api.create({ name: "app", source, env: { GREETING: "r1" } });
	const { url, id } = await running(api, "app");
	const load = (pauseMs = 15) => new Load(url ?? "", { keepAlive: 3, fresh: 3, pauseMs });
	/** Which programs answer: each says its own number. */
	const answering = async () => {
		const seen = new Set<string>();
		for (let turn = 0; turn < 30; turn++) seen.add((await text(url)).trim().split(" ").at(-1) ?? "");
		return seen;
	};

	await t.test("six updates under load, one with a stream across it: not one failed request", async (t) => {
		const clients = load();
		for (let revision = 2; revision <= 7; revision++) {
			const stream = revision === 3 ? longStream(url ?? "") : Promise.resolve();
			// Every third is built anew; the others change the environment alone.
			const change =
				revision % 3 === 0 ? { source: await api.uploadFiles(await probeSaying(`built ${revision}`)) } : {};
			await api.update("app", { ...change, env: { GREETING: `r${revision}` } });
			t.match(await running(api, "app"), { revision, url, error: null });
			t.match(await text(url), new RegExp(`^r${revision} `));
			await stream.then(
				() => t.pass("a stream across the update is whole"),
				(error: unknown) => t.fail(String(error)),
			);
		}
		const { requests, failures, longest, perSecond } = await clients.stop();
		t.comment(
			`${requests} requests, ${perSecond.toFixed(0)}/s, ${failures.length} failed, longest ${longest.toFixed(0)} ms`,
		);
		t.same(failures.slice(0, 5), [], `no failed request of ${requests}`);
		t.ok(requests > 300, "there was load");
		await until(async () => (await site.containers({ id })).length === 1, "the replaced ones are gone");
	});

	await t.test("three instances, and one again: all get requests, and none is lost", async (t) => {
		const clients = load();
		await api.update("app", { instances: 3 });
		t.match(await running(api, "app"), { instances: 3, revision: 8 });
		t.equal((await answering()).size, 3);
		await until(async () => (await site.containers({ id })).length === 3, "three containers are left");
		const slow = text(url, "/slow?ms=1500");
		await api.update("app", { instances: 1 });
		t.match(await running(api, "app"), { instances: 1, revision: 9 });
		t.equal((await answering()).size, 1);
		t.equal(await slow, "done\n", "who was still at it was waited for");
		await until(async () => (await site.containers({ id })).length === 1, "one container is left");
		const { requests, failures, longest } = await clients.stop();
		t.comment(`${requests} requests, ${failures.length} failed, longest ${longest.toFixed(0)} ms`);
		t.same(failures.slice(0, 5), [], `no failed request of ${requests}`);
	});

	await t.test("an update that fails leaves the old revision serving, and says why", async (t) => {
		const [before] = await answering();
		const clients = load();
		const cwd = await site.project(PROBE);
		const run = (args: readonly string[]) => cli(args, { cwd, env: server.env });
		for (const [change, code, phase, words] of [
			[
				{ source: await api.uploadFiles({ "go.mod": "module x\n", "main.go": "package main\nfunc main() { x }" }) },
				"build_failed",
				"build",
				/undefined: x/,
			],
			[
				{
					source: await api.uploadFiles({
						"go.mod": "module x\n",
						"main.go": 'package main\nimport "os"\nfunc main() { println("no luck"); os.Exit(3) }',
					}),
				},
				"exited",
				"start",
				/exited with code 3/,
			],
			[{ source, health: { type: "http", path: "/nowhere", timeout: 2 } }, "not_listening", "start", /404/],
		] as const) {
			await api.update("app", change);
			const service = await api.settled("app");
			t.match(service, {
				status: "Running",
				revision: 9,
				url,
				target: { status: "Error", error: { code, phase, message: words } },
			});
			t.same([...(await answering())], [before], "the same program answers");
			const { stdout } = await run(["status"]);
			t.match(stdout, new RegExp(`^app\\tlatest\\trunning r9, r${service.target?.revision} error\\t`, "m"));
			const waited = await run(["wait", "app"]);
			t.equal(waited.code, 1);
			t.match(waited.stderr, words);
			t.match(waited.stderr, /revision 9 keeps running/i);
		}
		const { requests, failures } = await clients.stop();
		t.same(failures.slice(0, 5), [], `no failed request of ${requests}`);
		await until(async () => (await site.containers({ id })).length === 1, "of what failed nothing is left");
	});
}
