import { createHash } from "node:crypto";
import { readdir, readFile, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import type Docker from "dockerode";
import t, { type Test } from "tap";
import { statusOf } from "../../src/runtimes/docker/daemon.ts";
import { archiveOf } from "../fixtures/archive.ts";
import type { Service } from "../harness/api.ts";
import { Dockerd } from "../harness/dockerd.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { Containers, type Ended, missing } from "./containers.ts";
import { Wire } from "./wire.ts";

const without = missing() || (await Dockerd.missing());
if (without !== false) {
	t.pass(without, { skip: without });
	process.exit();
}

const MIB = 1024 ** 2;
/** Says which bytes it consists of; or ends at once. */
const PROGRAM = {
	"go.mod": "module example.com/program\n\ngo 1.21\n",
	"main.go": `package main

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/http"
	"os"
	"strconv"
)

//go:embed ballast
var ballast string

func main() {
	if len(os.Args) == 3 && os.Args[1] == "exit" {
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	}
	bytes, err := os.ReadFile("/proc/self/exe")
	if err != nil || ballast == "" {
		panic(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(bytes))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, sum) })
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`,
};

const dockerd = await Dockerd.start();
t.teardown(() => dockerd.stop());
const { docker } = dockerd;
const containers = await Containers.open(t, dockerd.socket);
const wire = await Wire.open(dockerd.address, async () => {
	const port = Number(await readFile(path.join(dataDir, "loading", "port"), "utf8"));
	return { host: dockerd.address, port };
});
t.teardown(() => wire[Symbol.asyncDispose]());
const url = `https://${dockerd.address}:${wire.port}`;
const args = ["--profile", "docker", "--docker", dockerd.socket, "--loader-url", url];
const dataDir = await dataFolder(t, args);
let server = await TestServer.start({ dataDir, args });
t.teardown(() => server.stop());

async function upload(ballast: string | number): Promise<string> {
	const text = typeof ballast === "string" ? ballast : "0123456789abcde\n".repeat(ballast / 16);
	return server.api.uploadFiles({ ...PROGRAM, ballast: text });
}

const source = await upload("first");
const health = (timeout: number) => ({ type: "port", timeout }) as const;

/** A service of the same name in another namespace. */
async function namesakeOf(t: Test, name: string): Promise<{ id: string }> {
	const other = { "runtime-namespace": "other" };
	const sent = await server.api.send(new Uint8Array(await archiveOf({ ...PROGRAM, ballast: "first" })), other);
	const { source } = Object(sent.body);
	t.equal((await server.api.call("POST", "/services", { name, source }, other)).status, 202);
	const find = async () => Object((await server.api.call("GET", `/services/${name}/latest`, undefined, other)).body);
	await until(async () => (await find()).status === "Running", "the namesake runs", 120_000);
	return find();
}

async function running(name: string, more: object = {}): Promise<Service> {
	await server.api.create({ name, source, ...more });
	const service = await server.api.settled(name);
	if (service.status !== "Running") throw new Error(JSON.stringify(service));
	return service;
}

/** Those of a revision, running or not. */
async function containersOf({ id }: Pick<Service, "id">, revision: number): Promise<Docker.ContainerInspectInfo[]> {
	const label = [`runtime-builds.service=${id}`, `runtime-builds.revision=${revision}`];
	const found = await docker.listContainers({ all: true, filters: { label } });
	const infos = found.map(async ({ Id }) => {
		try {
			return [await docker.getContainer(Id).inspect()];
		} catch (error) {
			// It was removed since it was listed.
			if (statusOf(error) === 404) return [];
			throw error;
		}
	});
	return (await Promise.all(infos)).flat();
}

type Given = { readonly image: string; readonly env: Record<string, string> };

/** What the loader of a revision's container was given. */
async function givenTo(service: Pick<Service, "id">, revision = 1): Promise<Given> {
	const [info] = await containersOf(service, revision);
	if (info === undefined) throw new Error("there is no container");
	const entries = info.Config.Env.map((entry) => [
		entry.slice(0, entry.indexOf("=")),
		entry.slice(entry.indexOf("=") + 1),
	]);
	const loader = entries.filter(([name]) => name?.startsWith("RUNTIME_LOADER_"));
	return { image: info.Config.Image, env: { ...Object.fromEntries(loader), RUNTIME_LOADER_TIMEOUT: "10" } };
}

const tokenOf = ({ env }: Given) => env.RUNTIME_LOADER_TOKEN ?? "";
const urlOf = ({ env }: Given) => env.RUNTIME_LOADER_URL ?? "";

/** By hand, as the runtime starts them. */
function load({ image, env }: Given, change: Record<string, string> = {}): Promise<Ended> {
	return containers.run({ image, env: { ...env, ...change }, args: ["exit", "7"] });
}

function refused(t: Test, ended: Ended, code: number, words: RegExp): void {
	t.equal(ended.code, code, ended.stderr);
	t.match(ended.last, /^runtime-loader: /);
	t.match(ended.last, words);
	t.equal(ended.stdout, "");
	t.notMatch(ended.stderr, /rbl_/, "the credential is in no message");
}

async function loads(t: Test, given: Given): Promise<void> {
	const { code, stderr } = await load(given);
	t.equal(code, 7, stderr);
}

/** The bytes that answer are those that were built. */
async function servesOwnBytes(t: Test, name: string): Promise<void> {
	const service = await server.api.get(name);
	t.match(service.build?.digest, /^sha256:[0-9a-f]{64}$/);
	t.equal(`sha256:${await (await fetch(service.url ?? "")).text()}`, service.build?.digest);
}

/** Ends a revision's container as a crash would, and waits until there is another one, or none is to come. */
async function crash(service: Service, revision: number): Promise<void> {
	const [before] = await containersOf(service, revision);
	if (before === undefined) throw new Error("there is no container");
	await docker.getContainer(before.Id).kill();
	const over = async () => (await server.api.get(service.name)).status === "Error";
	const another = async () =>
		(await containersOf(service, revision)).some(({ Id, State }) => Id !== before.Id && State.Running);
	await until(async () => (await over()) || (await another()), "it is started again");
}

/** The file in which the server keeps a service's build. */
async function fileOf({ build }: Service): Promise<string> {
	const objects = path.join(dataDir, "blobs", "objects");
	for (const entry of await readdir(objects, { recursive: true, withFileTypes: true })) {
		if (!entry.isFile()) continue;
		const file = path.join(entry.parentPath, entry.name);
		const sha256 = createHash("sha256").update(await readFile(file));
		if (`sha256:${sha256.digest("hex")}` === build?.digest) return file;
	}
	throw new Error("there is no such file");
}

t.test("a credential is for one revision of one service", async (t) => {
	const one = await running("one");
	const two = await running("two");
	const [own, neighbour, namesake] = [
		await givenTo(one),
		await givenTo(two),
		await givenTo(await namesakeOf(t, "one")),
	];
	await loads(t, own);
	await loads(t, namesake);
	const token = tokenOf(own);
	const cases: Record<string, Record<string, string>> = {
		"no credential of ours": { RUNTIME_LOADER_TOKEN: "rbl_nothing" },
		"one that was altered": { RUNTIME_LOADER_TOKEN: token.slice(0, -2) + (token.endsWith("AA") ? "BA" : "AA") },
		"the administrator's": { RUNTIME_LOADER_TOKEN: server.token },
		"another service's": { RUNTIME_LOADER_TOKEN: tokenOf(neighbour) },
		"that of the namesake in another namespace": { RUNTIME_LOADER_TOKEN: tokenOf(namesake) },
		"its own, for another namespace": { RUNTIME_LOADER_NAMESPACE: "other" },
		"its own, for another revision": { RUNTIME_LOADER_URL: urlOf(own).replace(/\d+$/, "2") },
	};
	for (const [what, change] of Object.entries(cases))
		await t.test(what, async (t) => refused(t, await load(own, change), 91, /refused the credential \(401\)/));

	await server.api.update("one", { env: { MORE: "1" } });
	const updated = await server.api.settled("one");
	t.match(updated, { status: "Running", revision: 2 });
	const next = await givenTo(updated, 2);
	await loads(t, next);
	refused(t, await load(next, { RUNTIME_LOADER_TOKEN: token }), 91, /refused/);
	await until(async () => (await load(own)).code === 91, "the first revision's ends with it");
	const elsewhere = { RUNTIME_LOADER_URL: urlOf(next).replace("/builds/", "/build/") };
	refused(t, await load(next, elsewhere), 92, /does not have the build \(404\)/);
});

t.test("a credential ends with its service's last revision at work", async (t) => {
	const service = await running("ends");
	const given = await givenTo(service);
	await loads(t, given);
	await server.api.call("POST", "/services/ends/latest/stop");
	t.equal((await server.api.settled("ends")).status, "Stopped");
	refused(t, await load(given), 91, /refused the credential \(401\)/);
	await server.api.call("POST", "/services/ends/latest/start");
	t.equal((await server.api.settled("ends")).status, "Running");
	await loads(t, given);
	await servesOwnBytes(t, "ends");
	await server.api.call("DELETE", "/services/ends/latest");
	await until(async () => (await server.api.find("ends")) === undefined, "it is gone");
	refused(t, await load(given), 91, /refused/);
});

t.test("an altered build is not run, and the service says so", async (t) => {
	// Bytes of its own: other services' are left whole.
	const service = await running("altered", { source: await upload("altered") });
	const given = await givenTo(service);
	const file = await fileOf(service);
	const bytes = await readFile(file);
	bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1);
	await writeFile(file, bytes);
	refused(t, await load(given), 93, /altered: its sha256 is [0-9a-f]{64} and should be [0-9a-f]{64}/);
	await crash(service, 1);
	const { status, error } = await server.api.settled("altered");
	t.equal(status, "Error");
	t.match(error, { code: "internal", message: /^the build was altered: its sha256 is/, exitCode: 93 });
	refused(t, await load(given), 91, /refused/);
});

