import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { archiveOf } from "../fixtures/archive.ts";
import type { Api } from "../harness/api.ts";
import { programsUnder } from "../harness/processes.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { workIn } from "../harness/work-folder.ts";
import { makeCertificates } from "../hosts/certificates.ts";
import { startGitHost } from "../hosts/git.ts";
import { makeRepository } from "../hosts/repository.ts";

const SOURCE = path.resolve(import.meta.dirname, "../../src");
const PROBE = path.resolve(import.meta.dirname, "../fixtures/monorepo/probe");
const AT = "/services/victim/latest";

/** A life that passes many points. What fails on the way is what a kill does to it. */
type Scenario = {
	readonly name: string;
	readonly args: readonly string[];
	readonly env?: Readonly<Record<string, string>>;
	run(api: Api): Promise<void>;
};

const COLLECTING = [
	"--source-age",
	"0",
	"--collect-every",
	"1",
	"--keep-builds",
	"1",
	"--drain",
	"1",
	"--stop-grace",
	"1",
];

/** The collector may take a source before it is used: the age is nothing here. */
async function change(api: Api, method: string, url: string, body: object): Promise<void> {
	for (let attempt = 0; attempt < 20; attempt++) {
		const source = await api.uploadFolder(PROBE);
		const { status } = await api.call(method, url, { ...body, source });
		if (status < 300) return;
		if (status !== 404) throw new Error(`${method} ${url}: ${status}`);
	}
}

async function life(api: Api): Promise<void> {
	// Past what one write takes, so that a kill may find half of it.
	const noise = Buffer.alloc(6 * 1024 * 1024).map((_, index) => Math.imul(index, 2654435761) >>> 13);
	await api.send(new Uint8Array(await archiveOf({ "go.mod": "module x\n", "big.bin": new Uint8Array(noise) })));
	await change(api, "POST", "/services", { name: "victim" });
	await api.settled("victim", 60_000);
	await api.call("PATCH", AT, { env: { GREETING: "two" } });
	await api.settled("victim", 60_000);
	await change(api, "PATCH", AT, { env: { GREETING: "three" } });
	const { revision } = await api.settled("victim", 60_000);
	await api.call("POST", `${AT}/rollback`, { revision });
	await api.settled("victim", 60_000);
	await change(api, "PATCH", AT, {});
	await api.settled("victim", 60_000);
	await api.call("POST", `${AT}/restart`);
	await api.settled("victim", 60_000);
	await new Promise((resolve) => setTimeout(resolve, 2500));
	await api.call("DELETE", AT);
	await until(async () => (await api.find("victim")) === undefined, "it is gone");
	await new Promise((resolve) => setTimeout(resolve, 2500));
}

