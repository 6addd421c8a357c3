import { spawn } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import Docker from "dockerode";
import t, { type Test } from "tap";
import { ContainerSandbox } from "../../src/builders/sandbox/container/container.ts";
import { MIB } from "../../src/builders/sandbox/limits.ts";
import { BuildContainers } from "../../src/runtimes/docker/build-containers.ts";
import { eventually, processesMentioning } from "../conformance/builder.ts";
import { Dockerd } from "../harness/dockerd.ts";
import { containers, folderFor, never, ownEngine, shell, noEngine as skip } from "./hostile/sandboxes.ts";

const module = (file: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, file)).href);
const mark = () => `container-${process.pid}-${Math.random().toString(36).slice(2)}`;

async function openAt(t: Test, engine: Dockerd, owner = mark(), workFolder?: string) {
	const options = {
		engine: new BuildContainers(new Docker({ socketPath: engine.socket })),
		...{ owner, workFolder: workFolder ?? (await folderFor(t)) },
	};
	const sandbox = await ContainerSandbox.open(options, { signal: never });
	t.teardown(() => sandbox.close());
	return { sandbox, owner };
}

/** A server of its own process that runs a build until it is killed; it has printed "building". */
async function server(t: Test, engine: Dockerd, owner: string, name: string, script: string) {
	const program = `
		import Docker from "dockerode";
		import { ContainerSandbox } from ${module("../../src/builders/sandbox/container/container.ts")};
		import { BuildContainers } from ${module("../../src/runtimes/docker/build-containers.ts")};
		const call = { signal: new AbortController().signal };
		const engine = new BuildContainers(new Docker({ socketPath: ${JSON.stringify(engine.socket)} }));
		const sandbox = await ContainerSandbox.open({ engine, owner: ${JSON.stringify(owner)}, workFolder: ${JSON.stringify(await folderFor(t))} }, call);
		await sandbox.run({ file: "/bin/sh", cwd: "/", env: { PATH: "/usr/bin:/bin", MARK: ${JSON.stringify(name)} }, log: console.log,
			args: ["-c", ${JSON.stringify(script)}], reads: [], writes: [], hosts: [] }, call);`;
	const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
		stdio: ["ignore", "pipe", "inherit"],
	});
	t.teardown(() => child.kill("SIGKILL"));
	for await (const line of createInterface(child.stdout)) if (line === "building") break;
	return child;
}

const left = async (engine: Dockerd, owner: string) =>
	engine.docker.listContainers({ all: true, filters: { label: [`runtime-builds.build=${owner}`] } });

t.test("a server that is killed takes its build along, and no container stays", { skip }, async (t) => {
	const engine = await ownEngine();
	const [owner, name] = [mark(), mark()];
	const script = "trap '' TERM HUP; setsid sleep 300 & echo building; sleep 300; true";
	const child = await server(t, engine, owner, name, script);
	const ofTheBuild = async () => (await processesMentioning(name)).filter((pid) => pid !== String(child.pid));
	t.ok((await ofTheBuild()).length >= 2, "the build goes on");
	t.equal((await left(engine, owner)).length, 1);
	child.kill("SIGKILL");
	await eventually(async () => (await ofTheBuild()).length === 0, "all of it is gone");
	await eventually(async () => (await left(engine, owner)).length === 0, "its container is gone");
	t.same((await engine.docker.listVolumes()).Volumes ?? [], []);
});

t.test(
	"a build that holds on to its container is swept at the next start, and nobody else's is",
	{ skip },
	async (t) => {
		const engine = await ownEngine();
		const [owner, name] = [mark(), mark()];
		const neighbour = await openAt(t, engine);
		const other = new AbortController();
		const building = Promise.withResolvers<void>();
		const theirs = shell(neighbour.sandbox, "echo up; sleep 300", { log: () => building.resolve() }, other.signal);
		await building.promise;
		// Whoever writes to the first process keeps it from seeing that the server has gone.
		const script = "exec 5<>/proc/1/fd/0; echo building; sleep 300";
		const child = await server(t, engine, owner, name, script);
		child.kill("SIGKILL");
		t.equal((await left(engine, owner)).length, 1, "the canary");
		await openAt(t, engine, owner);
		t.same(await left(engine, owner), []);
		t.equal((await left(engine, neighbour.owner)).length, 1);
		other.abort();
		await t.rejects(theirs, { code: "cancelled" });
		t.same(await left(engine, neighbour.owner), []);
	},
);

t.test(
	"an engine that goes away in mid-build is the machine's fault, and is used again when it is back",
	{ skip },
	async (t) => {
		const engine = await Dockerd.start();
		t.teardown(() => engine.stop());
		const { sandbox } = await openAt(t, engine);
		for (const signal of ["SIGTERM", "SIGKILL"] as const) {
			const building = Promise.withResolvers<void>();
			const work = shell(sandbox, "echo up; sleep 300", { log: () => building.resolve() });
			const refused = t.rejects(work, { code: "unavailable", retryable: true }, signal);
			await building.promise;
			await engine.down(signal);
			await refused;
			await t.rejects(shell(sandbox, "true"), { code: "unavailable", message: /does not answer/ });
			await engine.up();
			t.match(await shell(sandbox, "echo back"), { exitCode: 0, text: "back" });
		}
	},
);

