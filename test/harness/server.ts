import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Api } from "./api.ts";
import { processesUnder } from "./processes.ts";

const LAUNCHER = path.resolve(import.meta.dirname, "../../clients/cli/bin.mjs");
/** Kept between runs and shared by all tests: compiling net/http from nothing takes half a minute. */
export const SHARED_CACHE = path.join(tmpdir(), "runtime-builds-test-cache");
const READY_MS = 60_000;

export type ServerOptions = {
	readonly dataDir: string;
	readonly env?: Readonly<Record<string, string>>;
	readonly args?: readonly string[];
};

/** A real server process, on a port of its own, known by what it printed. */
export class TestServer {
	readonly child: ChildProcess;
	readonly url: string;
	readonly token: string;
	readonly api: Api;
	readonly dataDir: string;
	readonly #output: () => string;

	private constructor(child: ChildProcess, url: string, token: string, dataDir: string, output: () => string) {
		this.child = child;
		this.url = url;
		this.token = token;
		this.dataDir = dataDir;
		this.api = new Api(url, token);
		this.#output = output;
	}

	static async start(options: ServerOptions): Promise<TestServer> {
		const child = spawnServer(options);
		let output = "";
		const url = await new Promise<string>((resolve, reject) => {
			const timer = setTimeout(() => reject(new Error(`the server is not ready:\n${output}`)), READY_MS);
			const look = (chunk: Buffer) => {
				output += chunk.toString();
				const match = /ready at (\S+)/.exec(output)?.[1];
				if (match === undefined) return;
				clearTimeout(timer);
				resolve(match);
			};
			child.stdout?.on("data", look);
			child.stderr?.on("data", look);
			child.once("exit", (code, signal) => {
				clearTimeout(timer);
				reject(new Error(`the server ended (${code ?? signal}) before it was ready:\n${output}`));
			});
		});
		const token = (await readFile(path.join(options.dataDir, "admin-token"), "utf8")).trim();
		return new TestServer(child, url, token, options.dataDir, () => output);
	}

	/** All that the server has printed. */
	get output(): string {
		return this.#output();
	}

	/** What the CLI needs to find this server. */
	get env(): Record<string, string> {
		return { RUNTIME_DATA_DIR: this.dataDir };
	}

	/** Ends it as Ctrl-C does; answers its exit code. */
	async stop(): Promise<number | null> {
		if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
		this.child.kill("SIGTERM");
		await once(this.child, "exit");
		return this.child.exitCode;
	}

	async kill(): Promise<void> {
		if (this.child.exitCode !== null || this.child.signalCode !== null) return;
		this.child.kill("SIGKILL");
		await once(this.child, "exit");
	}
}

/** Starts a server process without waiting for it. */
export function spawnServer(options: ServerOptions): ChildProcess {
	const { RUNTIME_URL: _url, RUNTIME_TOKEN: _token, ...inherited } = process.env;
	return spawn(process.execPath, [LAUNCHER, "server", ...(options.args ?? [])], {
		env: {
			...inherited,
			RUNTIME_DATA_DIR: options.dataDir,
			RUNTIME_ADDRESS: "127.0.0.1:0",
			RUNTIME_CACHE_DIR: SHARED_CACHE,
			...options.env,
		},
		stdio: ["ignore", "pipe", "pipe"],
	});
}

/** Waits until a server process has ended by itself; answers its exit code and what it said on stderr. */
export async function endOf(
	options: ServerOptions,
): Promise<{ readonly code: number | null; readonly output: string }> {
	const child = spawnServer(options);
	let output = "";
	child.stderr?.on("data", (chunk) => {
		output += String(chunk);
	});
	await once(child, "exit");
	return { code: child.exitCode, output };
}

type Teardown = { teardown(action: () => Promise<void>): unknown };

/** A data folder that is removed at the test's end, with everything that still runs from it. `args`: of its servers. */
export async function dataFolder(t: Teardown, args: readonly string[] = []): Promise<string> {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-test-"));
	t.teardown(() => endEverything(folder, args));
	return folder;
}

/** Ends what runs from a data folder, by the product's own means, and removes the folder. */
export async function endEverything(dataDir: string, args: readonly string[] = []): Promise<void> {
	if ((await processesUnder(dataDir)).length > 0) {
		const profile = await readFile(path.join(dataDir, "profile"), "utf8").catch(() => "local");
		const kept = args.includes("--profile") ? [] : ["--profile", profile.trim()];
		const server = await TestServer.start({ dataDir, args: [...args, ...kept, "--stop-services"] });
		await server.stop();
	}
	await until(async () => (await processesUnder(dataDir)).length === 0, "nothing runs from the data folder");
	await rm(dataDir, { recursive: true, force: true });
}

/** Waits for a condition, looking often; throws with its name after the limit. */
export async function until(
	condition: () => Promise<boolean> | boolean,
	name: string,
	limitMs = 60_000,
): Promise<void> {
	const end = Date.now() + limitMs;
	while (!(await condition())) {
		if (Date.now() > end) throw new Error(`not so within ${limitMs} ms: ${name}`);
		await delay(20);
	}
}
