import t from "tap";
import { AppError } from "../../src/errors.ts";
import { revisionOf } from "../../src/manager/model.ts";
import type { RuntimeFailure } from "../../src/runtimes/runtime.ts";
import { named, TestCore, until } from "../harness/core.ts";

const never = { signal: new AbortController().signal };
const failure = (code: RuntimeFailure["code"], exitCode: number | null = null): RuntimeFailure => ({
	...{ code, exitCode },
	message: `it is ${code}`,
	lastLines: ["last words"],
});

t.test("a runtime that cannot be reached makes a service Unknown, and it comes back", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { url } = await core.at("app", 1, "Running");
	core.runtime.broken = new AppError("unavailable", "no route");
	await core.crash();
	const unknown = await core.at("app", 1, "Unknown");
	t.equal(unknown.url, url);
	core.runtime.broken = null;
	await core.at("app", 1, "Running");
	t.same((await core.events("app")).slice(-2), ["1 Running>Unknown", "1 Unknown>Running"]);
	t.equal(core.runtime.calls.filter((call) => call.startsWith("apply")).length, 1, "nothing was started again");
});

t.test("a runtime that refuses a program ends the revision, and what serves goes on", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { url } = await core.at("app", 1, "Running");
	const apply = core.runtime.apply.bind(core.runtime);
	core.runtime.apply = async () => {
		throw new Error("EACCES /secret/place");
	};
	await core.manager.update(named("app"), { args: ["2"] });
	const { error } = revisionOf(await core.at("app", 2, "Error"), 2) ?? {};
	t.match(error, { code: "internal", phase: "start", retryable: true });
	t.notMatch(JSON.stringify(error), /secret/);
	await core.manager.restart(named("app"));
	const restarted = await core.reach("app", (one) => revisionOf(one, 1)?.status === "Running", "Running still");
	t.equal(revisionOf(restarted, 1)?.error?.code, "internal", "a restart that was refused is seen");
	t.match(core.runtime.servedAt(url ?? ""), { revision: 1, generation: 1 }, "and changes nothing");
	core.runtime.apply = apply;
	await core.manager.restart(named("app"));
	await until(
		() => core.runtime.servedAt(url ?? "")?.generation === 3,
		() => "the next restart works",
	);
});

t.test("a program that ends is Starting with the reason, and Running again", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	core.runtime.become(id, 1, "starting", failure("exited", 2));
	const starting = await core.at("app", 1, "Starting");
	t.match(revisionOf(starting, 1)?.error, { code: "exited", phase: "run", exitCode: 2, lastLines: ["last words"] });
	core.runtime.become(id, 1, "ready");
	t.equal(revisionOf(await core.at("app", 1, "Running"), 1)?.error, null);
});

t.test("a crash loop is an Error that may be seen Running again, and can be stopped", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	core.runtime.become(id, 1, "failed", failure("crash_loop", 1));
	t.equal(revisionOf(await core.at("app", 1, "Error"), 1)?.error?.code, "crash_loop");
	core.runtime.become(id, 1, "starting");
	core.runtime.become(id, 1, "ready");
	await core.at("app", 1, "Running");
	core.runtime.become(id, 1, "failed", failure("crash_loop", 1));
	await core.at("app", 1, "Error");
	await core.manager.stop(named("app"));
	await core.at("app", 1, "Stopped");
	t.same((await core.events("app")).slice(4), [
		...["1 Running>Error crash_loop", "1 Error>Running", "1 Running>Error crash_loop"],
		...["1 Error>Stopping", "1 Stopping>Stopped"],
	]);
	t.same((await core.runtime.observe({ ...named("app"), id }, never)).revisions, []);
});

t.test("ended with 0: Stopped and live, and not started again; an Error where an older revision serves", async (t) => {
	const core = await TestCore.open(t);
	core.runtime.outcome = () => ({ kind: "end" });
	await core.create("job");
	const job = await core.at("job", 1, "Stopped");
	t.equal(job.live, 1);
	await core.crash();
	await core.queries.build(named("job"), undefined);
	t.equal(core.runtime.calls.filter((call) => call.startsWith("apply")).length, 1);
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.start(named("job"));
	await core.at("job", 1, "Running");
	core.runtime.outcome = () => ({ kind: "end" });
	await core.manager.update(named("job"), { args: ["2"] });
	const failed = await core.at("job", 2, "Error");
	t.match(revisionOf(failed, 2)?.error, { code: "exited", exitCode: 0 });
	t.match({ live: failed.live, status: revisionOf(failed, 1)?.status }, { live: 1, status: "Running" });
});

t.test("never listening and leaving before ready are the runtime's words, saved", async (t) => {
	const core = await TestCore.open(t);
	for (const code of ["not_listening", "exited"] as const) {
		core.runtime.outcome = () => ({ kind: "fail", failure: failure(code) });
		await core.create(code.replace("_", "-"));
		const service = await core.at(code.replace("_", "-"), 1, "Error");
		t.match(revisionOf(service, 1)?.error, { code, phase: "start", message: `it is ${code}` });
		t.equal(service.live, null);
	}
});