t.test("a container that somebody else ends is not the build's failure", { skip }, async (t) => {
	const engine = await ownEngine();
	const { sandbox, owner } = await openAt(t, engine);
	const building = Promise.withResolvers<void>();
	const refused = t.rejects(shell(sandbox, "echo up; sleep 300", { log: () => building.resolve() }), {
		...{ code: "unavailable", message: /ended from outside/ },
	});
	await building.promise;
	for (const { Id } of await left(engine, owner)) await engine.docker.getContainer(Id).kill();
	await refused;
});

t.test("an image that somebody removed is made again", { skip }, async (t) => {
	const engine = await ownEngine();
	const { sandbox } = await openAt(t, engine);
	for (const { RepoTags } of await engine.docker.listImages())
		for (const tag of RepoTags ?? []) await engine.docker.getImage(tag).remove({ force: true });
	t.match(await shell(sandbox, "echo fine"), { text: "fine" });
});

t.test("exit codes, order of output, environment and what is left", { skip }, async (t) => {
	const engine = await ownEngine();
	const workFolder = await folderFor(t);
	const { sandbox, owner } = await openAt(t, engine, mark(), workFolder);
	const [folder = ""] = await readdir(workFolder);
	const before = await readdir(join(workFolder, folder));
	const script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf unended; kill -9 $$";
	t.match(await shell(sandbox, script), {
		exitCode: 137,
		lines: ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3", "unended"],
	});
	t.match(await shell(sandbox, "", { file: "/no/such/program", args: [] }), { exitCode: 127, text: /not found/ });
	t.match(await shell(sandbox, "kill -9 -1"), { exitCode: 137 }, "it may end all but the first process");
	const env = { WORDS: "a  b", EMPTY: "", HOME: "/x" };
	const seen = await shell(sandbox, "", { file: "/usr/bin/env", args: [], env });
	t.same(seen.lines.filter((line) => !line.startsWith("PWD=")).sort(), ["EMPTY=", "HOME=/x", "WORDS=a  b"]);
	const zombies = "i=0; while [ $i -lt 60 ]; do (sleep 0.01 &); i=$((i+1)); done; sleep 1; ls /proc | grep -c '^[0-9]'";
	t.ok(Number((await shell(sandbox, zombies)).text) < 15, "orphans are reaped");
	t.match(await shell(sandbox, "seq 200000 | tail -c 20; seq 300000", { outputLimit: 50 }), { exitCode: 0 });
	await t.rejects(shell(sandbox, "true", {}, AbortSignal.abort()), { code: "cancelled" });
	await t.rejects(shell(sandbox, "true", { reads: ["/no/such/folder"] }));
	await t.rejects(shell(sandbox, "true", { args: ["a\0b"] }), { code: "source_invalid" });
	t.same(await left(engine, owner), []);
	t.same(await readdir(join(workFolder, folder)), before);
	await sandbox.close();
	t.same(await readdir(workFolder), []);
});

t.test("memory, that of /tmp too: the build is ended, and its owner is told", { skip }, async (t) => {
	const sandbox = await containers(t, { limits: { memory: 96 * MIB } });
	const hungry = "head -c 300000000 /dev/zero | tail -c 290000000 | wc -c; while :; do sleep 1; done";
	t.match(await shell(sandbox, hungry), { ended: "it used more than 96 MiB of memory" });
	const full = "head -c 300000000 /dev/zero >/tmp/full; while :; do sleep 1; done";
	t.match(await shell(sandbox, full), { ended: "it used more than 96 MiB of memory" });
	t.match(await shell(sandbox, "head -c 300000000 /dev/zero | tail -c 290000000 >/dev/null"), {
		ended: "it used more than 96 MiB of memory",
	});
});

t.test("a folder whose path is too long for a socket", { skip }, async (t) => {
	const workFolder = join(await folderFor(t), "a".repeat(120));
	await mkdir(workFolder);
	const { sandbox } = await openAt(t, await ownEngine(), mark(), workFolder);
	const program = `require("node:net").connect(3128, "127.0.0.1", () => { console.log("reached"); process.exit(); })`;
	const node = { file: process.execPath, args: ["-e", program], reads: [process.execPath] };
	const ran = await shell(sandbox, "", { ...node, hosts: [new URL("http://127.0.0.1:9")] });
	t.match(ran, { exitCode: 0, text: "reached" });
});

t.test("a data folder that is in a volume of the engine", { skip }, async (t) => {
	const engine = await ownEngine();
	const { DockerRootDir: root } = await engine.docker.info();
	const { sandbox } = await openAt(t, engine, mark(), join(root, "volumes", mark()));
	t.match(await shell(sandbox, "echo fine"), { text: "fine" });
});

t.test("what it costs", { skip }, async (t) => {
	const sandbox = await containers(t);
	const times: number[] = [];
	for (let round = 0; round < 10; round++) {
		const started = performance.now();
		t.equal((await shell(sandbox, "true")).exitCode, 0);
		times.push(performance.now() - started);
	}
	t.comment(`a command in a container: ${Math.round(times.sort((a, b) => a - b)[5] ?? 0)} ms (median of 10)`);
});
