import t from "tap";
import { revisionOf } from "../../src/manager/model.ts";
import type { RuntimeFailure } from "../../src/runtimes/runtime.ts";
import { named, TestCore, until } from "../harness/core.ts";

const EXITED: RuntimeFailure = { code: "exited", message: "exited with code 3", exitCode: 3, lastLines: ["boom"] };

function held(core: TestCore): () => void {
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	return () => {
		core.builder.gate = async () => undefined;
		gate.resolve();
	};
}

t.test("an update while building supersedes: the older build is cancelled, the newer wins", async (t) => {
	const core = await TestCore.open(t);
	const release = held(core);
	await core.create("app", "old");
	await until(
		() => core.builder.active.length === 1,
		() => "the first build is under way",
	);
	await core.manager.update(named("app"), { source: await core.upload("new") });
	await until(
		() => core.builder.active[0] === "new",
		() => "the second build is under way, the first has ended",
	);
	t.same(core.builder.active, ["new"]);
	release();
	const service = await core.at("app", 2, "Running");
	t.equal(service.live, 2);
	t.same(await core.events("app"), [
		...["1 >Pending", "1 Pending>Building", "1 Building>Error superseded", "2 >Pending"],
		...["2 Pending>Building", "2 Building>Starting", "2 Starting>Running"],
	]);
	t.notOk(
		core.runtime.calls.some((call) => call.startsWith("apply 1.")),
		"the older one never ran",
	);
	t.notOk(
		core.logged.some(({ level }) => level === "error"),
		"a cancelled build is no error of the server's",
	);
});

t.test("ten updates at once: revisions without gaps, and the last one runs", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "0");
	const sources = await Promise.all(Array.from({ length: 10 }, (_, index) => core.upload(`${index + 1}`)));
	await Promise.all(sources.map((source) => core.manager.update(named("app"), { source })));
	const service = await core.at("app", 11, "Running");
	t.equal(service.newest, 11);
	const revisions = await core.queries.revisions(named("app"), 100, null);
	t.same(
		revisions.map(({ revision }) => revision),
		[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
	);
	t.same(
		(await core.queries.revisions(named("app"), 2, 5)).map(({ revision }) => revision),
		[4, 3],
	);
	t.ok(revisions.slice(1).every(({ status, error }) => status === "Stopped" || error?.code === "superseded"));
});

t.test("an update while Starting takes the starting one's place, what serves goes on", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	const { id, url } = await core.at("app", 1, "Running");
	core.runtime.outcome = ({ revision }) => ({ kind: revision === 2 ? "hang" : "ready" });
	await core.manager.update(named("app"), { args: ["2"] });
	await until(
		() => core.runtime.calls.includes(`apply 2.1 ${id}`),
		() => "revision 2 was applied",
	);
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 1);
	await core.manager.update(named("app"), { args: ["3"] });
	const service = await core.at("app", 3, "Running");
	t.match((await core.store.revision(id, 2))?.error, { code: "superseded", phase: "start" });
	t.equal(service.live, 3);
	await core.at("app", 1, "Stopped");
});

t.test("cancel in Pending, Building and Starting; what serves goes on", async (t) => {
	const core = await TestCore.open(t, { parallelBuilds: 1 });
	const release = held(core);
	await core.create("building");
	await until(
		() => core.builder.active.length === 1,
		() => "it is building",
	);
	await core.create("pending");
	await core.manager.cancel(named("pending"), 1);
	await t.rejects(
		core.manager.cancel(named("building"), 2),
		{ code: "conflict" },
		"another revision than the named one",
	);
	await core.manager.cancel(named("building"));
	await until(
		() => core.builder.active.length === 0,
		() => "the build has ended",
	);
	release();
	core.runtime.outcome = ({ revision }) => ({ kind: revision === 2 ? "hang" : "ready" });
	await core.create("starting");
	const { id, url } = await core.at("starting", 1, "Running");
	await t.rejects(core.manager.cancel(named("starting")), { code: "conflict" }, "nothing is on its way");
	await core.manager.update(named("starting"), { env: { A: "1" } });
	await until(
		() => core.runtime.calls.includes(`apply 2.1 ${id}`),
		() => "revision 2 was applied",
	);
	await core.manager.cancel(named("starting"));
	await until(
		() => core.runtime.calls.includes(`abandon 2 ${id}`),
		() => "revision 2 was given up",
	);
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 1);
	const phases = [];
	for (const [name, revision] of [
		["pending", 1],
		["building", 1],
		["starting", 2],
	] as const) {
		const service = await core.at(name, revision, "Error");
		phases.push([revisionOf(service, revision)?.error?.code, revisionOf(service, revision)?.error?.phase]);
	}
	t.same(phases, [
		["cancelled", "pending"],
		["cancelled", "build"],
		["cancelled", "start"],
	]);
	t.same(await core.events("pending"), ["1 >Pending", "1 Pending>Error cancelled"]);
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.update(named("pending"), { env: { AGAIN: "1" } });
	await core.at("pending", 2, "Running");
});

