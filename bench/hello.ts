import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type TestServer, until } from "../test/harness/server.ts";
import { timed } from "./rounds.ts";

const HELLO = path.resolve(import.meta.dirname, "../examples/hello");
const LIMIT_MS = 240_000;
/** The builder's own (src/builders/go/go.ts). */
const FLAGS = ["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-mod=readonly"];

/** The example with a greeting of its own, so that its package must be compiled; → the folder. */
export async function helloSource(place: string, round: string): Promise<string> {
	const folder = path.join(place, `source-${round}`);
	await cp(HELLO, folder, { recursive: true });
	const file = path.join(folder, "main.go");
	const text = await readFile(file, "utf8");
	await writeFile(file, text.replace("Hello from Runtime Builds", `Hello ${round}`));
	return folder;
}

/** Milliseconds from the request that creates it to its first answer. It is removed after that. */
export async function createToAnswer(server: TestServer, place: string, round: string): Promise<number> {
	const key = await server.api.uploadFolder(await helloSource(place, round));
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
export async function runningUrl(server: TestServer, name: string): Promise<string> {
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

/** As the builder does, with caches of the peer's own; → the program. */
export async function goBuild(place: string, folder: string): Promise<string> {
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
	const build = spawn("go", [...FLAGS, "-o", program, "."], {
		cwd: folder,
		env,
		stdio: ["ignore", "ignore", "inherit"],
	});
	const [code] = await once(build, "exit");
	if (code !== 0) throw new Error(`go build failed with ${code}`);
	return program;
}

/** Resolves when it greets there. */
export async function answering(url: string, round: string): Promise<void> {
	for (const end = Date.now() + LIMIT_MS; ; await delay(1)) {
		const up = await fetch(url, { method: "HEAD" }).then(
			() => true,
			() => false,
		);
		if (up) return expectGreeting(url, round);
		if (Date.now() > end) throw new Error(`${url} does not answer`);
	}
}

async function expectGreeting(url: string, round: string): Promise<void> {
	const text = await (await fetch(url)).text();
	if (text !== `Hello ${round}\n`) throw new Error(`${url} answers ${text}`);
}
