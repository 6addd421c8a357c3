import { once } from "node:events";
import { readFile, stat } from "node:fs/promises";
import { Agent, request } from "node:http";
import { createServer } from "node:net";
import t from "tap";
import { until } from "../conformance/runtime.ts";
import { harness, programs, spec } from "./process-harness.ts";
import { ask, call, reach, SERVICE } from "./runtime-harness.ts";

const SOON = { type: "port", path: "/", timeout: 1.5 } as const;

t.test("a program gets its environment and args, and cannot take what is ours", async (t) => {
	process.env.SERVER_SECRET = "of the server";
	const { runtime, folder } = await harness(t);
	const change = { env: { PORT: "1", SERVICE_NAME: "other", MINE: "a=b\nc", LANG: "de_DE.UTF-8" } };
	await runtime.apply(spec(SERVICE, 3, ["serve", "$HOST:$PORT", `\${PORT}`, "$PORTS $5"], change), call);
	const { url } = await reach(runtime, 3, "ready");
	const { env, args, cwd } = JSON.parse((await ask(`${url}/env`)) ?? "{}");
	t.match(env, { HOST: "127.0.0.1", MINE: "a=b\nc", LANG: "de_DE.UTF-8", HOME: cwd });
	t.match(env, {
		SERVICE_NAME: "hello",
		SERVICE_VERSION: "latest",
		SERVICE_NAMESPACE: "default",
		SERVICE_REVISION: "3",
	});
	t.not(env.PORT, "1");
	t.same(args, [`127.0.0.1:${env.PORT}`, env.PORT, "$PORTS $5"]);
	t.notOk("SERVER_SECRET" in env);
	t.ok(cwd.startsWith(folder));
});

t.test("what failed is said in words that help", async (t) => {
	const { runtime } = await harness(t);
	const taken = createServer().listen(0, "127.0.0.1");
	await once(taken, "listening");
	t.teardown(() => taken.close());
	const address = taken.address();
	const port = typeof address === "object" ? address?.port : undefined;
	const why = async (revision: number, args: string[], change = {}, text?: string) => {
		await runtime.apply(spec(SERVICE, revision, args, { health: SOON, ...change }, text), call);
		const seen = await reach(runtime, revision, "failed");
		return seen.revisions.find((one) => one.revision === revision)?.failure;
	};
	t.match(await why(1, ["hang"]), {
		code: "not_listening",
		message: /^nothing listened on \$PORT \(\d+\) within 1.5 s — pass -addr '\$HOST:\$PORT' or read \$PORT/,
	});
	t.match(await why(2, ["elsewhere"]), {
		code: "not_listening",
		message: /^nothing listened on \$PORT \(\d+\) within 1.5 s; it listens on 127\.0\.0\.1:\d+ instead — pass -addr/,
	});
	t.match(await why(3, ["at", String(port)]), {
		code: "not_listening",
		message: new RegExp(`could not take 127\\.0\\.0\\.1:${port}: already in use.*\\$PORT`),
		exitCode: 1,
	});
	t.match(await why(4, ["exit3"]), {
		code: "exited",
		message: "the program exited with code 3 before it was ready (3 starts)",
		lastLines: ["failing"],
	});
	t.match(await why(5, [], {}, "#!/bin/sh\nkill -9 $$\n"), {
		code: "exited",
		message: /was killed by SIGKILL/,
		exitCode: 137,
	});
	t.match(await why(6, [], { restart: "never" }, "#!/nowhere/interpreter\n"), {
		code: "exited",
		exitCode: 127,
		lastLines: [/not found|No such file/],
	});
	t.match(await why(7, ["serve"], { health: { type: "http", path: "/sick", timeout: 1.5 } }), {
		code: "not_listening",
		message: /not healthy within 1.5 s: GET \/sick answered 500/,
	});
	t.match(
		await why(8, [], {}, "#!/bin/sh\necho 'listen tcp 127.0.0.1:8080: bind: address already in use' >&2\nexit 1\n"),
		{
			code: "not_listening",
			message: /127\.0\.0\.1:8080.*\$PORT/,
		},
	);
	t.match(await why(9, [], { program: { kind: "directory", path: "/nowhere", command: ["true"] } }), {
		code: "internal",
		message: "the program could not be started (ENOENT); the server's log says more",
	});
	t.same((await runtime.observe(SERVICE, call)).serving, null);
});

t.test("a worker with health none is ready when it has lived, and a folder's command runs in it", async (t) => {
	const { runtime, folder } = await harness(t);
	const health = { type: "none", path: "/", timeout: 60 } as const;
	const program = { kind: "directory", path: folder, command: ["sh", "-c", 'pwd; exec sleep "$0"'] } as const;
	await runtime.apply(spec(SERVICE, 1, ["1000"], { health, program }), call);
	await reach(runtime, 1, "ready");
	const lines: string[] = [];
	for await (const item of runtime.logs(SERVICE, { follow: false }, call))
		if ("line" in item) lines.push(item.line.text);
	t.same(lines, [folder]);
});

