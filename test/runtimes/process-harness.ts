import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { platformOf } from "../../src/platform/platform.ts";
import { CompanionLock } from "../../src/runtimes/companion/lock.ts";
import { createProcessRuntime, type ProcessRuntimeOptions } from "../../src/runtimes/process/runtime.ts";
import type { Runtime, ServiceRef, ServiceSpec } from "../../src/runtimes/runtime.ts";
import { type RuntimeHarness, until } from "../conformance/runtime.ts";

const SHEBANG = `#!${process.execPath}\n`;

/** One Node program that behaves as its first argument says. */
const PROGRAM = `${SHEBANG}const [, , behaviour, ...args] = process.argv;
const { createServer } = require("node:http");
const { SERVICE_REVISION: revision, PORT: port } = process.env;
const server = createServer((req, res) => {
	if (req.url === "/slow") { res.write("a"); setTimeout(() => res.end("b"), 1000); }
	else if (req.url === "/env") res.end(JSON.stringify({ env: process.env, args, cwd: process.cwd() }));
	else if (req.url === "/exit") process.exit(7);
	else if (req.url === "/pid") res.end(String(process.pid));
	else if (req.url === "/health") res.writeHead(sick ? 503 : 200).end();
	else if (req.url === "/sick") res.writeHead(500).end();
	else { req.resume(); req.on("end", () => res.end("revision " + revision)); }
});
let sick = false;
process.on("SIGUSR1", () => { sick = !sick; });
process.on("SIGUSR2", () => {
	if (server.listening) { setInterval(() => 0, 1000); server.close(); server.closeAllConnections(); }
	else server.listen(Number(port), "127.0.0.1");
});
switch (behaviour) {
	case "serve": server.listen(Number(port), "127.0.0.1", () => console.log("serving " + revision)); break;
	case "elsewhere": server.listen(0, "127.0.0.1"); break;
	case "at": server.listen(Number(args[0]), "127.0.0.1"); break;
	case "exit3": console.log("failing"); process.exitCode = 3; break;
	case "exit0": console.log("done"); break;
	case "escape":
		require("node:child_process").spawn(process.execPath, ["-e", "setInterval(() => 0, 1000)"], { detached: true, stdio: "ignore" }).unref();
		server.listen(Number(port), "127.0.0.1"); break;
	case "stubborn": process.on("SIGTERM", () => 0); server.listen(Number(port), "127.0.0.1"); break;
	default: setInterval(() => 0, 1000);
}
`;

export const FAST = {
	graceMs: 2_000,
	drainMs: 5_000,
	backoffFirstMs: 20,
	backoffMostMs: 200,
	aliveMs: 100,
	idleMs: 300,
	unavailableMs: 20_000,
	ports: { from: 21_000, to: 31_999 },
};

export const SERVICE: ServiceRef = { id: "s1", namespace: "default", name: "hello", version: "latest" };
export const call = { signal: new AbortController().signal };

/** A folder of the test's own, in which nothing runs any more when the test is over. */
export async function dataFolder(t: Test): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), "process-runtime-"));
	t.teardown(async () => {
		const runtime = await createProcessRuntime({ folder, ...FAST });
		for await (const service of runtime.list(call)) await runtime.remove(service, call);
		await runtime[Symbol.asyncDispose]();
		await until(
			() => companion(folder),
			(pid) => pid === null,
			"the companion ends by itself",
		);
		await rm(folder, { recursive: true, force: true });
	});
	return folder;
}

/** Pid of the folder's living companion. */
export async function companion(folder: string): Promise<number | null> {
	return (await new CompanionLock(folder, platformOf()).holder())?.pid ?? null;
}

/** Pids of all that carries the mark of this folder. */
export async function programs(folder: string): Promise<number[]> {
	const [id] = (await readFile(join(folder, "folder.id"), "utf8")).split(" ");
	const all = await platformOf().processes("RUNTIME_INSTANCE");
	return all.filter(({ mark }) => mark?.startsWith(`${id}.`)).map(({ pid }) => pid);
}

export function spec(
	service: ServiceRef,
	revision: number,
	args: readonly string[],
	change: Partial<ServiceSpec> = {},
	text = PROGRAM,
): ServiceSpec {
	const bytes = Buffer.from(text);
	const open = async () =>
		(async function* () {
			yield bytes;
		})();
	return {
		...service,
		revision,
		generation: 1,
		program: { kind: "build", sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, open },
		requires: "none",
		args,
		env: {},
		health: { type: "port", path: "/", timeout: 30 },
		restart: "on-failure",
		instances: 1,
		...change,
	};
}

/** Body of a 200, null for anything else. A connection of its own. */
export function ask(url: string): Promise<string | null> {
	return new Promise((resolve) => {
		const outgoing = request(url, { agent: false, timeout: 10_000 }, (response) => {
			let body = "";
			response.setEncoding("utf8").on("data", (piece) => {
				body += piece;
			});
			response.on("end", () => resolve(response.statusCode === 200 ? body : null));
			response.on("error", () => resolve(null));
		});
		outgoing.on("timeout", () => outgoing.destroy());
		outgoing.on("error", () => resolve(null));
		outgoing.end();
	});
}

export async function harness(
	t: Test,
	options: Partial<ProcessRuntimeOptions> = {},
): Promise<RuntimeHarness & { folder: string; runtime: Awaited<ReturnType<typeof createProcessRuntime>> }> {
	const folder = await dataFolder(t);
	const runtime = await createProcessRuntime({ folder, ...FAST, ...options });
	const close = async () => runtime[Symbol.asyncDispose]();
	t.teardown(close);
	return {
		folder,
		runtime,
		ask,
		close,
		spec: (service, revision, behaviour, change) => spec(service, revision, [behaviour], change),
	};
}

export function reach(runtime: Runtime, revision: number, phase: string, generation = 1, service = SERVICE) {
	return until(
		() => runtime.observe(service, call),
		(seen) => seen.revisions.find((one) => one.revision === revision && one.generation === generation)?.phase === phase,
		`revision ${revision} is ${phase}`,
	);
}
