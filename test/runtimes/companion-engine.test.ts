import { mkdir } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import t, { type Test } from "tap";
import { AppError } from "../../src/errors.ts";
import type { Engine, Exit, InstancePlan, Running, StartPlan } from "../../src/runtimes/companion/engine.ts";
import type { ServiceRef } from "../../src/runtimes/runtime.ts";
import { until } from "../conformance/runtime.ts";
import { FAST, SERVICE } from "./runtime-harness.ts";
import { openSupervisor, worker } from "./supervisor-harness.ts";

/** One that can go away, and whose instances are listeners of the test's own process. */
class FakeEngine implements Engine {
	readonly kind = "docker";
	readonly trust = "many";
	readonly programHost = "0.0.0.0";
	reachable = true;
	/** Why nothing can be started. */
	refusal: Error | null = null;
	readonly done: string[] = [];
	readonly started: InstancePlan[] = [];
	readonly #ends = new Map<string, (exit: Exit) => void>();
	readonly #servers = new Map<string, Server>();
	readonly #listeners = new Set<() => void>();

	mustBeReachable(): void {
		if (!this.reachable) throw new AppError("unavailable", "the engine is away");
	}

	onReachable(listener: () => void): () => void {
		this.#listeners.add(listener);
		return () => void this.#listeners.delete(listener);
	}

