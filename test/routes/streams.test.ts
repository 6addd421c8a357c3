import t, { type Test } from "tap";
import { entries, TestApp } from "../harness/app.ts";
import { named, TestCore, until } from "../harness/core.ts";

const LOGS = "/services/app/latest/logs";
const EVENTS = "/services/app/latest/events";

async function running(t: Test, heartbeatMs?: number) {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core, heartbeatMs === undefined ? {} : { heartbeatMs });
	await core.create("app");
	const { id } = await core.at("app", 1, "Running");
	for (const text of ["one", "two", "three"]) core.runtime.print(id, text);
	return { core, app, id };
}

/** What a followed stream has brought so far; `done` resolves when it ends. */
async function follow(app: TestApp, base: string, url: string, headers: Record<string, string> = {}) {
	const response = await fetch(`${base}${url}`, { headers: { authorization: `Bearer ${app.token}`, ...headers } });
	const got = { text: "", done: Promise.resolve() };
	const read = async () => {
		const decoder = new TextDecoder();
		for await (const chunk of response.body ?? []) got.text += decoder.decode(chunk, { stream: true });
	};
	got.done = read();
	return got;
}

t.test("NDJSON by default, server-sent events by Accept, resumable by after and Last-Event-ID", async (t) => {
	const { app } = await running(t);
	const lines = await app.call("GET", LOGS);
	t.equal(lines.headers["content-type"], "application/x-ndjson");
	t.same(
		entries(lines.body).map(({ seq, text }) => [seq, text]),
		[
			[1, "one"],
			[2, "two"],
			[3, "three"],
		],
	);
	const texts = async (url: string, headers = {}) =>
		entries((await app.call("GET", url, { headers })).body).map(({ text }) => text);
	t.same(await texts(`${LOGS}?after=1`), ["two", "three"]);
	t.same(await texts(LOGS, { "last-event-id": "2" }), ["three"]);
	t.same(await texts(`${LOGS}?after=0`, { "last-event-id": "2" }), ["one", "two", "three"], "the query's word counts");
	t.same(await texts(`${LOGS}?tail=1`), ["three"]);
	t.same(await texts(`${LOGS}?tail=0`), []);
	t.same(await texts(`${LOGS}?since=2999-01-01T00:00:00Z`), []);
	const events = await app.call("GET", `${EVENTS}?after=3`, { headers: { accept: "text/event-stream" } });
	t.equal(events.headers["content-type"], "text/event-stream");
	t.match(events.body, /^id: 4\nevent: event\ndata: \{"type":"event","seq":4,.*"to":"Running"\}\n\n$/);
	const build = await app.call("GET", "/builds/app/latest/log");
	t.match(entries(build.body), [{ type: "line", seq: 1, revision: 1, text: "building app" }]);
	t.equal((await app.call("GET", "/builds/app/latest/log?revision=9")).status, 404);
	t.same(app.faults, []);
});

t.test("what is followed comes as it happens, beats while nothing does, and ends with the service", async (t) => {
	const { app, core, id } = await running(t, 20);
	const base = await app.app.listen({ host: "127.0.0.1", port: 0 });
	const logs = await follow(app, base, `${LOGS}?follow=true&after=2`);
	const events = await follow(app, base, `${EVENTS}?follow=true`, { accept: "text/event-stream" });
	const build = await follow(app, base, "/builds/app/latest/log?follow=true");
	await build.done;
	t.match(entries(build.text).at(-1), { type: "end", reason: "finished" });
	await until(
		() => logs.text.includes("three"),
		() => "the past",
	);
	core.runtime.print(id, "four");
	await until(
		() => logs.text.includes("four"),
		() => "a new line",
	);
	await until(
		() => logs.text.includes("heartbeat") && events.text.includes("event: heartbeat"),
		() => "heartbeats",
	);
	await core.manager.remove(named("app"));
	await Promise.all([logs.done, events.done]);
	t.match(entries(logs.text).at(-1), { type: "end", reason: "deleted" });
	t.match(events.text, /event: end\ndata: \{"type":"end","reason":"deleted"\}\n\n$/);
	t.notMatch(events.text, /id: \d+\nevent: (heartbeat|end)/, "only entries have ids");
});

t.test("a server that goes down ends its streams with a word, and closing does not wait", async (t) => {
	const { app, core } = await running(t);
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	await core.manager.update(named("app"), { source: await core.upload("slow") });
	const base = await app.app.listen({ host: "127.0.0.1", port: 0 });
	const streams = await Promise.all([
		follow(app, base, `${LOGS}?follow=true`),
		follow(app, base, `${EVENTS}?follow=true`),
		follow(app, base, "/builds/app/latest/log?follow=true"),
	]);
	await until(
		() => streams.every(({ text }) => text !== ""),
		() => "all have begun",
	);
	app.down.abort();
	await app.app.close();
	for (const stream of streams) {
		await stream.done;
		t.match(entries(stream.text).at(-1), { type: "end", reason: "shutdown" });
	}
	gate.resolve();
});

t.test("a gap says what is no longer kept", async (t) => {
	const { app, core, id } = await running(t);
	for (let index = 0; index < 2; index++)
		await core.database.commit([{ delete: `event!${id}!${String(index + 1).padStart(12, "0")}` }]);
	const events = entries((await app.call("GET", EVENTS)).body);
	t.match(events, [
		{ type: "gap", from: 1, to: 2 },
		{ type: "event", seq: 3 },
		{ type: "event", seq: 4 },
	]);
	t.same(app.faults, []);
});
