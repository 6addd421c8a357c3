import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect as plain, type Socket } from "node:net";
import { connect } from "node:tls";
import t from "tap";
import { AppError } from "../../src/errors.ts";
import type { LoadingLimits } from "../../src/loading/listener.ts";
import { named, until } from "../harness/core.ts";
import { ask, Desk } from "./desk.ts";

t.test("the right credential gets the build, whole, in part and by head alone", async (t) => {
	const desk = await Desk.open(t);
	const { id } = await desk.core.create("app", "hello", { version: "feature/x" });
	const find = () => desk.core.queries.get({ ...named("app"), version: "feature/x" });
	await until(
		async () => (await find()).live === 1,
		() => `${id} runs`,
	);
	const app = await find();
	t.match(desk.loading.pass(app, 1).url, /\/builds\/app\/feature%2Fx\?revision=1$/);
	const bytes = Buffer.from("program: hello");
	const sha256 = createHash("sha256").update(bytes).digest("hex");

	const whole = await desk.load(app, 1);
	t.equal(whole.status, 200);
	t.same(whole.body, bytes);
	t.match(whole.headers, {
		...{ etag: `"sha256:${sha256}"`, "accept-ranges": "bytes", "content-length": String(bytes.length) },
		...{ "content-type": "application/octet-stream", "cache-control": "private, no-cache" },
		"repr-digest": `sha-256=:${Buffer.from(sha256, "hex").toString("base64")}:`,
	});
	const head = await desk.load(app, 1, { method: "HEAD" });
	t.equal(head.status, 200);
	t.equal(head.body.length, 0);
	t.equal(head.headers["content-length"], String(bytes.length));

	const resume = { range: "bytes=9-", "if-range": `"sha256:${sha256}"` };
	const rest = await desk.load(app, 1, { headers: resume });
	t.equal(rest.status, 206);
	t.equal(rest.headers["content-range"], `bytes 9-13/${bytes.length}`);
	t.equal(rest.body.toString(), "hello");
	const other = await desk.load(app, 1, { headers: { range: "bytes=9-", "if-range": '"sha256:00"' } });
	t.equal(other.status, 200, "of another file there is no rest");
	const beyond = await desk.load(app, 1, { headers: { range: "bytes=99-" } });
	t.equal(beyond.status, 416);
	t.equal(beyond.headers["content-range"], `bytes */${bytes.length}`);
	t.equal((await desk.load(app, 1, { headers: { "if-none-match": `"sha256:${sha256}"` } })).status, 304);
	t.equal((await desk.load(app, 1, { headers: { "runtime-namespace": "default" } })).status, 200);
});