t.test("a shutdown in good order puts builds back, and the next server builds them", async (t) => {
	const core = await TestCore.open(t, { parallelBuilds: 1 });
	core.builder.gate = () => new Promise(() => undefined);
	await core.create("app");
	await core.create("waiting");
	await until(
		() => core.builder.active.length === 1,
		() => "one is building",
	);
	await core.restart(async () => {
		t.same(core.builder.active, [], "no build outlives the server");
		for (const name of ["app", "waiting"])
			t.equal((await core.store.get(named(name)))?.revisions[0]?.status, "Pending", name);
		core.builder.gate = async () => undefined;
	});
	for (const name of ["app", "waiting"]) await core.at(name, 1, "Running");
	const events = await Promise.all([core.events("app"), core.events("waiting")]);
	t.ok(events.flat().includes("1 Building>Pending"));
	const service = await core.queries.get(named("app"));
	const log: string[] = [];
	for await (const { text, seq } of core.buildLogs.read(
		service.id,
		1,
		{ after: 0, follow: false, ended: async () => true },
		never,
	))
		log.push(`${seq} ${text}`);
	t.match(log, ["1 building app", /going down/, "3 building app"], "the log goes on where it was");
});

t.test("what a crash stopped goes on: in Pending, Building, Starting, Running, Stopping and in a delete", async (t) => {
	const core = await TestCore.open(t, { parallelBuilds: 1 });
	core.builder.gate = () => new Promise(() => undefined);
	await core.create("building");
	await until(
		() => core.builder.active.length === 1,
		() => "it is building",
	);
	await core.create("pending");
	core.bury();
	core.builder.gate = async () => undefined;
	await core.begin();
	for (const name of ["building", "pending"]) await core.at(name, 1, "Running");
	t.ok((await core.events("building")).includes("1 Building>Pending"));

	core.runtime.outcome = () => ({ kind: "hang" });
	const { id } = await core.create("starting");
	await until(
		() => core.runtime.calls.includes(`apply 1.1 ${id}`),
		() => "it was applied",
	);
	core.bury();
	core.runtime.become(id, 1, "ready");
	await core.begin();
	await core.at("starting", 1, "Running");
	t.equal(core.runtime.calls.filter((call) => call === `apply 1.1 ${id}`).length, 1, "what runs is adopted");

	core.runtime.outcome = () => ({ kind: "ready" });
	core.runtime.hold = new Promise(() => undefined);
	await core.manager.stop(named("building"));
	await core.manager.remove(named("starting"));
	core.bury();
	core.runtime.hold = null;
	await core.begin();
	await core.at("building", 1, "Stopped");
	await core.gone("starting");
	const running = await core.queries.get(named("pending"));
	t.equal(core.runtime.servedAt(running.url ?? "")?.id, running.id);
});

t.test("what the runtime lost is started again; what runs without a record is removed", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	const spec = core.runtime.servedAt((await core.store.get(named("app")))?.url ?? "");
	if (spec === null) throw new Error("it serves");
	await core.runtime.apply({ ...spec, id: "stranger", name: "stranger" }, never);
	core.bury();
	await core.runtime.remove(spec, never);
	await core.begin();
	await until(
		() => core.runtime.calls.includes("remove stranger"),
		() => "the stranger is removed",
	);
	await until(
		() => core.runtime.calls.filter((call) => call === `apply 1.1 ${id}`).length === 2,
		() => "it is applied again",
	);
	await until(
		async () => core.runtime.servedAt((await core.queries.get(named("app"))).url ?? "")?.id === id,
		() => "it serves again",
	);
	await core.at("app", 1, "Running");
});

t.test("the sweep removes bytes without a record, and nothing else", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { args: ["shares the build"] });
	await core.at("app", 2, "Running");
	const before = await core.blobKeys();
	const bytes = async function* () {
		yield Buffer.from("bytes");
	};
	for (const key of ["source/nobody", "build/nobody/1", `build/${id}/2`, `build/${id}/9`])
		await core.blobs.in("default").put(key, bytes(), never);
	await core.blobs.in("other").put(`build/${id}/1`, bytes(), never);
	await core.crash();
	t.same(
		await core.blobKeys(),
		before.filter((key) => !key.startsWith("other/")),
	);
});

t.test("records that cannot be written for a while lose nothing and leave nothing stuck", async (t) => {
	const core = await TestCore.open(t);
	const source = await core.upload("app");
	let commits = 0;
	core.life.fault = (name) => (name === "store.commit" && ++commits > 1 && commits < 12 ? "fail_before" : "none");
	await core.manager.create("default", { name: "app", source });
	await core.at("app", 1, "Running");
	t.ok(commits >= 12, `${commits} commits were tried`);
	core.life.fault = (name) => (name === "store.commit" && ++commits < 40 ? "fail_after" : "none");
	await t.rejects(core.manager.update(named("app"), { args: ["2"] }), { code: "unavailable" });
	core.life.fault = () => "none";
	await core.manager.start(named("app"));
	await core.at("app", 2, "Running");
});
