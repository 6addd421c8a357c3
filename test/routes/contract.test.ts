import t, { type Test } from "tap";
import { bindContract } from "../../src/contract/bind.ts";
import { loadContract } from "../../src/contract/document.ts";
import { AppError } from "../../src/errors.ts";
import { archiveOf } from "../fixtures/archive.ts";
import { form, TestApp } from "../harness/app.ts";
import { named, TestCore } from "../harness/core.ts";

const never = { signal: new AbortController().signal };
const SECRET = "s3cr3t-value";

async function open(t: Test): Promise<{ core: TestCore; app: TestApp }> {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core);
	t.teardown(() => {
		if (app.faults.length > 0) throw new Error(`answers that the contract does not have:\n${app.faults.join("\n")}`);
		if (app.answered.includes(SECRET)) throw new Error("a secret was answered");
	});
	return { core, app };
}

t.test("the whole way over HTTP: every good answer is the contract's, and env values stay inside", async (t) => {
	const { core, app } = await open(t);
	const upload = await app.call(
		"POST",
		"/sources",
		form([["archive", "a.tgz", await archiveOf({ "main.fake": "hello" })]]),
	);
	t.equal(upload.status, 201);
	const { source } = upload.json();
	const created = await app.call("POST", "/services", {
		payload: { name: "hello", version: "feature/x", source, env: { TOKEN: SECRET }, metadata: { source: "./hello" } },
	});
	t.match(created, { status: 202, headers: { location: "/services/hello/feature%2Fx" } });
	const at = "/services/hello/feature%2Fx";
	for (;;) {
		const { status } = (await app.call("GET", at)).json();
		if (status === "Running") break;
		t.not(status, "Error");
	}
	for (const [method, url, payload, status] of [
		["GET", "/services?name=hello&version=feature%2Fx&status=Running&limit=1", undefined, 200],
		["GET", `${at}/revisions`, undefined, 200],
		["GET", `${at}/events`, undefined, 200],
		["GET", `${at}/logs`, undefined, 200],
		["GET", "/builds/hello/feature%2Fx", undefined, 200],
		["GET", "/builds/hello/feature%2Fx?revision=1", undefined, 200],
		["GET", "/builds/hello/feature%2Fx/log", undefined, 200],
		["PATCH", at, { metadata: { note: "x" } }, 200],
		["PUT", at, { metadata: { note: null } }, 200],
		["PATCH", at, { env: { MORE: SECRET } }, 202],
		["PUT", at, { args: ["x"] }, 202],
		["GET", "/session", undefined, 200],
		["GET", "/healthz", undefined, 200],
		["GET", "/readyz", undefined, 200],
	] as const)
		t.equal((await app.call(method, url, payload === undefined ? {} : { payload })).status, status, `${method} ${url}`);
	t.match((await app.call("GET", `${at}/revisions?limit=1`)).json(), { revisions: [{ env: ["MORE", "TOKEN"] }] });
	const { version } = (await core.queries.list("default", { matches: () => true }, 1, null)).services[0] ?? {};
	t.equal(version, "feature/x");
	for (const verb of ["restart", "stop", "start"]) {
		let status = 409;
		// What is on its way or stopping first gets there.
		while (status === 409) ({ status } = await app.call("POST", `${at}/${verb}`));
		t.equal(status, 202, verb);
	}
	let removed = await app.call("DELETE", at);
	t.equal(removed.status, 202);
	while (removed.status === 202) removed = await app.call("DELETE", at);
	t.equal(removed.status, 404);
});

