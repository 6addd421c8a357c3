import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, readdir, rename, writeFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { join } from "node:path";
import { Writable } from "node:stream";
import { text } from "node:stream/consumers";
import t from "tap";
import { ChangesStream } from "../../src/runtimes/companion/changes-stream.ts";
import { systemClock } from "../../src/runtimes/companion/clock.ts";
import { CompanionServer } from "../../src/runtimes/companion/companion-server.ts";
import type { OpenEngine } from "../../src/runtimes/companion/engine.ts";
import { checkRange, defaultRange, Ports } from "../../src/runtimes/companion/ports.ts";
import { MAX_REQUEST_BYTES } from "../../src/runtimes/companion/protocol.ts";
import { ProcessEngine } from "../../src/runtimes/process/engine.ts";
import { createProcessRuntime } from "../../src/runtimes/process/runtime.ts";
import { until } from "../conformance/runtime.ts";
import { dataFolder, harness, spec } from "./process-harness.ts";
import { call, companion, FAST, reach, SERVICE } from "./runtime-harness.ts";
import { openSupervisor, refuseState, worker } from "./supervisor-harness.ts";

t.test("a service that was removed while its state could not be written is never written again", async (t) => {
	let sleeping = 0;
	let refused = 0;
	const sleep: typeof systemClock.sleep = async (ms, signal) => {
		sleeping++;
		await systemClock.sleep(ms, signal);
		sleeping--;
	};
	const clock = { ...systemClock, sleep };
	const report = (message: string) => {
		if (message.includes("could not be written")) refused++;
	};
	const { supervisor, folder } = await openSupervisor(t, { clock, report });
	await supervisor.apply(worker(folder));
	const seen = await until(
		() => supervisor.observe(SERVICE.id),
		({ revisions }) => revisions[0]?.phase === "ready" && revisions[0].instances[0]?.pid !== null,
		"it runs",
	);
	await refuseState(folder, SERVICE.id);
	process.kill(seen.revisions[0]?.instances[0]?.pid ?? 0, "SIGKILL");
	await until(
		() => refused,
		(count) => count > 0,
		"a write was refused",
	);
	await supervisor.remove(SERVICE.id);
	await until(
		() => sleeping,
		(count) => count === 0,
		"nobody tries any more",
	);
	t.same(await readdir(join(folder, "services")), []);
	t.same(supervisor.list(), []);
});

t.test("a service that is removed while it is being opened is gone", async (t) => {
	const { supervisor, folder } = await openSupervisor(t);
	const applied = supervisor.apply(worker(folder));
	await supervisor.remove(SERVICE.id);
	await applied.catch(() => undefined);
	t.same(supervisor.list(), []);
	t.same(await readdir(join(folder, "services")), []);
	t.notOk(supervisor.needed);
});

t.test("a wall clock that jumps changes nothing that is waited for", async (t) => {
	let jump = 0;
	const clock = { ...systemClock, wall: () => Date.now() + jump };
	const { supervisor, folder } = await openSupervisor(t, { clock });
	const program = { kind: "directory", path: folder, command: ["sh", "-c", "sleep 1000"] } as const;
	// Nothing ever listens, so what is seen while the clock jumps is that the time is not over yet.
	await supervisor.apply(worker(folder, { program, health: { type: "port", path: "/", timeout: 2 } }));
	const started = performance.now();
	jump = 3_600_000;
	await until(
		() => supervisor.observe(SERVICE.id),
		({ revisions }) => revisions[0]?.phase === "failed",
		"its time is over",
	);
	t.ok(performance.now() - started > 1_900, "not sooner for a clock that was set forward");
	jump = -3_600_000;
	await supervisor.apply(worker(folder, { program, revision: 2, health: { type: "port", path: "/", timeout: 1 } }));
	const again = performance.now();
	await until(
		() => supervisor.observe(SERVICE.id),
		({ revisions }) => revisions.at(-1)?.revision === 2 && revisions.at(-1)?.phase === "failed",
		"its time is over too",
	);
	t.ok(performance.now() - again < 30_000, "nor later for one that was set back");
});

t.test("ranges of ports", async (t) => {
	t.same(defaultRange(32_768), { from: 20_000, to: 32_767 });
	t.same(defaultRange(49_152), { from: 20_000, to: 49_151 });
	for (const first of [1_024, 20_000, 20_500]) t.same(defaultRange(first), { from: 20_000, to: 32_767 }, String(first));
	for (const range of [
		{ from: 30_000, to: 20_000 },
		{ from: 0, to: 10 },
		{ from: 60_000, to: 70_000 },
		{ from: Number.NaN, to: 30_000 },
	])
		t.throws(() => checkRange(range), { code: "invalid_argument", field: "ports", message: /no port from/ });
	checkRange({ from: 20_000, to: 20_000 });
	await t.rejects(createProcessRuntime({ folder: t.testdir(), ...FAST, ports: { from: 30_000, to: 20_000 } }), {
		code: "invalid_argument",
		field: "ports",
	});
});

