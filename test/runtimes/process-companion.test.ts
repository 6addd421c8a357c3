import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { CompanionClient } from "../../src/runtimes/companion/client.ts";
import { DEFAULT_SETTINGS } from "../../src/runtimes/companion/settings.ts";
import { createProcessRuntime } from "../../src/runtimes/process/runtime.ts";
import { until } from "../conformance/runtime.ts";
import { dataFolder, harness, programs, spec } from "./process-harness.ts";
import { ask, call, companion, FAST, reach, SERVICE } from "./runtime-harness.ts";

t.test("a companion that is killed five times leaves address, program and exit codes", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(runtime, 1, "ready");
	if (url === null) throw new Error("no address");
	const pid = await ask(`${url}/pid`);
	for (let round = 1; round <= 5; round++) {
		const before = await companion(folder);
		if (before === null) throw new Error("no companion");
		process.kill(before, "SIGKILL");
		const after = await until(
			() => companion(folder),
			(now) => now !== null && now !== before,
			"another companion",
		);
		t.not(after, before);
		const answered = await until(
			() => ask(`${url}/pid`),
			(body) => body !== null,
			"the address answers",
		);
		t.equal(answered, pid, `round ${round}: the same program`);
		t.equal((await runtime.observe(SERVICE, call)).url, url);
		t.equal((await programs(folder)).length, 2, "the shim and the program, nothing twice");
	}
	const old = (await runtime.observe(SERVICE, call)).revisions[0]?.instances[0]?.instance;
	await ask(`${url}/exit`);
	const seen = await until(
		() => runtime.observe(SERVICE, call),
		({ revisions: [now] }) =>
			now?.phase === "ready" && now.instances.length === 1 && now.instances[0]?.instance !== old,
		"it was started again",
	);
	t.equal(seen.url, url);
	t.equal((await programs(folder)).length, 2);
});

t.test("an exit while no companion watched is seen with its code", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"], { restart: "never" }), call);
	const { url } = await reach(runtime, 1, "ready");
	const state = join(folder, "services", SERVICE.id, "state.json");
	const { live } = await until(
		async () => JSON.parse(await readFile(state, "utf8")),
		(seen) => seen.live !== null,
		"the switch is on disk",
	);
	const { port } = live.instances[0];
	const pid = await companion(folder);
	if (pid === null) throw new Error("no companion");
	process.kill(pid, "SIGSTOP");
	await ask(`http://127.0.0.1:${port}/exit`);
	process.kill(pid, "SIGKILL");
	const seen = await reach(runtime, 1, "failed");
	t.match(seen.revisions[0]?.failure, { code: "exited", exitCode: 7 });
	t.equal(seen.url, url);
});

t.test("the server goes and comes back; two servers starting at once share one companion", async (t) => {
	const folder = await dataFolder(t);
	const first = await createProcessRuntime({ folder, ...FAST });
	await first.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(first, 1, "ready");
	const pid = await ask(`${url}/pid`);
	await first[Symbol.asyncDispose]();
	t.equal(await ask(`${url}/pid`), pid, "it answers without a server");
	const before = await companion(folder);
	const [second, third] = await Promise.all([
		createProcessRuntime({ folder, ...FAST }),
		createProcessRuntime({ folder, ...FAST }),
	]);
	t.equal(await companion(folder), before);
	t.equal((await second.observe(SERVICE, call)).serving, 1);
	t.equal((await third.observe(SERVICE, call)).serving, 1);
	await second[Symbol.asyncDispose]();
	await third[Symbol.asyncDispose]();
});

t.test("four servers starting at once on a fresh folder have one companion", async (t) => {
	const folder = await dataFolder(t);
	const all = await Promise.all(Array.from({ length: 4 }, () => createProcessRuntime({ folder, ...FAST })));
	const log = await readFile(join(folder, "companion", "companion.log"), "utf8");
	t.equal(log.split("\n").filter((line) => line.endsWith("] serving")).length, 1);
	for (const runtime of all) await runtime[Symbol.asyncDispose]();
});