t.test("a revision that becomes ready in the moment in which it is cancelled is stopped", async (t) => {
	const core = await TestCore.open(t);
	core.runtime.outcome = () => ({ kind: "hang" });
	const { id } = await core.create("late");
	await until(
		() => core.runtime.calls.includes(`apply 1.1 ${id}`),
		() => "it was applied",
	);
	const hold = Promise.withResolvers<void>();
	core.runtime.hold = hold.promise;
	await core.manager.cancel(named("late"));
	core.runtime.become(id, 1, "ready");
	hold.resolve();
	core.runtime.hold = null;
	await until(
		async () => (await core.runtime.observe({ ...named("late"), id }, never)).serving === null,
		() => "nothing of it serves",
	);
	t.equal((await core.store.get(named("late")))?.revisions[0]?.status, "Error");
});

const never = { signal: new AbortController().signal };

t.test(
	"delete while building ends the build, deploys nothing and leaves nothing; a namesake shares nothing",
	async (t) => {
		const core = await TestCore.open(t);
		const release = held(core);
		const { id } = await core.create("twin", "first");
		await until(
			() => core.builder.active.length === 1,
			() => "it is building",
		);
		const removing = await core.manager.remove(named("twin"));
		t.equal(removing.desired, "removed");
		await core.gone("twin");
		t.same(core.builder.active, []);
		t.notOk(core.runtime.calls.some((call) => call.startsWith("apply")));
		t.notOk((await core.blobKeys()).some((key) => key.includes("build/")));
		t.equal(await core.store.revision(id, 1), undefined);
		t.same(await linesOf(core, id), [], "no log");
		release();
		const again = await core.create("twin", "second");
		t.not(again.id, id);
		await core.at("twin", 1, "Running");
		t.equal(again.newest, 1, "numbers begin anew");
		t.same(await linesOf(core, again.id), ["building second"]);
		t.same((await core.events("twin"))[0], "1 >Pending");
	},
);

async function linesOf(core: TestCore, id: string): Promise<string[]> {
	const found: string[] = [];
	for await (const { text } of core.buildLogs.read(id, 1, { after: 0, follow: false, ended: async () => true }, never))
		found.push(text);
	return found;
}

t.test("delete is idempotent while it lasts and 404 after; a service that is going takes no changes", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	const hold = Promise.withResolvers<void>();
	core.runtime.hold = hold.promise;
	const first = await core.manager.remove(named("app"));
	const second = await core.manager.remove(named("app"));
	t.equal(second.seq, first.seq, "the second adds nothing");
	for (const change of [
		() => core.manager.update(named("app"), { env: { A: "1" } }),
		() => core.manager.put(named("app"), { env: { A: "1" } }),
		() => core.manager.stop(named("app")),
		() => core.manager.start(named("app")),
		() => core.manager.restart(named("app")),
		() => core.create("app"),
	])
		await t.rejects(async () => change(), { code: "conflict" });
	hold.resolve();
	core.runtime.hold = null;
	await core.gone("app");
	await t.rejects(core.manager.remove(named("app")), { code: "not_found" });
	t.ok(core.runtime.calls.includes(`remove ${id}`));
	t.same(
		(await core.blobKeys()).filter((key) => key.includes("build/")),
		[],
	);
});

t.test("stop keeps everything and lasts; start runs the live revision without a new one", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { url } = await core.at("app", 1, "Running");
	core.runtime.outcome = ({ revision }) => ({ kind: revision === 2 ? "hang" : "ready" });
	await core.manager.update(named("app"), { args: ["2"] });
	await core.at("app", 2, "Starting");
	await core.manager.stop(named("app"));
	await core.at("app", 1, "Stopped");
	const stopped = await core.at("app", 2, "Error");
	t.equal(revisionOf(stopped, 2)?.error?.code, "cancelled", "a target is cancelled");
	t.equal(core.runtime.servedAt(url ?? ""), null);
	t.equal((await core.manager.stop(named("app"))).seq, stopped.seq, "idempotent");
	await core.restart();
	await core.crash();
	t.equal(revisionOf(await core.queries.get(named("app")), 1)?.status, "Stopped", "over restarts of the server");
	t.equal(core.runtime.servedAt(url ?? ""), null);
	const started = await core.manager.start(named("app"));
	t.match({ newest: started.newest, status: revisionOf(started, 1)?.status }, { newest: 2, status: "Starting" });
	const running = await core.at("app", 1, "Running");
	t.equal(running.url, url, "the address is the same");
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 1);
	t.equal((await core.manager.start(named("app"))).seq, running.seq, "nothing to do where it runs");
	t.same(core.builder.begun, ["app"], "nothing was built");
});