t.test("a credential is for one build alone", async (t) => {
	const desk = await Desk.open(t);
	const { core, loading } = desk;
	const app = await desk.running("app", "one");
	const other = await desk.running("other", "two");
	await core.manager.create("team", { name: "app", source: await core.upload("theirs", "team") });
	await until(
		async () => (await core.store.get(named("app", "team")))?.live === 1,
		() => "the other namespace's runs",
	);
	const theirs = await core.queries.get(named("app", "team"));
	const { url, ca, token } = loading.pass(app, 1);
	const refused = async (what: string, given: string | undefined, detail: RegExp, at = url, headers = {}) => {
		const answer = await ask(ca, at, { ...(given === undefined ? {} : { token: given }), headers });
		t.equal(answer.status, 401, what);
		t.equal(answer.code, "unauthenticated", what);
		t.match(answer.detail, detail, what);
		t.match(answer.headers["www-authenticate"], /^Bearer/, what);
	};
	const elsewhere = /for another build/;
	const unknown = /not issued here, or its service was removed/;
	await refused("none", undefined, /needs a credential/);
	await refused("nonsense", "nonsense", unknown);
	await refused("an API token's form", "rb_0123456789ab_0123456789012345678901234567890123456789012", unknown);
	await refused("altered", `${token.slice(0, -3)}AAA`, unknown);
	await refused("altered revision", token.replace(".1.", ".2."), unknown);
	await refused("no such service", loading.token({ namespace: "default", id: "nobody" }, 1), unknown);
	await refused("same id, other namespace", loading.token({ namespace: "team", id: app.id }, 1), unknown);
	await refused("other namespace's", loading.token(theirs, 1), unknown, url, {
		authorization: `Bearer ${loading.token({ ...theirs, namespace: "default" }, 1)}`,
	});
	await refused("other service's", loading.token(other, 1), elsewhere);
	await refused("other revision's", loading.token(app, 2), elsewhere);
	await refused("for what is not there", token, elsewhere, url.replace("/app/", "/nothing/"));
	await refused("for what is there", token, elsewhere, url.replace("/app/", "/other/"));
	await refused("other version", token, elsewhere, url.replace("/latest", "/v2"));
	await refused("other version, with a slash", token, elsewhere, url.replace("/latest", "/feature%2Fx"));
	await refused("a header of another namespace", token, elsewhere, url, { "runtime-namespace": "team" });

	// The path is the same for both namespaces: only the credential says whose.
	t.equal((await desk.load(theirs, 1)).body.toString(), "program: theirs");
	t.equal((await desk.load(app, 1)).body.toString(), "program: one");
	for (const query of ["", "?revision=", "?revision=0", "?revision=1x", "?revision=1&revision=1", "?revision=1e3"]) {
		const answer = await ask(ca, url.replace(/\?.*/, query), { token });
		t.equal(answer.status, 400, query);
		t.equal(answer.code, "invalid_argument", query);
		t.match(answer.detail, /revision/, query);
	}
});

t.test("a credential is revoked when its revision goes, and holds as long as it may run", async (t) => {
	const desk = await Desk.open(t);
	const { core } = desk;
	const status = async (service: Parameters<Desk["load"]>[0], revision: number) => {
		const answer = await desk.load(service, revision);
		if (answer.status === 401) t.match(answer.detail, /revoked|removed/);
		return answer.status;
	};
	const app = await desk.running("app", "one");

	core.runtime.outcome = () => ({ kind: "hang" });
	await core.manager.update(named("app"), { source: await core.upload("two") });
	await core.at("app", 2, "Starting");
	t.equal(await status(app, 1), 200, "live, while another one starts");
	t.equal(await status(app, 2), 200, "starting");
	const failure = { code: "exited", message: "exited with code 1", exitCode: 1, lastLines: [] } as const;
	core.runtime.become(app.id, 2, "failed", failure);
	await core.at("app", 2, "Error");
	t.equal(await status(app, 2), 401, "failed");
	t.equal(await status(app, 1), 200, "live, after a failed update: its container may be started again");

	core.runtime.become(app.id, 1, "failed", { ...failure, code: "crash_loop" });
	await core.at("app", 1, "Error");
	t.equal(await status(app, 1), 200, "in a crash loop it is tried again");
	core.runtime.become(app.id, 1, "ready");
	await core.at("app", 1, "Running");

	core.runtime.outcome = () => ({ kind: "ready" });
	await core.manager.update(named("app"), { source: await core.upload("three") });
	await core.at("app", 3, "Running");
	await core.at("app", 1, "Stopped");
	t.equal(await status(app, 3), 200, "live");
	t.equal(await status(app, 1), 401, "replaced");

	await core.manager.rollback(named("app"), 1);
	await core.at("app", 4, "Running");
	t.same(
		(await desk.load(app, 4)).body.toString(),
		"program: one",
		"a rollback's build is stored under another number",
	);
	t.equal(await status(app, 1), 401, "and what was rolled back to is not what runs");

	await core.manager.stop(named("app"));
	t.equal(await status(app, 4), 401, "to be stopped");
	await core.at("app", 4, "Stopped");
	t.equal(await status(app, 4), 401, "stopped");
	await core.manager.start(named("app"));
	t.equal(await status(app, 4), 200, "started again");
	await core.at("app", 4, "Running");

	await core.crash();
	desk.loading.serve(core.queries);
	t.equal(await status(app, 4), 200, "after a crash of the server");

	await core.manager.remove(named("app"));
	t.equal(await status(app, 4), 401, "removed");
	await core.gone("app");
	t.equal(await status(app, 4), 401, "gone");
	const again = await desk.running("app", "namesake");
	const { url, ca } = desk.loading.pass(again, 1);
	t.equal((await ask(ca, url, { token: desk.loading.token(app, 1) })).status, 401, "a namesake shares nothing");
});