t.test("the companion ends when neither a server nor a service needs it", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["exit0"]), call);
	await reach(runtime, 1, "ended");
	await runtime[Symbol.asyncDispose]();
	await until(
		() => companion(folder),
		(pid) => pid === null,
		"it ends",
	);
	const again = await createProcessRuntime({ folder, ...FAST });
	t.equal((await again.observe(SERVICE, call)).revisions[0]?.phase, "ended", "and its successor knows what it knew");
	await again[Symbol.asyncDispose]();
});

t.test("an altered program file is not executed", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(runtime, 1, "ready");
	const files = join(folder, "services", SERVICE.id, "programs");
	const [name = ""] = await readdir(files);
	await writeFile(join(files, name), `#!/bin/sh\necho altered >${folder}/altered\n`);
	await ask(`${url}/exit`);
	const seen = await reach(runtime, 1, "failed");
	t.match(seen.revisions[0]?.failure, { code: "internal", message: /altered/ });
	t.notOk((await readdir(folder)).includes("altered"));
	await runtime.apply(spec(SERVICE, 1, ["serve"], { generation: 2 }), call);
	await reach(runtime, 1, "ready", 2);
});

t.test(
	"stop and remove leave no process, not one that has left its session, nor one that ignores SIGTERM",
	async (t) => {
		const { runtime, folder } = await harness(t, { graceMs: 300 });
		await runtime.apply(spec(SERVICE, 1, ["escape"]), call);
		await reach(runtime, 1, "ready");
		t.equal((await programs(folder)).length, 3);
		await runtime.stop(SERVICE, call);
		t.same(await programs(folder), []);
		await runtime.apply(spec(SERVICE, 2, ["stubborn"]), call);
		await reach(runtime, 2, "ready");
		await runtime.remove(SERVICE, call);
		t.same(await programs(folder), []);
		t.same(await readdir(join(folder, "services")), []);
	},
);

for (const point of ["before_spawn", "after_spawn", "after_ready", "before_switch", "after_switch", "before_stop"])
	t.test(`a kill at companion.${point} ends with one program of the newest revision`, async (t) => {
		const folder = await dataFolder(t);
		const log = join(folder, "points");
		const hit = point === "before_stop" || point === "before_switch" || point === "after_switch" ? 1 : 2;
		process.env.RUNTIME_FAILPOINTS = `companion.${point}:${hit}=kill`;
		process.env.RUNTIME_FAILPOINT_LOG = log;
		const runtime = await createProcessRuntime({ folder, ...FAST });
		delete process.env.RUNTIME_FAILPOINTS;
		delete process.env.RUNTIME_FAILPOINT_LOG;
		await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
		await reach(runtime, 1, "ready");
		await runtime.apply(spec(SERVICE, 2, ["serve"]), call);
		await until(
			() => runtime.observe(SERVICE, call),
			({ revisions, serving }) => serving === 2 && revisions.length === 1 && revisions[0]?.phase === "ready",
			"revision 2 alone",
		);
		t.match(await readFile(log, "utf8"), new RegExp(`^companion\\.${point} ${hit}$`, "m"), "the point was reached");
		await until(
			() => programs(folder),
			(pids) => pids.length === 2,
			"one shim and one program",
		);
		const { url } = await runtime.observe(SERVICE, call);
		const answer = await until(
			() => ask(url ?? ""),
			(body) => body !== null,
			"the address answers",
		);
		t.equal(answer, "revision 2");
		await runtime[Symbol.asyncDispose]();
	});