t.test("limits are shown as they were asked for, and refused by their name where the server gives less", async (t) => {
	const core = await TestCore.open(t, { ceiling: { memory: 1024, cpu: 2, processes: 100 } });
	const app = await TestApp.open(t, core);
	const source = await core.upload("x");
	const limits = { memory: 512, cpu: 0.5, processes: 64 };
	const payload = { name: "app", source, limits };
	t.match((await app.call("POST", "/services", { payload })).json(), { limits });
	await core.at("app", 1, "Running");
	const at = "/services/app/latest";
	const patched = { memory: 16, processes: 64 };
	t.equal((await app.call("PATCH", at, { payload: { limits: { cpu: null, memory: 16 } } })).status, 202);
	await core.at("app", 2, "Running");
	t.same((await app.call("GET", at)).json().limits, patched);
	t.match((await app.call("GET", `${at}/revisions`)).json(), {
		revisions: [{ limits: patched }, { limits }],
	});
	const refused = [
		["POST", "/services", { name: "other", source, limits: { memory: 1025 } }, "limits/memory", /1024 MiB/],
		["PATCH", at, { limits: { cpu: 2.01 } }, "limits/cpu", /2 cores/],
		["PUT", at, { limits: { processes: 101 } }, "limits/processes", /100 processes/],
	] as const;
	for (const [method, url, payload, field, detail] of refused) {
		const answer = await app.call(method, url, { payload });
		t.match(answer.json(), { status: 400, code: "invalid_argument", field, detail });
	}
	t.equal(
		(await app.call("POST", "/services", { payload: { name: "null", source, limits: { cpu: null } } })).status,
		400,
	);
	const put = { source, limits: { cpu: null, memory: 32 } };
	t.same((await app.call("PUT", "/services/new/latest", { payload: put })).json().limits, { memory: 32 });
	t.same(app.faults, []);
});

t.test("a body that is wrong is refused by the field's name, and nothing is stored", async (t) => {
	const { core, app } = await open(t);
	const source = await core.upload("x");
	await core.create("there");
	const before = await core.at("there", 1, "Running");
	const long = "x".repeat(5000);
	const cases: readonly (readonly [string, Record<string, unknown>])[] = [
		["name", { name: "Bad_Name" }],
		["name", { name: "a".repeat(64) }],
		["name", { name: undefined }],
		["version", { version: "a b" }],
		["version", { version: ".." }],
		["source", { source: "ftp://x" }],
		["source", { source: undefined }],
		["source", { source: "source://a/b" }],
		["entrypoint", { entrypoint: "../up" }],
		["entrypoint", { entrypoint: "" }],
		["entrypoint", { entrypoint: "/abs" }],
		["args", { args: "no list" }],
		["args/0", { args: [1] }],
		["args/0", { args: [long] }],
		["env/1BAD", { env: { "1BAD": "x" } }],
		["env/KEY", { env: { KEY: 1 } }],
		["env/KEY", { env: { KEY: "x".repeat(40_000) } }],
		["metadata/a", { metadata: { a: 1 } }],
		["metadata/a", { metadata: { a: long } }],
		["health", { health: "port" }],
		["health/type", { health: { type: "tcp" } }],
		["health/path", { health: { path: "no slash" } }],
		["health/timeout", { health: { timeout: 0 } }],
		["health/timeout", { health: { timeout: "60" } }],
		["restart", { restart: "sometimes" }],
		["instances", { instances: 0 }],
		["instances", { instances: 1.5 }],
		["limits", { limits: 512 }],
		["limits/memory", { limits: { memory: 15 } }],
		["limits/memory", { limits: { memory: 64.5 } }],
		["limits/memory", { limits: { memory: "512" } }],
		["limits/memory", { limits: { memory: 1_048_577 } }],
		["limits/cpu", { limits: { cpu: 0 } }],
		["limits/cpu", { limits: { cpu: 1025 } }],
		["limits/processes", { limits: { processes: 7 } }],
		["limits/disk", { limits: { disk: 1 } }],
		["unknown", { unknown: true }],
	];
	for (const [field, wrong] of cases) {
		const what = JSON.stringify(wrong).slice(0, 60);
		const created = await app.call("POST", "/services", { payload: { name: "x", source, ...wrong } });
		t.equal(created.status, 400, `create ${what}`);
		t.equal(created.json().field, field, `create ${what}`);
		if ("name" in wrong || "version" in wrong || wrong.source === undefined) {
			if (!("source" in wrong && wrong.source !== undefined))
				if ("name" in wrong || "version" in wrong || "source" in wrong) continue;
		}
		for (const method of ["PATCH", "PUT"] as const) {
			const patched = await app.call(method, "/services/there/latest", { payload: wrong });
			t.match({ status: patched.status, field: patched.json().field }, { status: 400, field }, `${method} ${what}`);
		}
	}
	for (const payload of [
		"{",
		"null",
		"[]",
		'"text"',
		'{"name":"x","env":{"__proto__":"y"}}',
		'{"__proto__":{"name":"x"}}',
	]) {
		const answer = await app.call("POST", "/services", { payload, headers: { "content-type": "application/json" } });
		t.match({ status: answer.status, code: answer.json().code }, { status: 400, code: "invalid_argument" }, payload);
		t.type(answer.json().field, "string");
	}
	const all = await core.queries.list("default", { matches: () => true }, 10, null);
	t.same(
		all.services.map(({ name, stamp }) => [name, stamp]),
		[["there", before.stamp]],
		"nothing was stored or changed",
	);
});