t.test("a build that the server lost a part of is refused at once, and the service says what to do", async (t) => {
	const service = await running("short", { source: await upload("short") });
	const given = await givenTo(service);
	await truncate(await fileOf(service), 100_000);
	const began = performance.now();
	refused(
		t,
		await load(given),
		98,
		/the build that the server stored is damaged; update the service .*or roll it back/,
	);
	t.ok(performance.now() - began < 20_000, "the 60 s for a server that is away are not waited for");
	const { status, body } = await server.api.call("GET", "/builds/short/latest");
	t.match(
		{ status, body },
		{ status: 500, body: { code: "damaged", detail: /is damaged/, hint: /Update the service/ } },
	);
	await crash(service, 1);
	const after = await server.api.settled("short");
	t.equal(after.status, "Error");
	t.match(after.error, {
		code: "internal",
		message: /^the build that the server stored is damaged; update/,
		exitCode: 98,
	});
	await server.api.update("short", { source: await upload("short again") });
	t.match(await server.api.settled("short"), { status: "Running", revision: 2 });
	await server.api.call("DELETE", "/services/short/latest");
});

t.test("a build that is shorter than was promised is not run", async (t) => {
	const service = await running("promised");
	const given = await givenTo(service);
	const size = service.build?.size ?? 0;
	const words = new RegExp(`wrong size: the server has ${size} bytes of it and it should be ${size + 1}`);
	refused(t, await load(given, { RUNTIME_LOADER_SIZE: String(size + 1) }), 94, words);
});

