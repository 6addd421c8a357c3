import t, { type Test } from "tap";
import { TestApp } from "../harness/app.ts";
import { named, TestCore } from "../harness/core.ts";

const HOUR = 3_600_000;

async function open(t: Test): Promise<{ core: TestCore; app: TestApp; clock: { ahead: number } }> {
	const clock = { ahead: 0 };
	const core = await TestCore.open(t, { ahead: () => clock.ahead });
	const app = await TestApp.open(t, core);
	t.teardown(() => {
		if (app.faults.length > 0) throw new Error(`answers that the contract does not have:\n${app.faults.join("\n")}`);
	});
	return { core, app, clock };
}

const key = (value: string) => ({ "idempotency-key": value });
const AT = "/services/app/latest";

t.test(
	"POST, PUT, PATCH and rollback: the same key and body make one revision, sequentially and ten at once",
	async (t) => {
		const { core, app } = await open(t);
		const source = await core.upload("1");
		let revisions = 0;
		let keys = 0;
		for (const [method, url, payload, status, made] of [
			["POST", "/services", { name: "app", source }, 202, 1],
			["PATCH", AT, { env: { A: "1" } }, 202, 1],
			["PUT", AT, { source: await core.upload("3") }, 202, 1],
			["POST", `${AT}/rollback`, { revision: 1 }, 202, 1],
			["PATCH", AT, { metadata: { note: "x" } }, 200, 0],
			["PUT", "/services/other/latest", { source }, 202, 0],
		] as const) {
			const what = `${method} ${url} ${JSON.stringify(payload)}`;
			const headers = key(`key-${++keys}`);
			const send = () => app.call(method, url, { payload, headers });
			const answers = await Promise.all(Array.from({ length: 10 }, send));
			answers.push(await send(), await send());
			t.same([...new Set(answers.map((answer) => answer.status))], [status], what);
			const replayed = answers.filter(({ headers }) => headers["idempotency-replayed"] === "true");
			t.equal(replayed.length, 11, `${what}: one was made`);
			t.equal(new Set(answers.map((answer) => answer.json().id)).size, 1);
			revisions += made;
			const service = await core.queries.get(named("app"));
			t.equal(service.newest, revisions, what);
			await core.at("app", revisions, "Running");
			await core.reach("app", (one) => one.revisions.length === 1, "what it replaced has ended");
		}
		t.equal((await core.queries.get(named("other"))).newest, 1);
		t.same(
			(await core.queries.revisions(named("app"), 10, null)).map(({ revision }) => revision),
			[4, 3, 2, 1],
		);
	},
);

t.test("a create whose twin is done between its two looks is answered as that one", async (t) => {
	const { core, app } = await open(t);
	const payload = { name: "app", source: await core.upload("1") };
	const send = () => app.call("POST", "/services", { payload, headers: key("twin") });
	const { store } = core;
	const get = store.get.bind(store);
	let twin: Awaited<ReturnType<typeof send>> | undefined;
	store.get = async (name) => {
		store.get = get;
		twin = await send();
		return get(name);
	};
	const answer = await send();
	t.equal(twin?.status, 202);
	t.match(answer, { status: 202, headers: { "idempotency-replayed": "true" } });
	t.equal(answer.json().id, twin?.json().id);
});

t.test("ten creates at once without a key: one is made, nine are conflicts", async (t) => {
	const { core, app } = await open(t);
	const source = await core.upload("1");
	const answers = await Promise.all(
		Array.from({ length: 10 }, () => app.call("POST", "/services", { payload: { name: "app", source } })),
	);
	t.same(answers.map(({ status }) => status).sort(), [202, ...Array.from({ length: 9 }, () => 409)]);
});

t.test("another body, another path or another verb with the same key is refused by the field's name", async (t) => {
	const { core, app } = await open(t);
	const source = await core.upload("1");
	const headers = key("k");
	t.equal((await app.call("POST", "/services", { payload: { name: "app", source }, headers })).status, 202);
	await core.at("app", 1, "Running");
	for (const [method, url, payload] of [
		["POST", "/services", { name: "app", source, env: { A: "1" } }],
		["POST", "/services", { name: "app2", source }],
		["PATCH", AT, { name: "app", source }],
		["PATCH", AT, { env: { A: "1" } }],
		["PUT", AT, { source }],
		["POST", `${AT}/rollback`, { revision: 1 }],
	] as const) {
		const answer = await app.call(method, url, { payload, headers });
		if (answer.status === 400) t.equal(answer.json().field, "name", "a PATCH has no name");
		else
			t.match({ ...answer.json() }, { status: 422, code: "key_reused", field: "Idempotency-Key" }, `${method} ${url}`);
	}
	const elsewhere = { ...headers, "runtime-namespace": "other" };
	const other = await core.upload("1", "other");
	const answer = await app.call("POST", "/services", { payload: { name: "app", source: other }, headers: elsewhere });
	t.equal(answer.status, 202, "keys are each namespace's own");
	t.equal((await core.queries.get(named("app"))).newest, 1);
});