t.test("names, queries and headers that are wrong are refused by name", async (t) => {
	const { app, core } = await open(t);
	await core.create("app");
	for (const [url, field] of [
		["/services/Bad_Name/latest", "name"],
		[`/services/app/${"v".repeat(129)}`, "version"],
		["/services/app/a%20b", "version"],
		["/services?limit=0", "limit"],
		["/services?limit=x", "limit"],
		["/services?limit=1&limit=2", "limit"],
		["/services?status=Fine", "status"],
		["/services?cursor=***", "cursor"],
		["/services?colour=red", "colour"],
		["/services/app/latest/logs?follow=maybe", "follow"],
		["/services/app/latest/logs?since=yesterday", "since"],
		["/services/app/latest/events?after=-1", "after"],
		["/builds/app/latest?revision=0", "revision"],
		[`/services/app/${"v".repeat(2000)}`, "path"],
		["/services/app/%zz", "path"],
	] as const) {
		const answer = await app.call("GET", url);
		t.match({ status: answer.status, field: answer.json().field }, { status: 400, field }, url.slice(0, 60));
	}
	const wrongId = await app.call("GET", "/services/app/latest/events", { headers: { "last-event-id": "x" } });
	t.match({ status: wrongId.status, field: wrongId.json().field }, { status: 400, field: /last-event-id/i });
	const namespace = await app.call("GET", "/services", { headers: { "runtime-namespace": "No!" } });
	t.match({ status: namespace.status, field: namespace.json().field }, { status: 400, field: /runtime-namespace/i });
	const withBody = await app.call("DELETE", "/services/app/latest", { payload: { now: true } });
	t.match({ status: withBody.status, field: withBody.json().field }, { status: 400, field: "body" });
	t.equal(
		(await app.call("GET", "/healthz?x=1", { headers: { accept: "image/png" } })).status,
		200,
		"probes are let in",
	);
});

t.test("every operation but the open ones asks for a token, and a tenant stays in its namespace", async (t) => {
	const { app, core } = await open(t);
	for (const operation of loadContract().operations) {
		const path = operation.path.replace("{name}", "app").replace("{version}", "latest");
		const url = operation.id === "resolveRemote" ? `${path}?source=example.com/a/b` : path;
		for (const authorization of [
			"",
			"Bearer",
			"Basic eDp5",
			`Bearer ${app.token.slice(0, -1)}x`,
			"Bearer rb_000000000000_x",
		]) {
			const answer = await app.call(operation.method, url, { headers: { authorization } });
			if (operation.open) t.equal(answer.status, 200, operation.id);
			else t.match(answer, { status: 401, headers: { "www-authenticate": /Bearer/ } }, operation.id);
		}
		if (operation.open) continue;
		const headers = { authorization: `Bearer ${app.tenant}`, "runtime-namespace": "default" };
		const payload = {
			createService: { name: "x", source: "source://x" },
			rollbackService: { revision: 1 },
			updateService: {},
			putService: {},
		};
		const body = Object.entries(payload).find(([id]) => id === operation.id)?.[1];
		const upload = operation.id === "uploadSource" ? form([["archive", "a", "x"]]) : null;
		const answer = await app.call(operation.method, url, {
			headers: { ...headers, ...upload?.headers },
			...(upload === null ? (body === undefined ? {} : { payload: body }) : { payload: upload.payload }),
		});
		t.match(
			{ status: answer.status, code: answer.json().code },
			{ status: 403, code: "permission_denied" },
			operation.id,
		);
	}
	await core.create("app");
	const own = { headers: { authorization: `Bearer ${app.tenant}` } };
	t.equal((await app.call("GET", "/services/app/latest", own)).status, 404, "another's service is not there");
	t.same((await app.call("GET", "/services", own)).json(), { services: [] });
});