t.test("what is being drained may load; what nobody sees yet too; bytes that are gone are not found", async (t) => {
	const desk = await Desk.open(t);
	const { core, loading } = desk;
	const app = await desk.running("app", "one");
	const revisions = app.revisions.map((revision) => ({ ...revision, status: "Stopping" as const }));
	const real = core.queries;
	const as = (change: object) =>
		loading.serve({
			byId: async (id) => {
				const service = await real.byId(id);
				return service === undefined ? undefined : { ...service, ...change };
			},
			buildOf: (service, revision) => real.buildOf(service, revision),
		});
	as({ revisions });
	t.equal((await desk.load(app, 1)).status, 200, "drained");
	as({ revisions, desired: "stopped" });
	t.equal((await desk.load(app, 1)).status, 401, "stopping for good");
	as({ hidden: true });
	t.equal((await desk.load(app, 1)).status, 200, "hidden");
	as({ hidden: true, desired: "removed" });
	t.equal((await desk.load(app, 1)).status, 401, "hidden and given up");
	as({ revisions: app.revisions.map((revision) => ({ ...revision, status: "Unknown" })) });
	t.equal((await desk.load(app, 1)).status, 200, "the runtime cannot be asked");
	loading.serve(real);
	await core.blobs.in("default").delete(`build/${app.id}/1`, { signal: new AbortController().signal });
	const answer = await desk.load(app, 1);
	t.equal(answer.status, 404);
	t.equal(answer.code, "not_found");
});

t.test("a build that has lost bytes is said to be damaged; losing them on the way ends the connection", async (t) => {
	const desk = await Desk.open(t);
	const app = await desk.running("app", "one");
	const build = await desk.core.queries.buildOf(app, 1);
	desk.core.blobStore.cut(5);
	for (const headers of [{}, { range: "bytes=0-1" }]) {
		const answer = await desk.load(app, 1, { headers });
		t.equal(answer.status, 500);
		t.equal(answer.code, "damaged");
		t.match(answer.detail, /is damaged/);
	}
	const lossy = async function* () {
		yield Buffer.alloc(build.size - 1);
		throw new AppError("damaged", "the file ended");
	};
	desk.loading.serve({
		byId: (id) => desk.core.queries.byId(id),
		buildOf: async () => ({ ...build, open: async () => lossy() }),
	});
	await t.rejects(desk.load(app, 1), { code: /SOCKET|LENGTH_MISMATCH/ }, "no complete answer");
});

t.test("there is nothing else: no API, no other methods", async (t) => {
	const desk = await Desk.open(t);
	const app = await desk.running("app", "one");
	const { token, ca } = desk.loading.pass(app, 1);
	const places = [
		"/",
		"/services",
		"/services/app/latest",
		"/session",
		"/healthz",
		"/readyz",
		"/openapi.yaml",
		"/docs",
	];
	for (const place of [
		...places,
		"/builds",
		"/builds/app",
		"/builds/app/latest/log",
		"/builds/app/latest/",
		"//builds/app/latest",
	]) {
		const answer = await ask(ca, `${desk.loading.url}${place}?revision=1`, { token });
		t.equal(answer.status, 404, place);
		t.equal(answer.code, "not_found", place);
	}
	for (const method of ["POST", "PUT", "DELETE", "OPTIONS"] as const) {
		const answer = await desk.load(app, 1, { method, headers: { "content-type": "text/odd" } });
		t.equal(answer.status, 404, method);
		t.equal(answer.code, "not_found", method);
	}
	t.equal((await ask(ca, `${desk.loading.url}/builds/%zz/latest?revision=1`, { token })).status, 400);
	t.equal(
		(await ask(ca, `${desk.loading.url}/builds/${"a".repeat(3000)}/x?revision=1`, { token })).code,
		"invalid_argument",
	);
});