t.test("kept over restarts and crashes, for a day, and not longer", async (t) => {
	const clock = { ahead: 0 };
	const core = await TestCore.open(t, { ahead: () => clock.ahead });
	const source = await core.upload("1");
	const once = { key: "k", hash: "h" };
	const create = () => core.manager.create("default", { name: "app", source }, { once });
	t.equal((await create()).replayed, false);
	await core.at("app", 1, "Running");
	await core.restart();
	t.match(await create(), { replayed: true, revision: 1, service: { newest: 1 } });
	await core.crash();
	t.match(await create(), { replayed: true });
	clock.ahead = 23.9 * HOUR;
	await core.collector.collect({ signal: new AbortController().signal });
	t.match(await create(), { replayed: true });
	clock.ahead = 24.1 * HOUR;
	await t.rejects(create(), { code: "conflict" }, "forgotten in time, collected or not");
	const change = { source: await core.upload("2") };
	const update = () => core.manager.update(named("app"), change, { once });
	t.equal((await update()).replayed, false, "the key can be used for something else");
	t.match(await update(), { replayed: true, revision: 2 });
});

t.test("a server that dies before or after the commit, or whose commit fails: one revision, by the key", async (t) => {
	for (const fault of ["die_before", "die_after", "fail_before", "fail_after"] as const)
		for (const verb of ["create", "update", "rollback"] as const) {
			const core = await TestCore.open(t);
			const source = await core.upload("1");
			if (verb !== "create") {
				await core.manager.create("default", { name: "app", source });
				await core.at("app", 1, "Running");
			}
			const options = { once: { key: "k", hash: "h" } };
			const run = () => {
				if (verb === "create") return core.manager.create("default", { name: "app", source }, options);
				if (verb === "update") return core.manager.update(named("app"), { env: { A: "1" } }, options);
				return core.manager.rollback(named("app"), 1, options);
			};
			let tried = false;
			const { life } = core;
			life.fault = (name) => {
				if (tried || name !== "store.commit") return "none";
				tried = true;
				return fault;
			};
			const first = run().then(
				() => "answered",
				() => "refused",
			);
			t.equal(await Promise.race([first, life.died.then(() => "died")]), fault.startsWith("die") ? "died" : "refused");
			if (life.dead) await core.crash();
			const again = await run();
			t.equal(again.replayed, fault.endsWith("after"), `${verb} ${fault}`);
			const wanted = verb === "create" ? 1 : 2;
			await core.at("app", wanted, "Running");
			t.equal((await run()).replayed, true);
			t.equal((await core.queries.get(named("app"))).newest, wanted);
		}
});

t.test("what was made with a key and has been removed since is 410, for every verb", async (t) => {
	const { core, app } = await open(t);
	const source = await core.upload("1");
	const requests = [
		["POST", "/services", { name: "app", source }, "a"],
		["PATCH", AT, { source }, "b"],
		["PATCH", AT, { env: { A: "1" } }, "c"],
		["PUT", AT, { source }, "d"],
		["POST", `${AT}/rollback`, { revision: 1 }, "e"],
	] as const;
	for (const [method, url, payload, name] of requests) {
		t.equal((await app.call(method, url, { payload, headers: key(name) })).status, 202, name);
		await core.reach("app", ({ revisions }) => revisions.length === 1 && revisions[0]?.status === "Running", "runs");
	}
	await core.manager.remove(named("app"));
	await core.gone("app");
	for (const [method, url, payload, name] of requests) {
		const answer = await app.call(method, url, { payload, headers: key(name) });
		t.match(answer.json(), { status: 410, code: "gone", field: "Idempotency-Key" }, `${method} ${name}`);
	}
	t.equal(await core.store.get(named("app")), undefined, "nothing was made");
});

