import t from "tap";
import { AppError } from "../../src/errors.ts";
import { revisionOf } from "../../src/manager/model.ts";
import { named, TestCore, until } from "../harness/core.ts";

t.test(
	"the asynchronous flow: every move, in order, to Running at an address with the build's own bytes",
	async (t) => {
		const core = await TestCore.open(t);
		const created = await core.create("hello", "one", { env: { KEY: "value" }, args: ["-addr", "$HOST:$PORT"] });
		t.equal(revisionOf(created, 1)?.status, "Pending", "answered before anything is built");
		t.equal((await core.store.get(named("hello")))?.stamp, 1, "and stored");
		const service = await core.at("hello", 1, "Running");
		t.same(await core.events("hello"), [
			"1 >Pending",
			"1 Pending>Building",
			"1 Building>Starting",
			"1 Starting>Running",
		]);
		const spec = core.runtime.servedAt(service.url ?? "");
		t.match(spec, {
			revision: 1,
			generation: 1,
			env: { KEY: "value" },
			args: ["-addr", "$HOST:$PORT"],
			restart: "on-failure",
		});
		const build = await core.queries.build(named("hello"), undefined);
		const chunks: Uint8Array[] = [];
		for await (const chunk of await build.open({ signal: new AbortController().signal }))
			chunks.push(Buffer.from(chunk));
		t.equal(Buffer.concat(chunks).toString(), "program: one");
		const log: string[] = [];
		for await (const { text } of core.buildLogs.read(
			service.id,
			1,
			{ after: 0, follow: false, ended: async () => true },
			never,
		))
			log.push(text);
		t.same(log, ["building one"]);
	},
);

const never = { signal: new AbortController().signal };

t.test("a build that fails is saved with its place, and nothing is started", async (t) => {
	const core = await TestCore.open(t);
	await core.create("bad", "ok\n!missing semicolon");
	const service = await core.at("bad", 1, "Error");
	t.match(revisionOf(service, 1)?.error, {
		code: "build_failed",
		phase: "build",
		retryable: false,
		exitCode: 1,
		diagnostics: [{ file: "main.fake", line: 2, column: 1, message: "missing semicolon" }],
	});
	t.same(await core.events("bad"), ["1 >Pending", "1 Pending>Building", "1 Building>Error build_failed"]);
	t.notOk(core.runtime.calls.some((call) => call.startsWith("apply")));
	t.equal(service.live, null);
});

t.test("a failed update keeps the old revision and is seen; a patch then goes on from the newest wish", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "v1", { env: { A: "1" } });
	const { url } = await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { source: await core.upload("!v2"), env: { B: "2" } });
	const failed = await core.at("app", 2, "Error");
	t.match({ live: failed.live, url: failed.url }, { live: 1, url });
	t.equal(revisionOf(failed, 1)?.status, "Running");
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 1);
	await core.manager.update(named("app"), { source: await core.upload("v3"), env: { A: null, C: "3" } });
	const mended = await core.at("app", 3, "Running");
	t.same(revisionOf(mended, 3)?.env, { B: "2", C: "3" }, "what revision 2 asked for is kept");
	await core.at("app", 1, "Stopped");
	t.match(await core.events("app"), [
		...["1 >Pending", "1 Pending>Building", "1 Building>Starting", "1 Starting>Running"],
		...["2 >Pending", "2 Pending>Building", "2 Building>Error build_failed"],
		...["3 >Pending", "3 Pending>Building", "3 Building>Starting", "3 Starting>Running"],
		...["1 Running>Stopping", "1 Stopping>Stopped"],
	]);
	t.equal(core.runtime.servedAt(url ?? "")?.revision, 3, "at the same address");
});

t.test("a patch of a failed first revision, without a source, builds the source that was asked for", async (t) => {
	const core = await TestCore.open(t);
	await core.create("first", "!no");
	await core.at("first", 1, "Error");
	await core.manager.update(named("first"), { env: { X: "1" } });
	await core.at("first", 2, "Error");
	t.same(core.builder.begun, ["!no", "!no"]);
});