t.test("a credential that the server does not know any more ends the service, which says so", async (t) => {
	const service = await running("forgotten");
	const file = path.join(dataDir, "loading", "secret");
	const kept = await readFile(file);
	const restart = async (secret: Buffer) => {
		await server.kill();
		await writeFile(file, secret);
		server = await TestServer.start({ dataDir, args });
	};
	await restart(Buffer.from(`${Buffer.alloc(32, "x").toString("base64url")}\n`));
	await crash(service, 1);
	const { status, error } = await server.api.settled("forgotten");
	await restart(kept);
	t.equal(status, "Error");
	t.match(error, { code: "internal", message: /^the server refused the credential \(401\)/, exitCode: 91 });
});

t.test("a server that is killed and started again in mid-download is gone on with", async (t) => {
	wire.mend();
	t.teardown(() => wire.mend());
	wire.fault = { holdAt: 12 * MIB };
	await server.api.create({ name: "big", source: await upload(24 * MIB), health: health(120) });
	await until(() => wire.total >= 12 * MIB, "a part is loaded", 120_000);
	const [before] = await containersOf(await server.api.get("big"), 1);
	await server.kill();
	wire.fault = {};
	server = await TestServer.start({ dataDir, args });
	const service = await server.api.settled("big");
	t.match(service, { status: "Running", error: null });
	await servesOwnBytes(t, "big");
	const [after] = await containersOf(service, 1);
	t.equal(after?.Id, before?.Id, "the same container");
	const size = service.build?.size ?? 0;
	t.ok(size > 24 * MIB && wire.total > size && wire.total < size + MIB, `${wire.total} bytes for ${size}`);
});

t.test("a slow server is waited for, for as long as the service's health check allows", async (t) => {
	t.teardown(() => wire.mend());
	wire.fault = { rate: 3 * MIB };
	const began = performance.now();
	const service = await running("slow", { health: health(60) });
	t.ok(performance.now() - began > ((service.build?.size ?? 0) / (3 * MIB)) * 900, "it was slow");
	await servesOwnBytes(t, "slow");
	wire.fault = { rate: MIB / 2 };
	await server.api.update("slow", { env: { MORE: "1" }, health: health(4) });
	const { status, target } = await server.api.settled("slow");
	t.equal(status, "Running");
	const message = /^the build could not be loaded within 4 s: the server is slow \(\d+ of \d+ bytes so far\)/;
	t.match(target, { status: "Error", error: { code: "internal", message } });
});

t.test("a server that containers do not reach is said to be that", async (t) => {
	t.teardown(() => wire.mend());
	wire.fault = { refuse: true };
	const began = performance.now();
	await server.api.create({ name: "alone", source, health: health(6) });
	const { status, error } = await server.api.settled("alone");
	t.equal(status, "Error");
	t.match(error, {
		code: "internal",
		message:
			/^the server could not be reached from this container at https:\/\/\S+ within \d+s: .*firewall.*RUNTIME_LOADER_URL[^(]*$/,
	});
	t.ok(performance.now() - began < 15_000, "it is tried for the time of the health check once");
	t.comment(error?.message);
});

t.test("after an update that failed, the old revision comes back with its own bytes", async (t) => {
	const service = await running("back", { source: await upload("the first") });
	const first = service.build?.digest;
	await server.api.update("back", { source: await upload("the second"), args: ["exit", "3"] });
	const after = await server.api.settled("back");
	t.match(after, { status: "Running", revision: 1, target: { status: "Error", error: { code: "exited" } } });
	await crash(service, 1);
	await until(async () => (await server.api.get("back")).status === "Running", "it runs again");
	await servesOwnBytes(t, "back");
	t.equal((await server.api.get("back")).build?.digest, first);
	await loads(t, await givenTo(service, 1));
});