t.test("wrong paths, methods, types and sizes", async (t) => {
	const { app, core } = await open(t);
	const source = await core.upload("x");
	t.equal((await app.call("GET", "/nowhere")).json().code, "not_found");
	for (const [method, url, allow] of [
		["DELETE", "/services", "GET, POST"],
		["GET", "/sources", "POST"],
		["PATCH", "/services/app/latest/stop", "POST"],
		["POST", "/services/a%2Fb/latest", "GET, PUT, PATCH, DELETE"],
	] as const) {
		const answer = await app.call(method, url);
		t.match(
			{ ...answer, code: answer.json().code },
			{ status: 405, headers: { allow }, code: "method_not_allowed" },
			url,
		);
	}
	for (const accept of ["text/html", "application/json;q=0", "image/*"])
		t.equal((await app.call("GET", "/services", { headers: { accept } })).json().code, "not_acceptable", accept);
	for (const accept of ["*/*", "application/*", "application/json", "text/html, application/json;q=0.1"])
		t.equal((await app.call("GET", "/services", { headers: { accept } })).status, 200, accept);
	for (const type of ["text/plain", "application/xml", "multipart/form-data; boundary=x"])
		t.equal(
			(await app.call("POST", "/services", { payload: "x", headers: { "content-type": type } })).status,
			415,
			type,
		);
	t.equal((await app.call("POST", "/sources", { payload: { a: 1 } })).status, 415);
	const huge = await app.call("POST", "/services", {
		payload: { name: "x", source, metadata: { a: "x".repeat(1024 ** 2) } },
	});
	t.match({ status: huge.status, code: huge.json().code }, { status: 413, code: "too_large" });
	const merge = { payload: "{}", headers: { "content-type": "application/merge-patch+json" } };
	t.equal((await app.call("PATCH", "/services/nobody/latest", merge)).status, 404);
	await core.create("app");
	t.equal((await app.call("POST", "/services", { payload: { name: "app", source } })).status, 409);
	t.equal(
		(await app.call("POST", "/services", { payload: { name: "new", source: "source://gone" } })).json().field,
		"source",
	);
	await core.at("app", 1, "Running");
	t.equal((await app.call("POST", "/services/app/latest/cancel", { payload: {} })).status, 409);
});

t.test("what breaks in the server is a 5xx without its words", async (t) => {
	const { app, core } = await open(t);
	for (const [error, status, code] of [
		[new Error(`EIO at ${SECRET}`), 500, "internal"],
		[new AppError("internal", SECRET), 500, "internal"],
		[new AppError("unavailable", SECRET, { hint: SECRET }), 503, "unavailable"],
	] as const) {
		core.life.fault = () => {
			throw error;
		};
		const answer = await app.call("GET", "/services");
		t.match({ status: answer.status, code: answer.json().code }, { status, code });
		t.type(answer.json().requestId, "string");
		if (status === 503) t.equal(answer.headers["retry-after"], "1");
	}
	core.life.fault = () => "none";
	app.ready = false;
	t.equal((await app.call("GET", "/readyz")).status, 503);
	t.equal((await app.call("GET", "/healthz")).status, 200);
});