t.test("a program that ends is started again with back-off, is a crash loop at five, and may recover", async (t) => {
	const { runtime } = await harness(t, { backoffFirstMs: 30, backoffMostMs: 60 });
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(runtime, 1, "ready");
	const crashes: string[] = [];
	for (let exits = 1; exits <= 5; exits++) {
		await until(
			() => ask(`${url}/pid`),
			(pid) => pid !== null,
			"it answers",
		);
		const looking = until(
			() => runtime.observe(SERVICE, call),
			({ revisions }) => revisions[0]?.phase !== "ready",
			"its end is seen",
		);
		await ask(`${url}/exit`);
		const seen = await looking;
		crashes.push(`${seen.revisions[0]?.phase} ${seen.revisions[0]?.failure?.code}`);
	}
	t.same(crashes, [...Array(4).fill("starting exited"), "failed crash_loop"]);
	const seen = await reach(runtime, 1, "ready");
	t.equal(seen.url, url);
	t.equal(seen.serving, 1);
});

t.test("exit 0 after ready ends a service; never means never; always means always", async (t) => {
	const { runtime } = await harness(t);
	const text = (code: number) =>
		`#!${process.execPath}\nrequire("http").createServer((q, r) => r.end(() => process.exit(${code}))).listen(+process.env.PORT, "127.0.0.1")`;
	await runtime.apply(spec(SERVICE, 1, [], {}, text(0)), call);
	await ask((await reach(runtime, 1, "ready")).url ?? "");
	await reach(runtime, 1, "ended");
	await runtime.apply(spec(SERVICE, 2, [], { restart: "never" }, text(4)), call);
	await ask((await reach(runtime, 2, "ready")).url ?? "");
	t.match((await reach(runtime, 2, "failed")).revisions.at(-1)?.failure, { code: "exited", exitCode: 4 });
	await runtime.apply(spec(SERVICE, 3, [], { restart: "always" }, text(0)), call);
	const first = await reach(runtime, 3, "ready");
	await ask(first.url ?? "");
	await until(
		() => runtime.observe(SERVICE, call),
		({ revisions }) =>
			revisions.some((one) => one.revision === 3 && one.phase === "ready") &&
			revisions.at(-1)?.instances[0]?.instance !== first.revisions.at(-1)?.instances[0]?.instance,
		"it was started again",
	);
});

t.test("ten updates under load lose no request, with several instances", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"], { instances: 2 }), call);
	const { url } = await reach(runtime, 1, "ready");
	if (url === null) throw new Error("no address");
	let over = false;
	let sent = 0;
	let longest = 0;
	const failed: string[] = [];
	const agent = new Agent({ keepAlive: true, maxSockets: 4 });
	const send = (path: string, keep: boolean, method: string) =>
		new Promise<void>((resolve) => {
			const started = performance.now();
			sent++;
			const end = (problem: string | null) => {
				if (problem !== null) failed.push(`${method} ${path} ${problem}`);
				if (path === "/") longest = Math.max(longest, performance.now() - started);
				resolve();
			};
			const outgoing = request(`${url}${path}`, { agent: keep ? agent : false, method }, (response) => {
				let body = "";
				response.setEncoding("utf8").on("data", (piece) => {
					body += piece;
				});
				response.on("end", () =>
					end(response.statusCode === 200 && body !== "" ? null : `${response.statusCode} ${body}`),
				);
				response.on("error", (error) => end(error.message));
			});
			outgoing.on("error", (error) => end(error.message));
			outgoing.end(method === "POST" ? "x".repeat(10_000) : undefined);
		});
	const client = async (path: string, keep: boolean, method = "GET") => {
		while (!over) {
			await send(path, keep, method);
			await new Promise((resolve) => setTimeout(resolve, 10));
		}
	};
	const clients = [
		...[1, 2, 3].map(() => client("/", true)),
		...[1, 2, 3].map(() => client("/", false)),
		client("/", false, "POST"),
		client("/slow", false),
	];
	for (let revision = 2; revision <= 11; revision++) {
		await runtime.apply(spec(SERVICE, revision, ["serve"], { instances: 2 }), call);
		await reach(runtime, revision, "ready");
	}
	over = true;
	await Promise.all(clients);
	agent.destroy();
	t.same(failed, []);
	t.comment(`${sent} requests, longest ${Math.round(longest)} ms`);
	t.equal(sent > 200, true);
	await until(
		() => programs(folder),
		(pids) => pids.length === 4,
		"two shims and two programs are left",
	);
});

t.test("a second namespace is refused", async (t) => {
	const { runtime } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const other = { ...SERVICE, id: "s2", namespace: "acme" };
	await t.rejects(runtime.apply(spec(other, 1, ["serve"]), call), { code: "permission_denied", field: "namespace" });
});

t.test("state with secrets is for this user alone", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"], { env: { TOKEN: "secret" } }), call);
	const file = `${folder}/services/${SERVICE.id}/state.json`;
	t.match(await readFile(file, "utf8"), /secret/);
	t.equal((await stat(file)).mode & 0o777, 0o600);
	t.equal((await stat(`${folder}/services/${SERVICE.id}`)).mode & 0o777, 0o700);
});