	set(reachable: boolean): void {
		this.reachable = reachable;
		for (const listener of [...this.#listeners]) listener();
	}

	async check(): Promise<void> {
		this.mustBeReachable();
	}

	async start(plan: InstancePlan): Promise<Running> {
		this.done.push("start");
		this.mustBeReachable();
		if (this.refusal !== null) throw this.refusal;
		this.started.push(plan);
		const { instance, port } = plan.record;
		await mkdir(plan.folders.instance, { recursive: true });
		const server = createServer((_, response) => response.end(instance));
		await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
		this.#servers.set(instance, server);
		const exited = new Promise<Exit>((resolve) => this.#ends.set(instance, resolve));
		return {
			...{ pid: null, startTime: `id of ${instance}`, host: "127.0.0.1", exited },
			listeningAt: async () => {
				this.mustBeReachable();
				return this.#servers.has(instance) ? "127.0.0.1" : null;
			},
			elsewhere: async () => [],
			follow: (log) => {
				const { revision } = plan.spec;
				return [log.follow({ file: join(plan.folders.instance, "out"), revision, instance, stream: "stdout" })];
			},
			stop: async () => {
				this.done.push("stop");
				this.mustBeReachable();
				await this.end({ exitCode: 143 }, instance);
			},
		};
	}

	/** The last one that was started, unless said. */
	async end(exit: Exit, instance = this.started.at(-1)?.record.instance ?? ""): Promise<void> {
		const server = this.#servers.get(instance);
		this.#servers.delete(instance);
		server?.closeAllConnections();
		if (server !== undefined) await new Promise((resolve) => server.close(resolve));
		this.#ends.get(instance)?.(exit);
	}

	async adopt(): Promise<null> {
		return null;
	}

	async clear(): Promise<void> {
		this.mustBeReachable();
		this.done.push("clear");
	}

	async discard({ record }: InstancePlan): Promise<void> {
		this.mustBeReachable();
		this.done.push(`discard ${record.instance}`);
	}

	async sweep(): Promise<void> {
		this.mustBeReachable();
		this.done.push("sweep");
	}

	async forgotten({ id }: ServiceRef, rest: readonly ServiceRef[]): Promise<void> {
		this.done.push(`forgotten ${id}, left ${rest.map((service) => service.id).join(" ")}`);
	}

	async listening(records: readonly { instance: string }[]): Promise<ReadonlySet<string>> {
		return new Set(records.map(({ instance }) => instance).filter((instance) => this.#servers.has(instance)));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.done.push("disposed");
	}
}

const PORT = { type: "port", path: "/", timeout: 30 } as const;

async function open(t: Test, engine = new FakeEngine()) {
	const reported: unknown[] = [];
	const report = (_: string, error: unknown) => void reported.push(error);
	const { supervisor, folder } = await openSupervisor(t, { engine: async () => engine, report });
	t.teardown(() => engine.set(true));
	const seen = async (phase: string, starts: number) => {
		const observed = await until(
			async () => supervisor.observe(SERVICE.id),
			({ revisions }) => revisions.at(-1)?.phase === phase && engine.started.length === starts,
			`${phase} after ${starts} starts`,
		);
		return observed.revisions.at(-1);
	};
	const apply = () => supervisor.apply(worker(folder, { health: PORT }));
	return { supervisor, engine, folder, seen, apply, reported };
}

t.test("a start while the engine is away is tried again, and is no failure", async (t) => {
	const { engine, supervisor, seen, apply } = await open(t);
	const check = engine.check.bind(engine);
	engine.check = async () => {
		await check();
		engine.reachable = false;
	};
	await apply();
	await until(
		() => engine.done.filter((what) => what === "start").length,
		(tries) => tries > 3,
		"it is tried",
	);
	t.throws(() => supervisor.observe(SERVICE.id), { code: "unavailable" });
	const told: string[] = [];
	supervisor.listen(({ id }) => void told.push(id));
	engine.set(true);
	t.same(told, [SERVICE.id], "observers look again");
	t.match(await seen("ready", 1), { failure: null, instances: [{ pid: null, ready: true }] });
});

t.test("nothing is promised while the engine is away", async (t) => {
	const { engine, supervisor, apply, seen } = await open(t);
	await apply();
	await seen("ready", 1);
	engine.set(false);
	const { id } = SERVICE;
	t.throws(() => supervisor.observe(id), { code: "unavailable" });
	for (const call of [
		apply,
		() => supervisor.abandon(id, 1),
		() => supervisor.stop(id),
		() => supervisor.remove(id),
		() => supervisor.stopAll(),
	])
		await t.rejects(call(), { code: "unavailable" });
	engine.set(true);
	t.match(await seen("ready", 1), { failure: null });
});

t.test("a stop that the engine's going cuts off is done when it is back", async (t) => {
	const { engine, supervisor, apply, seen } = await open(t);
	await apply();
	await seen("ready", 1);
	const stopping = supervisor.stop(SERVICE.id);
	engine.reachable = false;
	await until(
		() => engine.done.filter((what) => what === "stop").length,
		(tries) => tries > 1,
		"it is tried",
	);
	engine.set(true);
	await stopping;
	const name = engine.started[0]?.record.instance;
	t.same(engine.done.slice(-2), ["stop", `discard ${name}`]);
	t.same(supervisor.observe(SERVICE.id).revisions, []);
});

t.test("what the engine itself ended is started again, as often as that happens", async (t) => {
	const { engine, seen, apply } = await open(t);
	await apply();
	for (let start = 1; start < 8; start++) {
		t.match(await seen("ready", start), { failure: null });
		await engine.end({ exitCode: 137, excused: true });
	}
	t.match(await seen("ready", 8), { failure: null });
});

t.test("how the engine says that it ended is what the failure says", async (t) => {
	const { engine, supervisor, seen, apply } = await open(t);
	await apply();
	await seen("ready", 1);
	const failures: string[] = [];
	supervisor.listen(() => {
		const why = supervisor.observe(SERVICE.id).revisions.at(-1)?.failure;
		if (why) failures.push(`${why.code} ${why.exitCode} ${why.message}`);
	});
	await engine.end({ exitCode: 137, words: "was killed: it used more than its 512 MiB of memory" });
	await seen("ready", 2);
	t.ok(failures.includes("exited 137 the program was killed: it used more than its 512 MiB of memory"), `${failures}`);
});

t.test("what is refused is not started again", async (t) => {
	const { engine, seen, apply } = await open(t);
	await apply();
	await seen("ready", 1);
	await engine.end({ exitCode: 93, refused: "the build was altered" });
	t.match(await seen("failed", 1), { failure: { code: "internal", message: "the build was altered", exitCode: 93 } });
});

t.test("what was not meant for a service's owner is for the log", async (t) => {
	const { engine, seen, apply, reported } = await open(t);
	const inner = Object.assign(new Error("EACCES: permission denied, open '/srv/data/secret'"), { code: "EACCES" });
	engine.refusal = inner;
	await apply();
	const failed = await seen("failed", 0);
	t.match(failed, { failure: { code: "internal", message: /a reason of the server's; its log has it/ } });
	t.notMatch(failed?.failure?.message, /EACCES|secret/);
	t.same(reported, [inner]);
});

t.test("why an engine cannot start it is what the failure says, and in the log", async (t) => {
	const { engine, seen, apply, reported } = await open(t);
	const refusal = new AppError("internal", "the program's file was altered on the disk; it was not executed");
	engine.refusal = refusal;
	await apply();
	t.match(await seen("failed", 0), { failure: { code: "internal", message: refusal.message } });
	t.same(reported, [refusal]);
});

t.test(
	"what was read while the record became durable is told to that one start, and to none that follows",
	async (t) => {
		const given: unknown[] = [];
		const engine = new FakeEngine();
		const { seen, apply } = await open(t, engine);
		const start = engine.start.bind(engine);
		engine.start = async (plan: StartPlan) => {
			given.push(await plan.verified);
			if (given.length === 1) throw new AppError("unavailable", "not at once");
			return start(plan);
		};
		const verify = async ({ record }: InstancePlan) => `${record.instance} was read`;
		Object.assign(engine, { verify });
		await apply();
		await seen("ready", 1);
		const [plan] = engine.started;
		t.same(given, [`${plan?.record.instance} was read`, undefined]);
	},
);

t.test("services of two namespaces side by side, each forgotten with those that are left", async (t) => {
	const { engine, supervisor, folder, seen, apply } = await open(t);
	await apply();
	await supervisor.apply(worker(folder, { id: "other", namespace: "another", health: PORT }));
	await seen("ready", 2);
	await supervisor.remove("other");
	t.equal(engine.done.at(-1), `forgotten other, left ${SERVICE.id}`);
});

t.test("an engine that is away at the start keeps nobody waiting, and the sweep is made up for", async (t) => {
	const engine = new FakeEngine();
	engine.reachable = false;
	await open(t, engine);
	t.notOk(engine.done.includes("sweep"));
	engine.set(true);
	await until(
		() => engine.done,
		(done) => done.includes("sweep"),
		"swept",
	);
	t.pass("swept");
});

t.test("what is left of a service while the engine is away is cleared away when it is back", async (t) => {
	const { engine, supervisor, seen, apply, reported } = await open(t);
	await apply();
	await seen("ready", 1);
	const forgotten = engine.forgotten.bind(engine);
	let tries = 0;
	engine.forgotten = async (service, rest) => {
		if (tries++ === 0) engine.reachable = false;
		engine.mustBeReachable();
		return forgotten(service, rest);
	};
	await supervisor.remove(SERVICE.id);
	t.notOk(engine.done.some((what) => what.startsWith("forgotten")));
	engine.set(true);
	await until(
		() => engine.done.at(-1),
		(last) => last === `forgotten ${SERVICE.id}, left `,
		"it is forgotten",
	);
	t.same(reported, []);
});

t.test("what is ended from outside over and over is started again with back-off", async (t) => {
	const { engine, supervisor, seen, apply } = await open(t);
	const starts: number[] = [];
	const start = engine.start.bind(engine);
	engine.start = (plan) => {
		starts.push(performance.now());
		return start(plan);
	};
	supervisor.settings = { ...FAST, graceMs: 200, backoffFirstMs: 200, backoffMostMs: 1_000 };
	await apply();
	const ends: number[] = [];
	for (let count = 1; count <= 3; count++) {
		t.match(await seen("ready", count), { failure: null });
		ends.push(performance.now());
		await engine.end({ exitCode: 137, excused: true });
	}
	t.match(await seen("ready", 4), { failure: null }, "and is never given up");
	const pauses = ends.map((end, index) => (starts[index + 1] ?? 0) - end);
	t.ok((pauses[1] ?? 0) >= 390 && (pauses[2] ?? 0) >= 790, `pauses of ${pauses.map(Math.round)} ms`);
});

t.test(
	"what has run and is refused for ever can be stopped, replaced and removed, and is not started for that",
	async (t) => {
		const { engine, supervisor, folder, seen, apply } = await open(t);
		supervisor.settings = { ...FAST, backoffFirstMs: 60_000, backoffMostMs: 60_000 };
		const refused = async (starts: number) => {
			await seen("ready", starts);
			const tries = () => engine.done.filter((what) => what === "start").length;
			engine.refusal = new AppError("unavailable", "the engine refuses");
			const before = tries();
			await engine.end({ exitCode: 137, excused: true });
			await until(tries, (now) => now > before, "a try to start it again");
			engine.refusal = null;
		};
		await apply();
		await refused(1);
		await supervisor.stop(SERVICE.id);
		t.equal(engine.started.length, 1, "a stop starts nothing");
		await supervisor.apply(worker(folder, { health: PORT, generation: 2 }));
		await refused(2);
		await supervisor.apply(worker(folder, { health: PORT, generation: 3 }));
		await seen("ready", 3);
		await until(
			async () => supervisor.observe(SERVICE.id).revisions.length,
			(count) => count === 1,
			"what it replaced is gone",
		);
		t.equal(engine.started.length, 3, "nor does an update start what it replaces");
		await refused(3);
		await supervisor.remove(SERVICE.id);
		t.equal(engine.started.length, 3);
		t.same(supervisor.list(), []);
	},
);
