import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Test } from "tap";
import { platformOf } from "../../src/platform/platform.ts";
import { createProcessRuntime, type ProcessRuntimeOptions } from "../../src/runtimes/process/runtime.ts";
import type { ServiceRef, ServiceSpec } from "../../src/runtimes/runtime.ts";
import type { RuntimeHarness } from "../conformance/runtime.ts";
import { ask, FAST, folderOf, specOf } from "./runtime-harness.ts";

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

/** A folder of the test's own, in which nothing runs any more when the test is over. */
export function dataFolder(t: Test): Promise<string> {
	return folderOf(t, (folder) => createProcessRuntime({ folder, ...FAST }));
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
	return specOf(Buffer.from(text), service, revision, args, change);
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
