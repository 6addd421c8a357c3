import t, { type Test } from "tap";
import { archiveOf } from "../fixtures/archive.ts";
import { form, TestApp } from "../harness/app.ts";
import { type CoreOptions, TestCore } from "../harness/core.ts";
import { FakeLauncher } from "../harness/fake-launcher.ts";

const never = { signal: new AbortController().signal };
const AT = "/services/app/latest";

async function open(t: Test, options: CoreOptions = {}): Promise<{ core: TestCore; app: TestApp }> {
	const core = await TestCore.open(t, options);
	const app = await TestApp.open(t, core);
	t.teardown(() => {
		if (app.faults.length > 0) throw new Error(`answers that the contract does not have:\n${app.faults.join("\n")}`);
	});
	return { core, app };
}

t.test("a rollback is answered with 202 and what it made; then 404, 409, 410 and 400 by field", async (t) => {
	const { core, app } = await open(t, { keepBuilds: 1 });
	await core.create("app", "1");
	await core.at("app", 1, "Running");
	await core.manager.update(
		{ namespace: "default", name: "app", version: "latest" },
		{ source: await core.upload("!no") },
	);
	await core.at("app", 2, "Error");
	const back = (payload: object) => app.call("POST", `${AT}/rollback`, { payload });
	const done = await back({ revision: 1 });
	t.match(done, { status: 202, headers: { etag: /^"/ } });
	t.match(done.json(), { name: "app", target: { revision: 3, status: "Pending", error: null } });
	await core.at("app", 3, "Running");
	t.match((await app.call("GET", `/builds/app/latest`)).body, "program: 1");
	t.match((await back({ revision: 2 })).json(), {
		status: 409,
		code: "conflict",
		field: "revision",
		hint: /revisions/,
	});
	t.match((await back({ revision: 99 })).json(), { status: 404, code: "not_found", field: "revision" });
	for (const payload of [{}, { revision: 0 }, { revision: "1" }, { revision: 1, more: true }])
		t.equal((await back(payload)).status, 400);
	await core.manager.update(
		{ namespace: "default", name: "app", version: "latest" },
		{ source: await core.upload("4") },
	);
	await core.at("app", 4, "Running");
	await core.reach("app", ({ revisions }) => revisions.length === 1, "what it replaced has ended");
	await core.collector.collect(never);
	t.match((await back({ revision: 1 })).json(), { status: 410, code: "gone", field: "revision", hint: /./ });
	t.match((await app.call("GET", "/builds/app/latest?revision=1")).json(), { status: 410, code: "gone" });
	const { revisions } = (await app.call("GET", `${AT}/revisions`)).json() as { revisions: { build: unknown }[] };
	t.same(
		revisions.map(({ build }) => build !== null),
		[true, false, false, false],
		"what is collected is not shown as a build",
	);
});

t.test("more uploads than the server takes are 429, and say when to come again", async (t) => {
	const { core } = await open(t);
	const app = await TestApp.open(t, core, { uploads: { parallel: 1, pauseMs: 60_000 } });
	const archive = await archiveOf({ "main.fake": "hello" });
	const gate = Promise.withResolvers<void>();
	const held = Promise.withResolvers<void>();
	core.life.pace = (name) => {
		if (name !== "blobs.put") return undefined;
		held.resolve();
		return gate.promise;
	};
	const first = app.call("POST", "/sources", form([["archive", "a.tgz", archive]]));
	// Of two that are sent at once, either may be taken.
	await held.promise;
	let second = await app.call("POST", "/sources", form([["archive", "a.tgz", archive]]));
	t.match(second, { status: 429, headers: { "retry-after": "1" } });
	t.match(second.json(), { code: "exhausted", hint: /again/ });
	gate.resolve();
	t.equal((await first).status, 201);
	second = await app.call("POST", "/sources", form([["archive", "a.tgz", archive]]));
	t.equal(second.status, 201);
	t.same(app.faults, []);
});

t.test("synchronously: 201 when it runs, 422 with what went wrong, 504, 200 for changes", async (t) => {
	const launcher = new FakeLauncher();
	const { core, app } = await open(t, { launchers: [launcher], synchronousTimeoutMs: 2000 });
	const create = async (text: string) =>
		app.call("POST", "/services", { payload: { name: "app", source: await core.upload(text) } });
	const bad = await create("!no");
	t.match(bad.json(), {
		...{ status: 422, code: "build_failed" },
		error: {
			code: "build_failed",
			phase: "build",
			diagnostics: [{ file: "main.fake", line: 1, column: 1, message: "no" }],
		},
	});
	core.runtime.outcome = () => ({ kind: "hang" });
	const late = await create("slow");
	t.match(late.json(), { status: 504, code: "deadline" });
	t.equal((await app.call("GET", AT)).status, 404);
	core.runtime.outcome = () => ({ kind: "ready" });
	const good = await create("good");
	t.match(good, { status: 201, headers: { location: "/services/app/latest", etag: /^"/ } });
	t.match(good.json(), { status: "Running", revision: 1, target: null, build: null });
	t.equal((await create("good")).status, 409);
	const patch = (payload: object) => app.call("PATCH", AT, { payload });
	t.match((await patch({ env: { A: "1" } })).json(), { status: "Running", revision: 2 });
	t.equal((await patch({ env: { A: "2" } })).status, 200);
	const failed = await patch({ source: await core.upload("!no") });
	t.match(failed.json(), { status: 422, error: { code: "build_failed" } });
	t.match((await app.call("GET", AT)).json(), {
		status: "Running",
		revision: 3,
		target: { revision: 4, status: "Error" },
	});
	t.equal((await app.call("POST", `${AT}/rollback`, { payload: { revision: 1 } })).status, 200);
	const made = await app.call("PUT", "/services/other/latest", { payload: { source: await core.upload("x") } });
	t.equal(made.status, 200);
});
