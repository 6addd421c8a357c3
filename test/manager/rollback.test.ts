import t from "tap";
import { revisionOf } from "../../src/manager/model.ts";
import { named, TestCore, until } from "../harness/core.ts";

const never = { signal: new AbortController().signal };

async function built(core: TestCore, name: string, revision?: number): Promise<string> {
	const chunks: Uint8Array[] = [];
	for await (const chunk of await (await core.queries.build(named(name), revision)).open(never)) chunks.push(chunk);
	return Buffer.concat(chunks).toString();
}

t.test("a rollback is a new revision with the old build, arguments and environment; nothing is built", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "one", { args: ["-v", "1"], env: { TEXT: "one", ONLY: "1" }, restart: "always" });
	const first = await core.at("app", 1, "Running");
	for (let number = 2; number <= 6; number++) {
		const source = await core.upload(`${number}`);
		await core.manager.update(named("app"), { source, args: [`${number}`], env: { TEXT: `${number}`, ONLY: null } });
		await core.at("app", number, "Running");
	}
	const before = [...core.builder.begun];
	const keys = await core.blobKeys();
	const { service, revised, revision } = await core.manager.rollback(named("app"), 1);
	t.match({ revised, revision, newest: service.newest }, { revised: true, revision: 7, newest: 7 });
	const rolled = await core.at("app", 7, "Running");
	const record = revisionOf(rolled, 7);
	const old = await core.store.revision(first.id, 1);
	t.same(
		[record?.args, record?.env, record?.restart, record?.source, record?.build],
		[["-v", "1"], { TEXT: "one", ONLY: "1" }, "always", old?.source, old?.build],
	);
	t.match(core.runtime.servedAt(rolled.url ?? ""), { revision: 7, env: { TEXT: "one", ONLY: "1" }, args: ["-v", "1"] });
	t.equal(await built(core, "app"), "program: one", "the old bytes");
	t.equal(rolled.url, first.url);
	t.same(core.builder.begun, before, "no builder was called");
	t.same(await core.blobKeys(), keys, "and nothing was stored");
	const moves = (await core.events("app")).filter((event) => event.startsWith("7 "));
	t.same(moves, ["7 >Pending", "7 Pending>Starting", "7 Starting>Running"], "it is never Building");
	t.equal((await core.store.revision(first.id, 1))?.status, "Stopped", "the old revision stays what it was");
	await core.crash();
	await core.manager.rollback(named("app"), 6);
	await core.at("app", 8, "Running");
	t.equal(await built(core, "app"), "program: 6", "forward again, after a crash");
});

t.test("what cannot be rolled back to", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1 });
	await core.create("app", "1");
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { source: await core.upload("!bad") });
	await core.at("app", 2, "Error");
	const before = await core.store.get(named("app"));
	await t.rejects(core.manager.rollback(named("app"), 2), { code: "conflict", field: "revision" }, "never built");
	await t.rejects(core.manager.rollback(named("app"), 9), { code: "not_found", field: "revision" });
	await t.rejects(core.manager.rollback(named("nobody"), 1), { code: "not_found" });
	await t.rejects(core.manager.rollback(named("app", "other"), 1), { code: "not_found" });
	t.same(await core.store.get(named("app")), before, "nothing was changed");
	await core.manager.update(named("app"), { source: await core.upload("3") });
	await core.at("app", 3, "Running");
	await core.at("app", 1, "Stopped");
	t.equal((await core.collector.collect(never)).builds, 1);
	await t.rejects(core.manager.rollback(named("app"), 1), { code: "gone", field: "revision" });
	await t.rejects(core.queries.build(named("app"), 1), { code: "gone" });
});

t.test("a rollback supersedes what is on its way, and is superseded", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	const { id } = await core.at("app", 1, "Running");
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	await core.manager.update(named("app"), { source: await core.upload("2") });
	await until(
		() => core.builder.active.length === 1,
		() => "revision 2 is building",
	);
	await core.manager.rollback(named("app"), 1);
	await core.at("app", 3, "Running");
	t.match((await core.store.revision(id, 2))?.error, { code: "superseded", phase: "build" });
	t.same(core.builder.active, [], "its build has ended");
	gate.resolve();
	core.runtime.outcome = ({ revision }) => ({ kind: revision === 4 ? "hang" : "ready" });
	await core.manager.rollback(named("app"), 1);
	await core.at("app", 4, "Starting");
	await core.manager.rollback(named("app"), 3);
	await core.at("app", 5, "Running");
	t.match((await core.store.revision(id, 4))?.error, { code: "superseded", phase: "start" });
	t.equal(await built(core, "app"), "program: 1");
});

t.test("a rollback of what is stopping or going is a conflict; of what is stopped it runs", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { source: await core.upload("2") });
	await core.at("app", 2, "Running");
	const hold = Promise.withResolvers<void>();
	core.runtime.hold = hold.promise;
	await core.manager.stop(named("app"));
	await t.rejects(core.manager.rollback(named("app"), 1), { code: "conflict", message: /stopped/ });
	hold.resolve();
	core.runtime.hold = null;
	await core.at("app", 2, "Stopped");
	await core.manager.rollback(named("app"), 1);
	await core.at("app", 3, "Running");
	t.equal(await built(core, "app"), "program: 1");
	const again = Promise.withResolvers<void>();
	core.runtime.hold = again.promise;
	await core.manager.remove(named("app"));
	await t.rejects(core.manager.rollback(named("app"), 1), { code: "conflict", message: /removed/ });
	again.resolve();
	core.runtime.hold = null;
	await core.gone("app");
});

t.test("a rollback whose program does not start leaves the one before it serving", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { source: await core.upload("2") });
	const { url } = await core.at("app", 2, "Running");
	const failure = { code: "exited" as const, message: "exited", exitCode: 1, lastLines: [] };
	core.runtime.outcome = () => ({ kind: "fail", failure });
	await core.manager.rollback(named("app"), 1);
	t.equal(revisionOf(await core.at("app", 3, "Error"), 3)?.error?.code, "exited");
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 2);
	t.equal(await built(core, "app"), "program: 2");
});
