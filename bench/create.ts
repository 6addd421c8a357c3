import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { TestServer, until } from "../test/harness/server.ts";
import { freePort } from "./port.ts";
import { alternate, type Bench, duration, median, type Sides, timed } from "./rounds.ts";

const HELLO = path.resolve(import.meta.dirname, "../examples/hello");
const COLD = { id: "c1", title: "create request to first answer, empty compile cache, against go build + exec" };
const WARM = { id: "c2", title: "create request to first answer, warm cache, changed source, against go build + exec" };
const COLD_ROUNDS = 2;
const WARM_ROUNDS = Number(process.env.BENCH_ROUNDS ?? 9);
const LIMIT_MS = 240_000;
/** The builder's own (src/builders/go.ts). */
const FLAGS = ["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-mod=readonly"];

export const create: Bench = {
	id: "c",
	run: async (place) => {
		if (spawnSync("go", ["version"]).status !== 0) {
			if (process.env.CI === "true") throw new Error("go is needed");
			return [COLD, WARM].map((id) => ({ ...id, skipped: "there is no Go here" }));
		}
		const dataDir = path.join(place, "data");
		const cacheDir = path.join(place, "cache");
		const server = await TestServer.start({ dataDir, args: ["--stop-services"], env: { RUNTIME_CACHE_DIR: cacheDir } });
		try {
			const cold = await alternate(
				COLD_ROUNDS,
				async (round) => {
					await rm(path.join(cacheDir, "go/build"), { recursive: true, force: true });
					return ours(server, place, `cold-${round}`);
				},
				async (round) => {
					await rm(path.join(place, "peer-cache"), { recursive: true, force: true });
					return peer(place, `cold-${round}`);
				},
			);
			const warm = await alternate(
				WARM_ROUNDS,
				(round) => ours(server, place, `warm-${round}`),
				(round) => peer(place, `warm-${round}`),
			);
			return [compared(COLD, cold), compared(WARM, warm)];
		} finally {
			await server.stop();
		}
	},
};

function compared(id: typeof COLD, sides: Sides) {
	const most = median(sides.peer) * 1.1 + 100;
	const over = Math.round(median(sides.ours) - median(sides.peer));
	return duration(id, sides, { target: "≤ 1.1 × + 100 ms", most }, { "ours takes longer by, ms": over });
}

/** The example with a greeting of its own, so that its package must be compiled. */
async function source(place: string, round: string): Promise<string> {
	const folder = path.join(place, `source-${round}`);
	await cp(HELLO, folder, { recursive: true });
	const file = path.join(folder, "main.go");
	const text = await readFile(file, "utf8");
	await writeFile(file, text.replace("Hello from Runtime Builds", `Hello ${round}`));
	return folder;
}

async function ours(server: TestServer, place: string, round: string): Promise<number> {
	const key = await server.api.uploadFolder(await source(place, round));
	const name = `hello-${round}`;
	const time = await timed(async () => {
		await server.api.create({ name, source: key });
		await expectGreeting(await runningUrl(server, name), round);
	});
	await server.api.call("DELETE", `/services/${name}/latest`);
	await until(async () => (await server.api.find(name)) === undefined, `${name} is removed`);
	return time;
}

/** Follows the events, as a client in a hurry does; → the address once the service is Running. */
async function runningUrl(server: TestServer, name: string): Promise<string> {
	const response = await fetch(`${server.url}/services/${name}/latest/events?follow=true`, {
		headers: { authorization: `Bearer ${server.token}` },
		signal: AbortSignal.timeout(LIMIT_MS),
	});
	let text = "";
	const decoder = new TextDecoder();
	for await (const chunk of response.body ?? []) {
		text += decoder.decode(chunk, { stream: true });
		if (/"to":"Error"/.test(text)) throw new Error(`${name} failed:\n${text}`);
		if (/"to":"Running"/.test(text)) return (await server.api.get(name)).url ?? "";
	}
	throw new Error(`the events of ${name} ended:\n${text}`);
}

async function expectGreeting(url: string, round: string): Promise<void> {
	const text = await (await fetch(url)).text();
	if (text !== `Hello ${round}\n`) throw new Error(`${url} answers ${text}`);
}

async function peer(place: string, round: string): Promise<number> {
	const folder = await source(place, round);
	const program = path.join(folder, "program");
	const env = {
		...process.env,
		...{
			CGO_ENABLED: "0",
			GOWORK: "off",
			GOENV: "off",
			GOTOOLCHAIN: "local",
			GOTELEMETRY: "off",
			GOFLAGS: "-modcacherw",
		},
		...{ GOCACHE: path.join(place, "peer-cache"), GOMODCACHE: path.join(place, "peer-modules") },
	};
	await mkdir(env.GOCACHE, { recursive: true });
	const port = await freePort();
	let running: ChildProcess | undefined;
	try {
		return await timed(async () => {
			const build = spawn("go", [...FLAGS, "-o", program, "."], {
				cwd: folder,
				env,
				stdio: ["ignore", "ignore", "inherit"],
			});
			const [code] = await once(build, "exit");
			if (code !== 0) throw new Error(`go build failed with ${code}`);
			running = spawn(program, { env: { HOST: "127.0.0.1", PORT: String(port) }, stdio: "ignore" });
			await answering(`http://127.0.0.1:${port}`, round);
		});
	} finally {
		running?.kill("SIGKILL");
	}
}

async function answering(url: string, round: string): Promise<void> {
	for (const end = Date.now() + LIMIT_MS; ; await delay(1)) {
		const up = await fetch(url, { method: "HEAD" }).then(
			() => true,
			() => false,
		);
		if (up) return expectGreeting(url, round);
		if (Date.now() > end) throw new Error(`${url} does not answer`);
	}
}