/** A service whose build never ends. */
async function endless(t: { teardown(action: () => Promise<void>): unknown }, limits: Partial<LoadingLimits>) {
	const desk = await Desk.open(t, { limits });
	const app = await desk.running("app", "one");
	const build = await desk.core.queries.buildOf(app, 1);
	const state = { open: 0, chunks: 0 };
	const chunk = Buffer.alloc(256 * 1024);
	desk.loading.serve({
		byId: (id) => desk.core.queries.byId(id),
		buildOf: async () => ({
			...build,
			size: 2 ** 40,
			open: async () =>
				(async function* () {
					state.open++;
					try {
						for (;;) {
							state.chunks++;
							yield chunk;
						}
					} finally {
						state.open--;
					}
				})(),
		}),
	});
	return { desk, app, state };
}

/** A client that asks and then reads nothing. */
function stalled(desk: Desk, app: Parameters<Desk["load"]>[0]) {
	const { url, token, ca } = desk.loading.pass(app, 1);
	const { hostname, port, pathname, search } = new URL(url);
	const socket = connect({ host: hostname, port: Number(port), ca }, () => {
		socket.write(`GET ${pathname}${search} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\n\r\n`);
		socket.pause();
	});
	socket.on("error", () => socket.destroy());
	return socket;
}

t.test("a reader that stalls is cut, and gives back what it held", async (t) => {
	const { desk, app, state } = await endless(t, { pauseMs: 300, downloads: 1 });
	const socket = stalled(desk, app);
	t.teardown(() => void socket.destroy());
	await until(
		() => state.open === 1,
		() => "it is being sent",
	);
	await until(
		() => state.open === 0,
		() => "it is cut",
	);
	t.ok(state.chunks < 1000, "what a reader does not take is not read");
	const next = stalled(desk, app);
	t.teardown(() => void next.destroy());
	await until(
		() => state.open === 1,
		() => "there is room for another one",
	);
});

t.test("downloads have a limit, in all and for one service; closing cuts them", async (t) => {
	const { desk, app, state } = await endless(t, { downloads: 3, perService: 2 });
	const other = await desk.running("other", "two");
	const more = await desk.running("more", "three");
	const sockets = [stalled(desk, app), stalled(desk, app)];
	t.teardown(() => {
		for (const socket of sockets) socket.destroy();
	});
	await until(
		() => state.open === 2,
		() => "two are being sent",
	);
	const refused = await desk.load(app, 1);
	t.equal(refused.status, 429);
	t.equal(refused.code, "exhausted");
	t.equal(refused.headers["retry-after"], "1");
	t.equal((await desk.load(app, 1, { method: "HEAD" })).status, 200, "a head is no download");
	sockets.push(stalled(desk, other));
	await until(
		() => state.open === 3,
		() => "another service's is being sent",
	);
	t.equal((await desk.load(more, 1)).status, 429, "in all");
	for (const socket of sockets.splice(0, 1)) socket.destroy();
	await until(
		() => state.open === 2,
		() => "who goes away leaves room",
	);
	await desk.loading.close();
	t.equal(state.open, 0, "nothing is read any more");
	await t.rejects(desk.load(app, 1), { code: "ECONNREFUSED" });
});

t.test("who says nothing is not waited for", async (t) => {
	const desk = await Desk.open(t, { limits: { headersMs: 200 } });
	const { hostname, port } = new URL(desk.loading.url);
	const silent = connect({ host: hostname, port: Number(port), ca: desk.loading.ca });
	t.teardown(() => void silent.destroy());
	silent.on("error", () => silent.destroy());
	silent.resume();
	let closed = false;
	silent.once("close", () => {
		closed = true;
	});
	silent.once("secureConnect", () => silent.write("GET /builds/app/latest?revision=1 HTTP/1.1\r\nhost: x\r\n"));
	await until(
		() => closed,
		() => "its connection is closed",
	);
	t.ok(closed);
});