t.test("an update of env alone keeps the build; a changed entrypoint does not", async (t) => {
	const core = await TestCore.open(t);
	await core.create("env", "same", { env: { A: "1" } });
	await core.at("env", 1, "Running");
	await core.manager.update(named("env"), { env: { A: "2" } });
	const updated = await core.at("env", 2, "Running");
	t.same(core.builder.begun, ["same"]);
	t.same((await core.events("env")).slice(4, 7), ["2 >Pending", "2 Pending>Starting", "2 Starting>Running"]);
	t.equal(core.runtime.servedAt(updated.url ?? "")?.env.A, "2");
	await core.manager.update(named("env"), { entrypoint: "elsewhere" });
	const missing = await core.at("env", 3, "Error");
	t.match(revisionOf(missing, 3)?.error, { code: "source_invalid", phase: "source" });
	t.match(revisionOf(missing, 3)?.error?.message, /main\.fake/, "names what would be a program");
});

t.test("metadata alone makes no revision and restarts nothing", async (t) => {
	const core = await TestCore.open(t);
	await core.create("meta", "m", { metadata: { a: "1", b: "2" } });
	await core.at("meta", 1, "Running");
	const { service, revised } = await core.manager.update(named("meta"), { metadata: { a: null, c: "3" } });
	t.match({ revised, newest: service.newest }, { revised: false, newest: 1 });
	t.same(service.metadata, { b: "2", c: "3" });
	t.equal(core.runtime.calls.filter((call) => call.startsWith("apply")).length, 1);
});

t.test("put creates, and then updates; without a source it cannot create", async (t) => {
	const core = await TestCore.open(t);
	await t.rejects(core.manager.put(named("ci"), { env: { A: "1" } }), { code: "not_found", field: "source" });
	const source = await core.upload("ci");
	t.equal((await core.manager.put(named("ci"), { source, env: { A: "1", B: null } })).service.newest, 1);
	await core.at("ci", 1, "Running");
	const { service } = await core.manager.put(named("ci"), { env: { C: "3" } });
	t.same(revisionOf(service, 2)?.env, { A: "1", C: "3" });
	await core.at("ci", 2, "Running");
	t.equal(core.builder.begun.length, 1);
});

t.test("what a create refuses is not stored", async (t) => {
	const core = await TestCore.open(t);
	await t.rejects(core.manager.create("default", { name: "x", source: "source://nowhere" }), {
		code: "not_found",
		field: "source",
	});
	const source = await core.upload("x", "other");
	await t.rejects(core.manager.create("default", { name: "x", source }), { code: "not_found", field: "source" });
	await t.rejects(core.queries.get(named("x")), { code: "not_found" });
	await core.create("x");
	await t.rejects(core.create("x"), { code: "conflict" });
});

t.test("no more builds at a time than allowed, first come first served", async (t) => {
	const core = await TestCore.open(t, { parallelBuilds: 2 });
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	for (const name of ["a", "b", "c", "d", "e"]) await core.create(name);
	await until(
		() => core.builder.active.length === 2,
		() => "two builds are under way",
	);
	t.equal((await core.store.get(named("e")))?.revisions[0]?.status, "Pending");
	await core.manager.cancel(named("c"));
	gate.resolve();
	for (const name of ["a", "b", "d", "e"]) await core.at(name, 1, "Running");
	t.equal(core.builder.mostActive, 2);
	t.notOk(core.builder.begun.includes("c"), "what was cancelled while it waited is never built");
});

t.test("a build that takes too long, and one whose source is gone", async (t) => {
	const core = await TestCore.open(t, { buildTimeoutMs: 30 });
	core.builder.gate = () => new Promise(() => undefined);
	await core.create("slow");
	const slow = await core.at("slow", 1, "Error");
	t.match(revisionOf(slow, 1)?.error, { code: "build_timeout", phase: "build" });
	t.same(core.builder.active, []);
	const source = await core.upload("lost");
	await core.blobs.in("default").delete(`source/${source.slice("source://".length)}`, never);
	await core.manager.create("default", { name: "lost", source });
	const lost = await core.at("lost", 1, "Error");
	t.match(revisionOf(lost, 1)?.error, { code: "source_invalid", phase: "source", message: /upload it again/ });
});

