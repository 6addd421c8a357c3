import { rm } from "node:fs/promises";
import t, { type Test } from "tap";
import { revisionOf } from "../../src/manager/model.ts";
import { type CoreOptions, named, TestCore, until } from "../harness/core.ts";
import { FakeLauncher } from "../harness/fake-launcher.ts";

const never = { signal: new AbortController().signal };

/** Services that run, whose folders are gone and are being made again, for as long as `gate` holds. */
async function remaking(t: Test, names: readonly string[], options: CoreOptions = {}) {
	const launcher = new FakeLauncher();
	const core = await TestCore.open(t, { launchers: [launcher], parallelBuilds: names.length + 1, ...options });
	const services = [];
	for (const name of names) {
		const source = await core.upload(name);
		services.push((await core.changes.create("default", { name, source }, {}, never)).service);
	}
	const gate = Promise.withResolvers<void>();
	launcher.gate = () => gate.promise;
	for (const { id, name } of services) {
		await rm(core.directories.path(id, 1), { recursive: true });
		await core.manager.restart(named(name));
	}
	await until(
		() => launcher.active.length === names.length,
		() => `${names.length} are being made again; there are ${launcher.active.length}`,
	);
	return { core, launcher, gate };
}

t.test("a stop, a delete and a shutdown end what makes a folder again", async (t) => {
	const { core, launcher } = await remaking(t, ["stopped", "deleted"]);
	await core.manager.stop(named("stopped"));
	await core.at("stopped", 1, "Stopped");
	t.same(launcher.active, ["deleted"]);
	await core.manager.remove(named("deleted"));
	await core.gone("deleted");
	t.same(launcher.active, []);
	await core.manager.start(named("stopped"));
	await until(
		() => launcher.active.length === 1,
		() => "it is being made again",
	);
	await core.restart(async () => {
		t.same(launcher.active, []);
		launcher.gate = async () => undefined;
	});
	t.match(revisionOf(await core.at("stopped", 1, "Running"), 1), { error: null });
});

t.test("folders that are being made again hold nobody else up, and are run when they are made", async (t) => {
	// More than the services that are looked after at the same time.
	const names = Array.from({ length: 17 }, (_, index) => `app${index}`);
	const { core, launcher, gate } = await remaking(t, names);
	launcher.gate = async () => undefined;
	const source = await core.upload("another");
	await core.changes.create("default", { name: "another", source }, {}, never);
	await core.at("another", 1, "Running");
	t.equal(launcher.active.length, names.length);
	gate.resolve();
	for (const name of names)
		await until(
			async () => core.runtime.servedAt((await core.queries.get(named(name))).url ?? "")?.generation === 2,
			() => `${name} was started anew`,
		);
	t.equal(launcher.prepared.length, 2 * names.length + 1, "each was made again once");
});

t.test("an update is built while the folder of the one before it is made again", async (t) => {
	const { core, launcher } = await remaking(t, ["app"]);
	launcher.gate = async () => undefined;
	const { service } = await core.changes.update(named("app"), { source: await core.upload("new") }, {}, never);
	t.equal(service.live, 2);
	await until(
		() => launcher.active.length === 0,
		() => "what is not needed any more is not made",
	);
});

t.test("a folder that cannot be made again is an Error with the reason, and is not tried for ever", async (t) => {
	const { core, launcher, gate } = await remaking(t, ["app"]);
	gate.reject(new Error("it cannot be made"));
	await until(
		() => core.logged.some(({ message }) => message === "a start failed"),
		() => "it is said",
	);
	// The run before the restart serves on.
	t.match(revisionOf(await core.at("app", 1, "Running"), 1), { generation: 1, error: { phase: "start" } });
	t.equal(launcher.prepared.length, 2);
});

t.test("a folder that cannot be made again, where that cannot be recorded, is tried less and less often", async (t) => {
	const { core, launcher, gate } = await remaking(t, ["app"], { retryMs: { first: 20, most: 10_000 } });
	const begun: number[] = [];
	launcher.gate = async () => {
		begun.push(Date.now());
		throw new Error("it cannot be made");
	};
	core.life.fault = (name) => (name === "store.commit" ? "fail_before" : "none");
	gate.reject(new Error("it cannot be made"));
	await until(
		() => begun.length > 5,
		() => `it is tried again; so far at ${begun}`,
	);
	t.ok(Number(begun[5]) - Number(begun[0]) >= 40 + 80 + 160 + 320 + 640 - 10, `tried at ${begun}`);
	core.life.fault = () => "none";
	await core.reach("app", ({ revisions }) => revisions[0]?.error?.phase === "start", "it is recorded at last");
});
