import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { systemClock } from "../../../src/runtimes/companion/clock.ts";
import { Daemon } from "../../../src/runtimes/docker/daemon.ts";
import { Removals } from "../../../src/runtimes/docker/removals.ts";
import { until } from "../../conformance/runtime.ts";

/** An engine of answers. Undefined: it never answers. */
async function played(t: Test, answer: (what: string) => { status: number; body: unknown } | undefined) {
	const folder = await mkdtemp(join(tmpdir(), "played-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const server = createServer((request, response) => {
		const what = `${request.method} ${(request.url ?? "").replace(/^\/v[\d.]+/, "")}`;
		const given = answer(what);
		if (given === undefined) return;
		response.writeHead(given.status, { "content-type": "application/json" });
		if (what.startsWith("GET /events")) response.flushHeaders();
		else response.end(JSON.stringify(given.body));
	});
	const socket = join(folder, "docker.sock");
	server.listen(socket);
	await once(server, "listening");
	t.teardown(() => {
		server.closeAllConnections();
		server.close();
	});
	const report = () => undefined;
	const daemon = await Daemon.open({
		...{ socket, label: "a=b", clock: systemClock, report, callMs: 200, lookMs: 500 },
		...{ told: () => undefined, looked: async () => undefined },
	});
	t.teardown(() => daemon[Symbol.asyncDispose]());
	return daemon;
}

t.test("one call that takes too long does not make the engine away; one that answers no ping is", async (t) => {
	const silent = new Set<string>(["GET /info"]);
	const daemon = await played(t, (what) => (silent.has(what) ? undefined : { status: 200, body: [] }));
	const changes: boolean[] = [];
	let reachable = true;
	daemon.onReachable(() => {
		reachable = !reachable;
		changes.push(reachable);
	});
	await t.rejects(
		daemon.call((docker) => docker.info()),
		{ code: "unavailable" },
	);
	// Whatever comes of that is over when a second one has failed.
	await t.rejects(
		daemon.call((docker) => docker.info()),
		{ code: "unavailable" },
	);
	daemon.mustBeReachable();
	t.same(changes, []);
	silent.add("GET /_ping");
	await t.rejects(
		daemon.call((docker) => docker.info()),
		{ code: "unavailable" },
	);
	await until(
		async () => changes,
		([first]) => first === false,
		"it is away",
	);
});

t.test("a removal that never ends is given up", async (t) => {
	const info = { Id: "c1", Name: "/c1", State: { Dead: false, Running: false } };
	const daemon = await played(t, (what) => {
		if (what.startsWith("DELETE")) return { status: 409, body: { message: "removal is already in progress" } };
		return { status: 200, body: what.startsWith("GET /containers/c1/json") ? info : [] };
	});
	let now = 0;
	let sleeps = 0;
	const clock = {
		...{ now: () => now, wall: () => now },
		sleep: async (ms: number) => {
			now += ms;
			if (++sleeps > 1_000) throw new Error("it goes on and on");
		},
	};
	const removals = new Removals({ clock, folderId: "0".repeat(16), report: () => undefined }, daemon);
	await t.rejects(removals.remove("c1"), { code: "unavailable", message: /does not come to an end.*operator/ });
	t.ok(now >= 30_000 && now < 35_000, `after ${Math.round(now)} ms`);
	t.ok(sleeps < 100, `${sleeps} looks`);
});