t.test("changes while Stopping are conflicts", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	await core.at("app", 1, "Running");
	const hold = Promise.withResolvers<void>();
	core.runtime.hold = hold.promise;
	await core.manager.stop(named("app"));
	for (const change of [
		() => core.manager.update(named("app"), { env: { A: "1" } }),
		() => core.manager.update(named("app"), { metadata: { a: "1" } }),
		() => core.manager.start(named("app")),
		() => core.manager.restart(named("app")),
		() => core.manager.cancel(named("app")),
	])
		await t.rejects(async () => change(), { code: "conflict" });
	hold.resolve();
	core.runtime.hold = null;
	await core.at("app", 1, "Stopped");
	await core.manager.update(named("app"), { env: { A: "1" } });
	await core.at("app", 2, "Running");
});

t.test("restart runs the same revision anew as the next generation, and a failed one changes nothing", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id, url } = await core.at("app", 1, "Running");
	await core.manager.restart(named("app"));
	await core.reach("app", (service) => revisionOf(service, 1)?.status === "Running", "Running again");
	t.match(core.runtime.servedAt(url ?? ""), { revision: 1, generation: 2 });
	core.runtime.outcome = () => ({ kind: "fail", failure: EXITED });
	await core.manager.restart(named("app"));
	const failed = await core.reach("app", (service) => revisionOf(service, 1)?.status === "Running", "Running still");
	t.match(core.runtime.servedAt(url ?? ""), { revision: 1, generation: 2 }, "what served serves on");
	t.match(revisionOf(failed, 1)?.error, { code: "exited", exitCode: 3 }, "and the failure is seen");
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.restart(named("app"));
	await until(
		() => core.runtime.servedAt(url ?? "")?.generation === 4,
		() => "the next restart is a new one",
	);
	await core.at("app", 1, "Running");
	t.ok(core.runtime.calls.includes(`apply 1.4 ${id}`));
	t.same(core.builder.begun, ["app"]);
	await core.manager.update(named("app"), { source: await core.upload("!bad") });
	await core.at("app", 2, "Error");
	await core.manager.restart(named("app"));
	await until(
		() => core.runtime.servedAt(url ?? "")?.generation === 5,
		() => "the live one is restarted",
	);
});

t.test("what has no build cannot be started; what is on its way cannot be restarted", async (t) => {
	const core = await TestCore.open(t);
	await core.create("bad", "!bad");
	await core.at("bad", 1, "Error");
	for (const verb of ["start", "restart"] as const)
		await t.rejects(core.manager[verb](named("bad")), { code: "conflict", message: /no build/ });
	core.runtime.outcome = () => ({ kind: "hang" });
	await core.create("slow");
	await core.at("slow", 1, "Starting");
	await t.rejects(core.manager.restart(named("slow")), { code: "conflict", message: /on its way/ });
	await core.manager.start(named("slow"));
	await core.manager.stop(named("slow"));
	await core.at("slow", 1, "Error");
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.start(named("slow"));
	await core.at("slow", 1, "Running");
	t.same(core.builder.begun, ["!bad", "slow"], "its build was kept");
});

t.test("verbs on what is not there", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	for (const name of [named("nobody"), named("app", "other"), { ...named("app"), version: "v2" }])
		for (const verb of ["remove", "stop", "start", "restart", "cancel"] as const)
			await t.rejects(core.manager[verb](name), { code: "not_found" });
	await t.rejects(core.queries.get(named("nobody")), { code: "not_found" });
	await t.rejects(core.manager.update(named("nobody"), { env: {} }), { code: "not_found" });
	await t.rejects(core.queries.build(named("app"), 7), { code: "not_found", field: "revision" });
});

t.test(
	"a patch after a build that failed has the live one's source, builder and build, and what else was asked for",
	async (t) => {
		const core = await TestCore.open(t);
		await core.create("app", "1");
		await core.at("app", 1, "Running");
		const source = await core.upload("!no");
		await core.manager.update(named("app"), { source, builder: core.builder.name, env: { A: "1" } });
		await core.at("app", 2, "Error");
		await core.manager.update(named("app"), { args: ["x"] });
		const { id } = await core.at("app", 3, "Running");
		const first = await core.store.revision(id, 1);
		t.match(await core.store.revision(id, 3), {
			...{ source: first?.source, entrypoint: ".", builder: null, build: { revision: 1 } },
			...{ args: ["x"], env: { A: "1" } },
		});
	},
);