t.test("If-Match: right, wrong, *, a list, and never a namesake's", async (t) => {
	const { core, app } = await open(t);
	const source = await core.upload("1");
	const created = await app.call("POST", "/services", { payload: { name: "app", source } });
	await core.at("app", 1, "Running");
	const tag = async () => String((await app.call("GET", AT)).headers.etag);
	const change = (match: string, method: "PATCH" | "PUT" = "PATCH") =>
		app.call(method, AT, { payload: { metadata: { at: match } }, headers: { "if-match": match } });
	const first = await tag();
	t.not(first, created.headers.etag, "every change has another tag");
	t.match(first, /^"[^"]+"$/);
	t.equal(await tag(), first, "and no change has the same");
	for (const method of ["PATCH", "PUT"] as const) {
		const right = await change(await tag(), method);
		t.equal(right.status, 200);
		t.equal(right.headers.etag, await tag(), "the answer has the new one");
		const wrong = await change(first, method);
		t.match(wrong.json(), { status: 412, code: "precondition_failed", field: "If-Match" });
		t.equal((await change("*", method)).status, 200);
		t.equal((await change(`"x", ${await tag()}`, method)).status, 200);
		t.equal((await change('"x", "y"', method)).status, 412);
		t.equal((await change(`W/${await tag()}`, method)).status, 412, "a weak tag does not match");
	}
	const stale = { headers: { "if-match": first } };
	t.equal((await app.call("POST", `${AT}/rollback`, { payload: { revision: 1 }, ...stale })).status, 412);
	t.equal((await app.call("DELETE", AT, stale)).status, 412);
	t.equal((await core.queries.get(named("app"))).desired, "running");
	const before = await tag();
	t.equal((await app.call("DELETE", AT, { headers: { "if-match": before } })).status, 202);
	await core.gone("app");
	t.equal(
		(await app.call("PUT", AT, { payload: { source }, headers: { "if-match": "*" } })).status,
		412,
		"nothing to match",
	);
	t.equal(await core.store.get(named("app")), undefined);
	await core.manager.create("default", { name: "app", source });
	await core.at("app", 1, "Running");
	for (const old of [first, before, String(created.headers.etag)])
		t.equal((await change(old)).status, 412, "a namesake's");
});

t.test("of ten updates with one tag, one is made", async (t) => {
	const { core, app } = await open(t);
	await core.create("app");
	await core.at("app", 1, "Running");
	const headers = { "if-match": String((await app.call("GET", AT)).headers.etag) };
	const answers = await Promise.all(
		Array.from({ length: 10 }, (_, index) =>
			app.call("PATCH", AT, { payload: { metadata: { n: `${index}` } }, headers }),
		),
	);
	t.same(answers.map(({ status }) => status).sort(), [200, ...Array.from({ length: 9 }, () => 412)]);
});

t.test("an answer is replayed although the server gives less and has other builders since", async (t) => {
	const options = { ceiling: { memory: 2048, cpu: 4, processes: 100 } };
	const core = await TestCore.open(t, options);
	const source = await core.upload("1");
	const asked = { limits: { memory: 2048 }, builder: "fake" };
	const requests = [
		() => core.manager.create("default", { name: "app", source, ...asked }, { once: { key: "a", hash: "a" } }),
		() => core.manager.update(named("app"), { source, ...asked }, { once: { key: "b", hash: "b" } }),
		() => core.manager.put(named("app"), { source, ...asked }, { once: { key: "c", hash: "c" } }),
		() => core.manager.rollback(named("app"), 1, { once: { key: "d", hash: "d" } }),
	];
	for (const [index, request] of requests.entries()) {
		t.equal((await request()).replayed, false);
		await core.at("app", index + 1, "Running");
	}
	for (const change of [
		() => Object.assign(options, { ceiling: { memory: 1024, cpu: 4, processes: 100 } }),
		() => Object.defineProperty(core.builder, "name", { value: "other" }),
	]) {
		change();
		await core.restart();
		for (const [index, request] of requests.entries())
			t.match(await request(), { replayed: true, revision: index + 1 });
	}
	const anew = { once: { key: "e", hash: "e" } };
	const refused = { code: "invalid_argument" };
	await t.rejects(core.manager.update(named("app"), asked, anew), { ...refused, field: "limits/memory" });
	await t.rejects(core.manager.update(named("app"), { builder: "fake" }, anew), { ...refused, field: "builder" });
});
