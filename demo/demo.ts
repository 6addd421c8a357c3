/**
 * `npm run demo`: the whole tour on a temporary folder, by the CLI as a person would type it. Stays up until Ctrl-C, or
 * ends by itself with `-- --once`; either way no process and no folder is left behind.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { access, constants, cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

const root = path.resolve(import.meta.dirname, "..");
const launcher = path.join(root, "clients/cli/bin.mjs");
const onlyOnce = process.argv.includes("--once");
const interrupted = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => interrupted.abort());

const place = await mkdtemp(path.join(tmpdir(), "runtime-demo-"));
const { RUNTIME_URL: _url, RUNTIME_TOKEN: _token, ...inherited } = process.env;
const env = {
	...inherited,
	RUNTIME_DATA_DIR: path.join(place, "data"),
	RUNTIME_ADDRESS: "127.0.0.1:0",
	// Compiled packages of the standard library are worth keeping between two demos.
	RUNTIME_CACHE_DIR: process.env.RUNTIME_CACHE_DIR ?? path.join(tmpdir(), "runtime-builds-demo-cache"),
};

function say(text: string): void {
	process.stdout.write(`${text}\n`);
}

async function startServer(): Promise<ChildProcess> {
	say("$ runtime server --stop-services");
	// In a group of its own, so that Ctrl-C reaches the demo first, which then ends the server in good order.
	const server = spawn(process.execPath, [launcher, "server", "--stop-services"], {
		env,
		stdio: ["ignore", "pipe", "inherit"],
		detached: true,
	});
	for await (const line of createInterface({ input: server.stdout })) {
		say(line);
		if (line.includes("ready")) return server;
	}
	throw new Error("the server did not start");
}

/** Runs one CLI command; what it says goes to the terminal, its result is also answered. */
async function runtime(...args: string[]): Promise<string> {
	say(`\n$ runtime ${args.join(" ")}`);
	const child = spawn(process.execPath, [launcher, ...args], {
		env,
		cwd: path.join(place, "hello"),
		stdio: ["ignore", "pipe", "inherit"],
	});
	const abort = () => child.kill("SIGINT");
	interrupted.signal.addEventListener("abort", abort, { once: true });
	let result = "";
	child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
		result += chunk;
		process.stdout.write(chunk);
	});
	const [code] = await once(child, "close");
	interrupted.signal.removeEventListener("abort", abort);
	if (code !== 0) throw new Error(`runtime ${args[0]} ended with ${code}`);
	return result.trim();
}

async function call(url: string): Promise<string> {
	say(`\n$ curl ${url}`);
	const response = await fetch(url, { signal: interrupted.signal });
	const body = (await response.text()).trim();
	say(body);
	if (!response.ok) throw new Error(`${url} answered ${response.status}`);
	return body;
}

/** In Go where there is Go, else in what is there for sure. */
async function sample(): Promise<{ readonly folder: string; readonly main: string }> {
	const command = process.env.RUNTIME_GO ?? "go";
	const places = path.isAbsolute(command)
		? [""]
		: (process.env.PATH ?? "").split(path.delimiter).filter(path.isAbsolute);
	for (const place of places)
		if (
			await access(path.join(place, command), constants.X_OK).then(
				() => true,
				() => false,
			)
		)
			return { folder: "hello", main: "main.go" };
	say("There is no Go here, so the tour is with a service in TypeScript.\n");
	return { folder: "hello-node", main: "main.ts" };
}

async function tour(): Promise<void> {
	const { folder, main } = await sample();
	await cp(path.join(root, "examples", folder), path.join(place, "hello"), { recursive: true });
	const url = await runtime("run", ".");
	const before = await call(url);

	const source = path.join(place, "hello", main);
	const old = "Hello from Runtime Builds";
	const fresh = "Hello again, from the second revision";
	say(`\n$ sed -i 's/${old}/${fresh}/' ${main}`);
	await writeFile(source, (await readFile(source, "utf8")).replace(old, fresh));
	const same = await runtime("update", ".");
	const after = await call(same);
	if (same !== url) throw new Error(`the address changed from ${url} to ${same}`);
	if (!before.includes(old) || !after.includes(fresh)) throw new Error("the answers are not what the source says");
	await runtime("status");
}

async function untilInterrupted(): Promise<void> {
	say(`\nIt stays up until Ctrl-C. From another terminal:\n  export RUNTIME_DATA_DIR=${env.RUNTIME_DATA_DIR}`);
	say(`  node ${path.relative(process.cwd(), launcher)} status`);
	await new Promise<void>((resolve) => {
		const alive = setInterval(() => undefined, 60_000);
		interrupted.signal.addEventListener("abort", () => [clearInterval(alive), resolve()], { once: true });
	});
}

let server: ChildProcess | undefined;
try {
	server = await startServer();
	await tour();
	if (!onlyOnce && !interrupted.signal.aborted) await untilInterrupted();
} catch (error) {
	process.exitCode = interrupted.signal.aborted ? 130 : 1;
	if (!interrupted.signal.aborted) process.stderr.write(`✘ ${error instanceof Error ? error.message : error}\n`);
} finally {
	if (server !== undefined && server.exitCode === null) {
		server.kill("SIGTERM");
		await once(server, "exit");
	}
	await rm(place, { recursive: true, force: true });
}
if (process.exitCode === undefined) say(onlyOnce ? "\nAll of it worked." : "\nEverything was ended and removed.");