t.test("an archive that is no archive, and a builder that breaks", async (t) => {
	const core = await TestCore.open(t);
	const body = (async function* () {
		yield Buffer.from("no gzip");
	})();
	const { id } = await core.manager.upload("default", body, { ...never, maxBytes: 100 });
	await core.manager.create("default", { name: "torn", source: `source://${id}` });
	t.match(revisionOf(await core.at("torn", 1, "Error"), 1)?.error, { code: "source_invalid", message: /not gzip/ });
	core.builder.gate = async () => {
		throw new Error("EIO at /secret/place");
	};
	await core.create("broken");
	const { error } = revisionOf(await core.at("broken", 1, "Error"), 1) ?? {};
	t.match(error, { code: "internal", phase: "build", retryable: true });
	t.notMatch(JSON.stringify(error), /secret/, "what broke in the server stays in its log");
	t.ok(core.logged.some(({ level, message }) => level === "error" && message === "a build failed"));
});

t.test("a build that cannot be stored is Error(internal) in phase build_store, and can be tried again", async (t) => {
	const core = await TestCore.open(t);
	for (const [name, code] of [
		["full", "no_space"],
		["down", "unavailable"],
	] as const) {
		const source = await core.upload(name);
		const put = core.blobStore.put.bind(core.blobStore);
		core.blobStore.put = async () => {
			throw new AppError(code, "write /secret/place");
		};
		await core.manager.create("default", { name, source });
		const { error } = revisionOf(await core.at(name, 1, "Error"), 1) ?? {};
		t.match(error, { code: "internal", phase: "build_store", retryable: true });
		t.notMatch(JSON.stringify(error), /secret/);
		core.blobStore.put = put;
		await core.manager.update(named(name), { source });
		await core.at(name, 2, "Running");
	}
});

t.test("services are listed by name and version, filtered, in pages", async (t) => {
	const core = await TestCore.open(t);
	const source = await core.upload("x");
	for (const name of ["b", "a", "c"])
		for (const version of ["v2", "v1", "a/b"]) await core.manager.create("default", { name, version, source });
	const all = { matches: () => true };
	const names: string[] = [];
	for (let after = null as ReturnType<typeof named> | null; ; ) {
		const page = await core.queries.list("default", all, 4, after);
		names.push(...page.services.map(({ name, version }) => `${name}:${version}`));
		if (page.next === null) break;
		after = page.next;
	}
	t.same(names, ["a:a/b", "a:v1", "a:v2", "b:a/b", "b:v1", "b:v2", "c:a/b", "c:v1", "c:v2"]);
	const filtered = await core.queries.list("default", { name: "b", version: "v1", ...all }, 10, null);
	t.equal(filtered.services.length, 1);
	t.equal((await core.queries.list("other", all, 10, null)).services.length, 0);
	t.equal(
		(await core.queries.list("default", { matches: ({ version }) => version === "v2" }, 2, null)).next?.name,
		"b",
	);
});

t.test("a runtime that is one trust domain keeps a second namespace out", async (t) => {
	const core = await TestCore.open(t, { trust: "one_namespace" });
	await core.create("mine");
	const source = await core.upload("x", "other");
	await t.rejects(core.manager.create("other", { name: "theirs", source }), {
		code: "permission_denied",
		message: /namespace default/,
		hint: /data folder/,
	});
	await core.create("mine2");
	for (const name of ["mine", "mine2"]) await core.manager.remove(named(name));
	for (const name of ["mine", "mine2"]) await core.gone(name);
	const sources = { a: await core.upload("x", "a"), b: await core.upload("x", "b") };
	const results = await Promise.allSettled([
		core.manager.create("a", { name: "first", source: sources.a }),
		core.manager.create("b", { name: "first", source: sources.b }),
	]);
	t.same(results.map(({ status }) => status).sort(), ["fulfilled", "rejected"], "of two at once, one");
});
