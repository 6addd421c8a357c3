import { chmodSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { connect } from "../../clients/cli/connection.ts";
import { folder, write } from "./harness.ts";

t.test("flag, variable, data folder, default", async (t) => {
	const data = folder(t, { "server.json": '{"url":"http://127.0.0.1:7777"}', "admin-token": "rb_local\n" });
	const env = { RUNTIME_DATA_DIR: data, RUNTIME_URL: "https://rt.acme.dev/" };
	t.match(await connect({ env, server: "https://flag.example" }), { label: "https://flag.example", from: "--server" });
	t.match(await connect({ env }), { label: "https://rt.acme.dev", from: "RUNTIME_URL" });
	t.match(await connect({ env: { RUNTIME_DATA_DIR: data } }), { label: "http://127.0.0.1:7777", from: "server.json" });
	const none = folder(t);
	t.match(await connect({ env: { RUNTIME_DATA_DIR: none } }), { label: "http://127.0.0.1:8080", from: "default" });
	t.match(await connect({ env: { RUNTIME_DATA_DIR: none }, server: "localhost:99" }), { label: "http://localhost:99" });
	const xdg = folder(t, { "runtime-builds/server.json": '{"url":"http://127.0.0.1:1"}' });
	t.match(await connect({ env: { XDG_DATA_HOME: xdg } }), { label: "http://127.0.0.1:1" });
	const home = folder(t, { ".local/share/runtime-builds/server.json": '{"url":"http://127.0.0.1:2"}' });
	t.match(await connect({ env: { HOME: home } }), { label: "http://127.0.0.1:2" });
});

t.test("the local token goes to the local server and to no other", async (t) => {
	const data = folder(t, { "server.json": '{"url":"http://127.0.0.1:7777"}', "admin-token": "rb_local\n" });
	const env = { RUNTIME_DATA_DIR: data };
	for (const server of [undefined, "http://127.0.0.1:7777", "http://localhost:7777/"]) {
		t.match(await connect({ env, server }), { token: "rb_local", tokenFrom: "admin-token" }, server ?? "found");
	}
	for (const server of [
		"http://127.0.0.1:7778",
		"https://127.0.0.1:7777",
		"https://evil.example:7777",
		"http://127.0.0.1.evil.example:7777",
		"http://127.0.0.1:7777/else",
	]) {
		t.equal((await connect({ env, server, insecure: true })).token, undefined, server);
	}
	t.equal((await connect({ env: { ...env, RUNTIME_TOKEN: "rb_own" } })).token, "rb_own");
	const empty = folder(t, { "admin-token": "rb_stray" });
	t.equal((await connect({ env: { RUNTIME_DATA_DIR: empty } })).token, undefined, "no server.json, no token");
	if (process.getuid?.() !== 0) {
		chmodSync(join(data, "admin-token"), 0o000);
		t.equal((await connect({ env })).token, undefined, "somebody else's");
	}
});

t.test("no token in the clear to another machine", async (t) => {
	const env = { RUNTIME_DATA_DIR: folder(t), RUNTIME_TOKEN: "rb_x" };
	await t.rejects(connect({ env, server: "http://rt.acme.dev" }), { code: "usage", message: /in the clear/ });
	t.ok(await connect({ env, server: "https://rt.acme.dev" }));
	t.ok(await connect({ env, server: "http://[::1]:8080" }));
	t.ok(await connect({ env, server: "http://rt.acme.dev", insecure: true }));
	t.ok(await connect({ env: { ...env, RUNTIME_INSECURE: "1" }, server: "http://rt.acme.dev" }));
	t.ok(
		await connect({ env: { RUNTIME_DATA_DIR: env.RUNTIME_DATA_DIR }, server: "http://rt.acme.dev" }),
		"nothing to lose without a token",
	);
});

t.test("what cannot be used is named", async (t) => {
	const data = folder(t);
	await t.rejects(connect({ env: { RUNTIME_DATA_DIR: data, RUNTIME_URL: "http://a:b@x" } }), {
		message: /no credentials in a URL/,
	});
	await t.rejects(connect({ env: { RUNTIME_DATA_DIR: data, RUNTIME_NAMESPACE: "Not Valid" } }), {
		message: /is no namespace/,
	});
	await t.rejects(connect({ env: { RUNTIME_DATA_DIR: data, RUNTIME_TOKEN: "rb_\nx" } }), {
		message: /characters that no token has/,
	});
	write(data, { "server.json": "{" });
	await t.rejects(connect({ env: { RUNTIME_DATA_DIR: data } }), { message: /Cannot read .*server\.json/ });
});