t.test("a kill while it adopts, twice the programs never", async (t) => {
	const folder = await dataFolder(t);
	const first = await createProcessRuntime({ folder, ...FAST });
	await first.apply(spec(SERVICE, 1, ["serve"], { instances: 2 }), call);
	const { url } = await reach(first, 1, "ready");
	const before = (await programs(folder)).sort();
	await first[Symbol.asyncDispose]();
	const pid = await companion(folder);
	if (pid === null) throw new Error("no companion");
	process.kill(pid, "SIGKILL");
	const log = join(folder, "points");
	process.env.RUNTIME_FAILPOINTS = "companion.adopt:1=kill";
	process.env.RUNTIME_FAILPOINT_LOG = log;
	const second = await createProcessRuntime({ folder, ...FAST });
	delete process.env.RUNTIME_FAILPOINTS;
	delete process.env.RUNTIME_FAILPOINT_LOG;
	t.match(await readFile(log, "utf8"), /^companion\.adopt 1$/m);
	t.equal((await reach(second, 1, "ready")).url, url);
	t.same((await programs(folder)).sort(), before);
	await second[Symbol.asyncDispose]();
});

t.test("what carries the folder's mark without a record is ended at the start", async (t) => {
	const folder = await dataFolder(t);
	const first = await createProcessRuntime({ folder, ...FAST });
	const [id] = (await readFile(join(folder, "folder.id"), "utf8")).split(" ");
	const stray = spawn(process.execPath, ["-e", "setInterval(() => 0, 1000)"], {
		env: { RUNTIME_INSTANCE: `${id}.nobody` },
		stdio: "ignore",
	});
	const ended = once(stray, "exit");
	const pid = await companion(folder);
	if (pid === null) throw new Error("no companion");
	process.kill(pid, "SIGKILL");
	t.same(await ended, [null, "SIGTERM"]);
	await first[Symbol.asyncDispose]();
});

t.test("a companion hands over to another, and programs and address go on", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(runtime, 1, "ready");
	const program = await ask(`${url}/pid`);
	const before = await companion(folder);
	const settings = { ...DEFAULT_SETTINGS, ...FAST };
	const client = await CompanionClient.open({ folder, settings, unavailableMs: 20_000 });
	await client.call("handOver", null, call);
	await client.close();
	await until(
		() => companion(folder),
		(pid) => pid !== null && pid !== before,
		"another companion",
	);
	const answer = await until(
		() => ask(`${url}/pid`),
		(body) => body !== null,
		"the address answers",
	);
	t.equal(answer, program);
});

t.test("a folder whose path is too long for a socket", async (t) => {
	const outer = await dataFolder(t);
	const folder = join(outer, "x".repeat(120));
	await mkdir(folder);
	const runtime = await createProcessRuntime({ folder, ...FAST });
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	await reach(runtime, 1, "ready");
	await runtime.remove(SERVICE, call);
	await runtime[Symbol.asyncDispose]();
	await until(
		() => companion(folder),
		(pid) => pid === null,
		"the companion ends",
	);
});

t.test("an old revision that was being drained when the companion was killed is stopped by the next", async (t) => {
	const { runtime, folder } = await harness(t);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const { url } = await reach(runtime, 1, "ready");
	const slow = ask(`${url}/slow`);
	await runtime.apply(spec(SERVICE, 2, ["serve"]), call);
	const seen = await reach(runtime, 2, "ready");
	t.equal(seen.revisions[0]?.phase, "stopping");
	const state = join(folder, "services", SERVICE.id, "state.json");
	await until(
		async () => JSON.parse(await readFile(state, "utf8")),
		({ retiring }) => retiring.length === 1,
		"the switch is on disk",
	);
	const pid = await companion(folder);
	if (pid === null) throw new Error("no companion");
	process.kill(pid, "SIGKILL");
	await slow;
	await until(
		() => programs(folder),
		(pids) => pids.length === 2,
		"only the new one is left",
	);
	const left = await until(
		() => runtime.observe(SERVICE, call),
		({ revisions }) => revisions.length === 1,
		"the old one is forgotten",
	);
	t.match(left.revisions, [{ revision: 2, phase: "ready" }]);
});