t.test("one address has a part of the connections", async (t) => {
	const desk = await Desk.open(t, { limits: { perAddress: 2 } });
	const app = await desk.running("app", "one");
	const { hostname, port } = new URL(desk.loading.url);
	const silent = [0, 1].map(() => connect({ host: hostname, port: Number(port), ca: desk.loading.ca }));
	t.teardown(() => {
		for (const socket of silent) socket.destroy();
	});
	await Promise.all(silent.map((socket) => once(socket, "secureConnect")));
	await t.rejects(desk.load(app, 1), "a third is closed at once");
	silent.pop()?.destroy();
	await until(
		() =>
			desk.load(app, 1).then(
				({ status }) => status === 200,
				() => false,
			),
		() => "who goes away leaves room",
	);
	t.pass("there is room again");
});

t.test("nobody holds a connection: not without TLS, and not by a slow body", async (t) => {
	const desk = await Desk.open(t, { limits: { headersMs: 200, perAddress: 1 } });
	const app = await desk.running("app", "one");
	const { hostname: host, port } = new URL(desk.loading.url);
	const head = "GET /builds/app/latest?revision=1 HTTP/1.1\r\nhost: x\r\n";
	const holders: Record<string, (at: { host: string; port: number }) => Socket | Promise<Socket>> = {
		"who does not speak TLS": async (at) => {
			const socket = plain(at);
			await once(socket, "connect");
			return socket;
		},
		"whose body drips": async (at) => {
			const socket = connect({ ...at, ca: desk.loading.ca });
			await once(socket, "secureConnect");
			socket.write(`${head}content-length: 1000000\r\n\r\n`);
			const drip = setInterval(() => socket.write("x"), 50);
			socket.once("close", () => clearInterval(drip));
			return socket;
		},
	};
	for (const [who, hold] of Object.entries(holders)) {
		const socket = await hold({ host, port: Number(port) });
		socket.on("error", () => socket.destroy());
		t.teardown(() => void socket.destroy());
		await until(
			() =>
				desk.load(app, 1).then(
					({ status }) => status === 200,
					() => false,
				),
			() => `${who} is cut, and others are served`,
		);
		t.pass(who);
		socket.destroy();
	}
});

t.test("headers have a limit, and so have their number and the connections in all", async (t) => {
	const desk = await Desk.open(t, { limits: { connections: 2 } });
	const app = await desk.running("app", "one");
	for (const headers of [
		{ "x-large": "x".repeat(20_000) },
		Object.fromEntries(Array.from({ length: 4_000 }, (_, index) => [`x-${index}`, "x"])),
	])
		t.equal((await desk.load(app, 1, { headers })).status, 431);
	const { hostname, port } = new URL(desk.loading.url);
	const silent = [0, 1].map(() => connect({ host: hostname, port: Number(port), ca: desk.loading.ca }));
	t.teardown(() => {
		for (const socket of silent) socket.destroy();
	});
	await Promise.all(silent.map((socket) => once(socket, "secureConnect")));
	await t.rejects(desk.load(app, 1), "a third is closed at once");
});

t.test("many ranges, and many requests on one connection, cost no more than one download", async (t) => {
	const { desk, app, state } = await endless(t, { perService: 2 });
	const ranges = Array.from({ length: 50 }, (_, index) => `${index}-${index}`).join(",");
	const { url, token, ca } = desk.loading.pass(app, 1);
	const { hostname, port, pathname, search } = new URL(url);
	const socket = connect({ host: hostname, port: Number(port), ca });
	t.teardown(() => void socket.destroy());
	socket.on("error", () => socket.destroy());
	await once(socket, "secureConnect");
	socket.pause();
	const request = `GET ${pathname}${search} HTTP/1.1\r\nhost: x\r\nrange: bytes=${ranges}\r\nauthorization: Bearer ${token}\r\n\r\n`;
	socket.write(request.repeat(20));
	await until(
		() => state.open === 2,
		() => "two are open",
	);
	t.equal((await desk.load(app, 1)).status, 429);
	t.equal(state.open, 2);
	t.ok(state.chunks < 1000, `${state.chunks} chunks are read for who reads nothing`);
});