t.test("where every port is taken an apply is refused for now, and nothing is left of it", async (t) => {
	const ports = new Ports({ from: 20_100, to: 20_101 }, "a");
	ports.hold(20_100);
	ports.hold(20_101);
	await t.rejects(ports.take(), { code: "unavailable", message: "no port from 20100 to 20101 is free" });
	const taken = createServer().listen(0, "127.0.0.1");
	await once(taken, "listening");
	const address = taken.address();
	const port = typeof address === "object" && address !== null ? address.port : 0;
	taken.close();
	await once(taken, "close");
	// One port is the service's own, and none is left for its program.
	const { runtime } = await harness(t, { ports: { from: port, to: port } });
	await t.rejects(runtime.apply(spec(SERVICE, 1, ["serve"]), call), { code: "unavailable", message: /no port from/ });
	t.same((await runtime.observe(SERVICE, call)).revisions, []);
});

t.test("a request that is too large is refused, and the server goes on", async (t) => {
	const { supervisor, folder } = await openSupervisor(t);
	const server = new CompanionServer(supervisor, () => undefined);
	const socketPath = join(folder, "sock");
	await server.listen(socketPath);
	t.teardown(() => server.close());
	const send = async (name: string, body: AsyncIterable<Buffer> | string) => {
		const outgoing = request({ socketPath, path: `/${name}`, method: "POST" });
		const answered = once(outgoing, "response");
		outgoing.on("error", () => undefined);
		if (typeof body === "string") outgoing.end(body);
		else {
			for await (const piece of body)
				if (!outgoing.write(piece)) await Promise.race([once(outgoing, "drain"), answered]);
			outgoing.end();
		}
		const [response] = await answered;
		const answer = await text(response);
		outgoing.destroy();
		return answer;
	};
	async function* large() {
		for (let sent = 0; sent <= MAX_REQUEST_BYTES; sent += 1024 ** 2) yield Buffer.alloc(1024 ** 2, 32);
	}
	t.match(JSON.parse(await send("apply", large())), { error: { code: "too_large", message: /16 MiB/ } });
	for (const id of ["c", "a", "b"]) await supervisor.apply(worker(folder, { id }));
	const ids = (lines: string) => lines.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line).id]));
	t.same(ids(await send("services", '""')), ["a", "b", "c"], "one a line");
	t.same(ids(await send("services", '"a"')), ["b", "c"]);
});

t.test("a listener that does not take what it is told is told once of each service", async (t) => {
	const taken: string[] = [];
	let take: (() => void) | null = null;
	const slow = new Writable({
		highWaterMark: 1,
		write: (chunk, _encoding, done) => {
			taken.push(String(chunk));
			take = done;
		},
	});
	const stream = new ChangesStream(slow);
	for (let round = 0; round < 10_000; round++) {
		stream.tell({ ...SERVICE, id: `s${round % 3}` });
		stream.beat();
	}
	t.ok(slow.writableLength < 1_000, `${slow.writableLength} bytes wait`);
	while (take !== null) {
		const next: () => void = take;
		take = null;
		next();
		await new Promise(setImmediate);
	}
	t.same(
		taken.map((line) => JSON.parse(line).id),
		["s0", "s1", "s2", "s0"].slice(0, taken.length),
	);
	t.ok(taken.length <= 4 && taken.length >= 3);
});

t.test("after all was stopped on purpose the companion ends as soon as the server is gone", async (t) => {
	const folder = await dataFolder(t);
	const runtime = await createProcessRuntime({ folder, ...FAST, idleMs: 600_000 });
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	await reach(runtime, 1, "ready");
	await runtime.stopAll(call);
	await runtime[Symbol.asyncDispose]();
	await until(
		() => companion(folder),
		(pid) => pid === null,
		"it ends",
	);
	t.pass("long before its idle time");
});

t.test("what is altered after it was read, and before it is started, is not executed", async (t) => {
	for (const how of ["written", "replaced", "not"] as const) {
		let programs = "";
		const bytes = "#!/bin/sh\nexec sleep 1000\n";
		const sha256 = createHash("sha256").update(bytes).digest("hex");
		let reads = 0;
		const engine: OpenEngine = async (host) => {
			const inner = await ProcessEngine.open(host);
			const verify = inner.verify.bind(inner);
			inner.verify = async (plan) => {
				const state = await verify(plan);
				reads++;
				const file = join(programs, sha256);
				// As long as the build.
				const other = bytes.replace("1000", "1001");
				if (how === "replaced") await rename(await written(`${file}.new`, other), file);
				if (how === "written") await written(file, other);
				return state;
			};
			return inner;
		};
		const { supervisor, folder } = await openSupervisor(t, { engine });
		programs = join(folder, "services", SERVICE.id, "programs");
		await mkdir(programs, { recursive: true });
		await written(join(programs, sha256), bytes);
		await supervisor.apply(worker(folder, { program: { kind: "build", sha256, size: bytes.length } }));
		const { revisions } = await until(
			() => supervisor.observe(SERVICE.id),
			({ revisions }) => revisions[0]?.phase === (how === "not" ? "ready" : "failed"),
			how,
		);
		t.match(revisions[0]?.failure, how === "not" ? null : { code: "internal", message: /altered on the disk/ }, how);
		t.equal(reads, 1);
	}
});

async function written(file: string, text: string): Promise<string> {
	await writeFile(file, text, { mode: 0o755 });
	return file;
}
