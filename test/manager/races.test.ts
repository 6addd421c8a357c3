import t from "tap";
import { named, TestCore } from "../harness/core.ts";

t.test("a restart while it is being restarted is another restart, not an error", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app");
	await core.at("app", 1, "Running");
	core.runtime.outcome = () => ({ kind: "hang" });
	await core.manager.restart(named("app"));
	await core.at("app", 1, "Starting");
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.restart(named("app"));
	await core.at("app", 1, "Running");
	const [record] = (await core.queries.get(named("app"))).revisions;
	t.equal(record?.generation, 3);
});

t.test("a crash loop that ends well is Stopped", async (t) => {
	const core = await TestCore.open(t);
	const { id } = await core.create("app");
	await core.at("app", 1, "Running");
	const failure = { code: "crash_loop", message: "five exits", exitCode: 1, lastLines: [] } as const;
	core.runtime.become(id, 1, "failed", failure);
	await core.at("app", 1, "Error");
	core.runtime.become(id, 1, "ended");
	await core.at("app", 1, "Stopped");
});

t.test("of PUTs of a new name at the same time one creates and the others update", async (t) => {
	const core = await TestCore.open(t);
	const source = await core.upload("ci");
	const put = (turn: number) => core.manager.put(named("ci"), { source, env: { TURN: String(turn) } });
	const made = await Promise.all(Array.from({ length: 20 }, (_, turn) => put(turn)));
	t.same(
		made.map(({ revision }) => revision).sort((a, b) => a - b),
		Array.from({ length: 20 }, (_, index) => index + 1),
	);
	await core.at("ci", 20, "Running");
});