const place = await mkdtemp(path.join(tmpdir(), "runtime-points-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const certificates = await makeCertificates(place, ["localhost"]);
await makeRepository(path.join(place, "repositories"), "acme/monorepo");
const host = await startGitHost({ root: path.join(place, "repositories"), certificates });
t.teardown(() => host.close());
const hostsFile = path.join(place, "hosts.json");
await writeFile(hostsFile, JSON.stringify([{ host: host.host, kind: "git", allowPrivate: true, ca: certificates.ca }]));

async function remote(api: Api): Promise<void> {
	await api.create({
		name: "victim",
		source: `${host.host}/acme/monorepo/helloserver`,
		args: ["-addr", "$HOST:$PORT"],
	});
	await api.settled("victim", 60_000);
}

/** Output past what one file of it may hold. */
async function chatty(api: Api): Promise<void> {
	const main = `package main

import ("net/http"; "os"; "strings")

func main() {
	for i := 0; i < 400000; i++ { os.Stdout.WriteString(strings.Repeat("x", 99) + "\\n") }
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`;
	const source = await api.uploadFiles({ "go.mod": "module example.com/chatty\n\ngo 1.21\n", "main.go": main });
	await api.create({ name: "victim", source });
	await api.settled("victim", 60_000);
}

/** Reached by no scenario here, and why. */
const ELSEWHERE: Readonly<Record<string, string>> = {
	"companion.adopt": "needs a companion that was killed before: test/runtimes/process-companion.test.ts kills it",
	"docker.after_create": "needs an engine: test/runtimes/docker/containers.test.ts kills it there",
	"docker.sweep": "the same",
	"loading.before_rename": "profile docker's start: test/loading/opening.test.ts kills it at each file",
	"loading.between_key_and_certificate": "the same: test/loading/authority.test.ts",
	"output.before_truncate": "only where the file system cannot punch holes",
	"s3.after_entry": "needs a bucket: test/blob/s3.test.ts kills it there",
	"s3.before_entry": "the same",
	"s3.entry_removed": "the same",
	"s3.part_sent": "the same",
	"seed.before_rename": "only another namespace's first build makes a seed: test/builders/leftovers.test.ts kills it",
	"seed.made": "the same",
};

/** Of those that reach a point, the last one is killed there. */
const scenarios: readonly Scenario[] = [
	{ name: "remote", args: [], env: { RUNTIME_GIT_HOSTS: hostsFile }, run: remote },
	{ name: "chatty", args: COLLECTING, run: chatty },
	{ name: "dev", args: ["--profile", "dev", ...COLLECTING], run: life },
	{ name: "local", args: COLLECTING, run: life },
];

/** Names in the source's own text, so that none can be forgotten. */
async function named(): Promise<string[]> {
	const found = new Set<string>();
	for (const file of await readdir(SOURCE, { recursive: true })) {
		if (!file.endsWith(".ts")) continue;
		const text = await readFile(path.join(SOURCE, file), "utf8");
		for (const [, name = ""] of text.matchAll(/failpoint\("([a-z0-9_.]+)"\)/g))
			if (file !== "failpoint.ts") found.add(name);
	}
	return [...found].sort();
}

const reached = async (log: string) =>
	new Set((await readFile(log, "utf8").catch(() => "")).split("\n").map((line) => line.split(" ")[0] ?? ""));

async function record(t: Test, { args, env, run }: Scenario): Promise<Set<string>> {
	const dataDir = await dataFolder(t);
	const log = path.join(dataDir, "failpoints");
	const server = await TestServer.start({ dataDir, args, env: { ...env, RUNTIME_FAILPOINT_LOG: log } });
	t.teardown(() => server.stop());
	await run(server.api);
	await server.stop();
	return reached(log);
}

async function kill(t: Test, { args, env: more, run }: Scenario, point: string): Promise<void> {
	const dataDir = await dataFolder(t);
	const log = path.join(dataDir, "failpoints");
	const env = { ...more, RUNTIME_FAILPOINTS: `${point}:1=kill`, RUNTIME_FAILPOINT_LOG: log };
	const server = await TestServer.start({ dataDir, args, env }).catch(() => undefined);
	if (server !== undefined) {
		t.teardown(() => server.stop());
		const ended = new Promise((resolve) => server.child.once("exit", resolve));
		// Where the companion is killed the server goes on, and so does the life.
		await Promise.race([ended, run(server.api).catch(() => undefined)]);
		await server.stop();
	}
	t.ok((await reached(log)).has(point), `${point} was reached`);
	const next = await TestServer.start({ dataDir, args, ...(more === undefined ? {} : { env: more }) });
	t.teardown(() => next.stop());
	const found = await next.api.find("victim");
	if (found?.status === "Stopping")
		await until(async () => (await next.api.find("victim")) === undefined, "it is gone");
	else if (found !== undefined) t.match(await next.api.settled("victim"), { status: /^(Running|Stopped|Error)$/ });
	const runs = async () => ((await next.api.find("victim"))?.status === "Running" ? 1 : 0);
	await until(
		async () => (await programsUnder(dataDir)).length === (await runs()),
		"a program for what runs, and none else",
	);
	await change(next.api, "POST", "/services", { name: "after" });
	t.match(await next.api.settled("after"), { status: "Running" }, "the server works");
	t.same(await workIn(dataDir), [], "no temporary folder is left");
}

if (process.env.CRASH_ALL !== "1") t.pass("CRASH_ALL=1 kills at every named point; it takes its time");
else {
	const points = await named();
	// Each has a data folder of its own; most of its time it waits.
	t.jobs = 2;
	const seen = new Map<string, Scenario>();
	for (const scenario of scenarios)
		await t.test(`${scenario.name}, recorded`, async (t) => {
			for (const point of await record(t, scenario)) seen.set(point, scenario);
		});
	const never = points.filter((point) => !seen.has(point) && !(point in ELSEWHERE));
	t.same(never, [], "every named point is reached by a scenario");
	for (const point of points) {
		const scenario = seen.get(point);
		if (scenario === undefined) t.comment(`${point}: ${ELSEWHERE[point] ?? "never reached"}`);
		else t.test(`killed at ${point}, ${scenario.name}`, { buffered: true }, (t) => kill(t, scenario, point));
	}
}
