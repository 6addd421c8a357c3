import t from "tap";
import type { ServiceSpec } from "../../src/runtimes/runtime.ts";
import { named, TestCore } from "../harness/core.ts";

const CEILING = { memory: 1024, cpu: 2, processes: 100 };

/** What the runtime is told, by revision. */
function told(core: TestCore): Map<number, ServiceSpec["limits"]> {
	const limits = new Map<number, ServiceSpec["limits"]>();
	core.runtime.outcome = (spec) => {
		limits.set(spec.revision, spec.limits);
		return { kind: "ready" };
	};
	return limits;
}

t.test("limits are kept over revisions, go with null, and come back with a rollback", async (t) => {
	const core = await TestCore.open(t, { ceiling: CEILING });
	const limits = told(core);
	await core.create("app", "1", { limits: { memory: 512, cpu: 0.5, processes: 64 } });
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { args: ["x"] });
	await core.at("app", 2, "Running");
	await core.manager.update(named("app"), { limits: { memory: null, cpu: 1.5 } });
	await core.at("app", 3, "Running");
	await core.manager.update(named("app"), { limits: { cpu: null, processes: null } });
	await core.at("app", 4, "Running");
	await core.manager.rollback(named("app"), 3);
	await core.at("app", 5, "Running");
	const first = { memory: 512 * 1024 ** 2, cpu: 500, pids: 64 };
	const third = { cpu: 1500, pids: 64 };
	t.same(
		[...limits],
		[
			[1, first],
			[2, first],
			[3, third],
			[4, undefined],
			[5, third],
		],
	);
	const { id } = await core.queries.get(named("app"));
	t.same((await core.store.revision(id, 5))?.limits, { cpu: 1.5, processes: 64 });
	t.same((await core.store.revision(id, 4))?.limits, {});
	t.equal((await core.store.revision(id, 3))?.build?.revision, 1, "nothing was built for them");
});

t.test("more than the operator allows is refused by the field's name, and nothing is made of it", async (t) => {
	const core = await TestCore.open(t, { ceiling: CEILING });
	const source = await core.upload("x");
	await core.create("app", "x", { limits: CEILING });
	const before = await core.at("app", 1, "Running");
	for (const [limits, field, message] of [
		[{ memory: 1025 }, "limits/memory", /at most 1024 MiB/],
		[{ cpu: 2.001 }, "limits/cpu", /at most 2 cores/],
		[{ memory: 16, processes: 101 }, "limits/processes", /at most 100 processes/],
	] as const) {
		const refusal = { code: "invalid_argument", field, message };
		await t.rejects(core.manager.create("default", { name: "other", source, limits }), refusal);
		await t.rejects(core.manager.put(named("other"), { source, limits }), refusal);
		await t.rejects(core.manager.put(named("app"), { limits }), refusal);
		await t.rejects(core.manager.update(named("app"), { limits }), refusal);
	}
	t.equal((await core.queries.get(named("app"))).stamp, before.stamp);
	await t.rejects(core.queries.get(named("other")), { code: "not_found" });
});

t.test("a runtime that cannot hold programs to anything is asked for nothing", async (t) => {
	const core = await TestCore.open(t);
	const limits = told(core);
	const source = await core.upload("x");
	for (const name of ["memory", "cpu", "processes"]) {
		const refusal = { code: "invalid_argument", field: `limits/${name}`, message: /have no limits/ };
		await t.rejects(core.manager.create("default", { name: "app", source, limits: { [name]: 16 } }), refusal);
		await t.rejects(core.manager.put(named("app"), { source, limits: { [name]: 16 } }), refusal);
	}
	await core.manager.put(named("app"), { source, limits: { memory: null } });
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { limits: { cpu: null } });
	await core.at("app", 2, "Running");
	t.same(
		[...limits],
		[
			[1, undefined],
			[2, undefined],
		],
	);
});

t.test("under a ceiling that was lowered what runs goes on, and no new run exceeds it", async (t) => {
	const options = { ceiling: { memory: 2048, cpu: 4, processes: 100 } };
	const core = await TestCore.open(t, options);
	const limits = told(core);
	const source = await core.upload("2");
	await core.create("app", "1", { limits: { memory: 2048, cpu: 4, processes: 64 } });
	await core.at("app", 1, "Running");
	options.ceiling = CEILING;
	await core.restart();
	const before = await core.at("app", 1, "Running");
	const said = (hint: RegExp) => ({
		code: "invalid_argument",
		field: "limits/memory",
		message: "revision 1 has a limit of 2048 MiB and 4 cores, and this server gives at most 1024 MiB and 2 cores",
		hint,
	});
	const send = /end less for limits\/memory and limits\/cpu, or null for the server's default; or ask the operator/;
	await t.rejects(core.manager.update(named("app"), { source }), said(send));
	await t.rejects(core.manager.put(named("app"), { env: { A: "1" } }), said(send));
	await t.rejects(core.manager.rollback(named("app"), 1), said(/^Update the service with that revision's source/));
	await t.rejects(core.manager.restart(named("app")), said(/^Update the service, and send less/));
	const cpu = { code: "invalid_argument", field: "limits/cpu" };
	await t.rejects(core.manager.update(named("app"), { limits: { memory: 512 } }), cpu);
	await core.manager.update(named("app"), { metadata: { note: "x" } });
	const { revisions, newest } = await core.manager.start(named("app"));
	t.same(revisions, before.revisions, "it runs, and nothing was made of what was refused");
	t.equal(newest, 1);
	await core.manager.stop(named("app"));
	await core.at("app", 1, "Stopped");
	await t.rejects(core.manager.start(named("app")), said(/^Update the service/));
	await core.manager.update(named("app"), { limits: { memory: 512, cpu: null } });
	await core.at("app", 2, "Running");
	t.same(limits.get(2), { memory: 512 * 1024 ** 2, pids: 64 });
	await core.manager.restart(named("app"));
	await core.at("app", 2, "Running");
});

t.test("a server that has come to hold programs to nothing says which limits to take away", async (t) => {
	const options: { ceiling: typeof CEILING | null } = { ceiling: CEILING };
	const core = await TestCore.open(t, options);
	await core.create("app", "1", { limits: { processes: 64 } });
	await core.at("app", 1, "Running");
	options.ceiling = null;
	await core.restart();
	await t.rejects(core.manager.restart(named("app")), {
		code: "invalid_argument",
		field: "limits/processes",
		message: "revision 1 has a limit of 64 processes, and programs that run as processes have no limits",
		hint: "Update the service, and send null for limits/processes.",
	});
	await core.manager.update(named("app"), { limits: { processes: null } });
	await core.at("app", 2, "Running");
});