t.test("builds: whole, in ranges, conditionally, and their headers alone", async (t) => {
	const { app, core } = await open(t);
	await core.create("app", "hello");
	await core.at("app", 1, "Running");
	const url = "/builds/app/latest";
	const whole = "program: hello";
	const get = async (headers: Record<string, string>) => {
		const { status, body, headers: got } = await app.call("GET", url, { headers });
		return { status, body, range: got["content-range"], length: got["content-length"], etag: got.etag };
	};
	const { etag, length } = await get({});
	t.match({ etag, length }, { etag: /^"sha256:[0-9a-f]{64}"$/, length: "14" });
	const size = whole.length;
	for (const [range, status, body, content] of [
		["bytes=0-3", 206, "prog", `bytes 0-3/${size}`],
		["bytes=9-", 206, "hello", `bytes 9-13/${size}`],
		["bytes=-5", 206, "hello", `bytes 9-13/${size}`],
		["bytes=-500", 206, whole, `bytes 0-13/${size}`],
		["bytes=3-900", 206, whole.slice(3), `bytes 3-13/${size}`],
		["bytes=0-1,4-5", 200, whole, undefined],
		["lines=1-2", 200, whole, undefined],
		["bytes=5-2", 200, whole, undefined],
		["bytes=-", 200, whole, undefined],
	] as const)
		t.match(await get({ range }), { status, body, range: content }, range);
	for (const range of ["bytes=14-", "bytes=99-100", "bytes=-0"]) {
		const answer = await app.call("GET", url, { headers: { range } });
		t.equal(answer.status, 416, range);
		t.equal(answer.headers["content-range"], `bytes */${size}`, "it says how large the file is");
	}
	const tag = String(etag);
	for (const match of [tag, `"x", ${tag}`, "*", `W/${tag}`])
		t.match(await get({ "if-none-match": match }), { status: 304, body: "" });
	t.equal((await get({ "if-none-match": '"other"' })).status, 200);
	t.equal((await get({ range: "bytes=0-0", "if-range": tag })).status, 206);
	t.equal((await get({ range: "bytes=0-0", "if-range": '"other"' })).status, 200);
	const head = await app.call("HEAD", url);
	t.match(head, { status: 200, body: "", headers: { etag, "content-length": "14", "accept-ranges": "bytes" } });
	t.equal((await app.call("HEAD", "/builds/nobody/latest")).status, 404);
	await core.create("bad", "!bad");
	await core.at("bad", 1, "Error");
	t.equal((await app.call("GET", "/builds/bad/latest")).status, 404);
	t.equal((await app.call("GET", "/builds/bad/latest?revision=1")).status, 404);
});

t.test("the contract is served as it is written, and no operation can be forgotten", async (t) => {
	const { app } = await open(t);
	const contract = loadContract();
	t.equal((await app.call("GET", "/openapi.yaml")).body, contract.text);
	const handlers = Object.fromEntries(contract.operations.map(({ id }) => [id, async () => undefined]));
	const options = { authorize: async () => undefined, deadline: never.signal };
	const bind = (changed: Record<string, unknown>) =>
		bindContract(app.app, contract, { ...handlers, ...changed } as never, options);
	t.throws(() => bind({ uploadSource: undefined }), /uploadSource has no handler/);
});

t.test("listing in pages is the same list", async (t) => {
	const { app, core } = await open(t);
	const source = await core.upload("x");
	for (const version of ["v1", "a/b", "v3"]) await core.manager.create("default", { ...named("app"), version, source });
	const found: unknown[] = [];
	let cursor = "";
	do {
		const page = (await app.call("GET", `/services?limit=1${cursor === "" ? "" : `&cursor=${cursor}`}`)).json();
		if (Array.isArray(page.services)) found.push(...page.services.map(({ version }) => version));
		cursor = String(page.nextCursor ?? "");
	} while (cursor !== "");
	t.same(found, ["a/b", "v1", "v3"]);
});
