import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Observed, Runtime, ServiceRef } from "../../../src/runtimes/runtime.ts";
import { until } from "../../conformance/runtime.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { ask, call, companion, reach, SERVICE } from "../runtime-harness.ts";
import { containers, harness, linesOf, networks, openRuntime, openSite, spec } from "./docker-harness.ts";

const MIB = 1024 * 1024;
const skip = await Dockerd.missing();
if (skip !== false) t.plan(0, skip);
else {
	const site = await openSite(t, { alone: true });
	const other: ServiceRef = { id: "s2", namespace: "other", name: "hello", version: "latest" };

	t.test("what a container may not do", async (t) => {
		const { runtime } = await harness(t, site);
		const args = ["serve", "$HOST:$PORT"];
		await runtime.apply(spec(site, SERVICE, 1, args, { env: { MINE: "1" } }), call);
		const { url } = await reach(runtime, 1, "ready");
		const seen = JSON.parse((await ask(`${url}/env`)) ?? "");
		t.same([seen.uid, seen.CapEff, seen.NoNewPrivs, seen.write], [65_532, "0000000000000000", "1", ["/tmp"]]);
		t.ok(seen.env.includes("MINE=1"));
		t.match(seen.args[1], /^0\.0\.0\.0:\d+$/);
		t.notOk(seen.env.some((entry: string) => entry.startsWith("RUNTIME_LOADER")));
		const [one] = await containers(site);
		const info = await site.dockerd.docker.getContainer(one?.Id ?? "").inspect();
		t.match(info.HostConfig, { PidsLimit: 256, NanoCpus: 1e9, ReadonlyRootfs: true });
		t.equal(info.HostConfig.Memory, 512 * MIB + site.program.length + MIB);
	});

	t.test("namespaces do not reach one another, and a network goes with its last service", async (t) => {
		const { runtime } = await harness(t, site);
		const neighbour: ServiceRef = { ...SERVICE, id: "s3", name: "neighbour" };
		for (const service of [SERVICE, other, neighbour]) await runtime.apply(spec(site, service, 1, ["serve"]), call);
		const urls: (string | null)[] = [];
		for (const service of [SERVICE, other, neighbour]) urls.push((await reach(runtime, 1, "ready", 1, service)).url);
		const address = (id: string) =>
			containers(site).then((all) => {
				const found = all.find(({ Labels }) => Labels["runtime-builds.service"] === id);
				return Object.values(found?.NetworkSettings.Networks ?? {})[0]?.IPAddress;
			});
		const port = JSON.parse((await ask(`${urls[0]}/env`)) ?? "")
			.env.find((entry: string) => entry.startsWith("PORT="))
			.slice(5);
		const at = `${await address(SERVICE.id)}:${port}`;
		t.equal(await ask(`${urls[2]}/reach?at=${at}`), "true", "its neighbour does");
		t.equal(await ask(`${urls[1]}/reach?at=${at}`), "false", "the other namespace does not");
		t.equal((await networks(site)).length, 2);
		await runtime.remove(SERVICE, call);
		t.equal((await networks(site)).length, 2);
		await runtime.remove(neighbour, call);
		t.equal((await networks(site)).length, 1);
		await runtime.remove(other, call);
		t.equal((await networks(site)).length, 0);
	});

	t.test("too much memory is said in words, and too many processes are not started", async (t) => {
		const { runtime } = await harness(t, site);
		const limits = { memory: 48 * MIB, cpu: 1_000, pids: 32 };
		await runtime.apply(spec(site, SERVICE, 1, ["serve"], { limits }), call);
		const { url } = await reach(runtime, 1, "ready");
		const started = Number(await ask(`${url}/fork`));
		t.ok(started > 0 && started < 32, `${started} processes`);
		await runtime.apply(spec(site, SERVICE, 2, ["eat"], { limits, restart: "never" }), call);
		const seen = await reach(runtime, 2, "failed");
		t.match(seen.revisions.find(({ revision }) => revision === 2)?.failure, {
			code: "exited",
			exitCode: 137,
			message: /used more than its 48 MiB of memory/,
		});
	});

	t.test("what the loader refuses is not tried again", async (t) => {
		const { runtime } = await harness(t, site);
		t.teardown(() => {
			site.answer = { status: 200, bytes: site.program };
		});
		const altered = Buffer.from(site.program);
		altered[100] = (altered[100] ?? 0) ^ 1;
		for (const [revision, answer, message] of [
			[1, { status: 404, bytes: altered }, /not (found|there)|404|no such|gone/i],
			[2, { status: 403, bytes: altered }, /credential|403/i],
			[3, { status: 200, bytes: altered }, /altered|sha256/i],
		] as const) {
			site.answer = answer;
			await runtime.apply(spec(site, SERVICE, revision, ["serve"]), call);
			const seen = await reach(runtime, revision, "failed");
			const failure = seen.revisions.find((one) => one.revision === revision)?.failure;
			t.match(failure, { code: "internal", message });
			t.comment(failure?.message);
		}
	});

	t.test("what it listens on instead is said", async (t) => {
		const { runtime } = await harness(t, site);
		const health = { type: "port", path: "/", timeout: 3 } as const;
		await runtime.apply(spec(site, SERVICE, 1, ["elsewhere"], { health }), call);
		const seen = await reach(runtime, 1, "failed");
		t.match(seen.revisions[0]?.failure, { code: "not_listening", message: /listens on 127\.0\.0\.1:8081 instead/ });
	});

	t.test("no image is no service", async (t) => {
		const { runtime } = await harness(t, site, { images: async () => "nobody/nothing:1" });
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const seen = await reach(runtime, 1, "failed");
		t.match(seen.revisions[0]?.failure, { code: "internal", message: /the image nobody\/nothing:1 is not there/ });
	});

	t.test("long lines are cut, and one without an end counts when the program has ended", async (t) => {
		const { runtime } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["long"]), call);
		await reach(runtime, 1, "ready");
		await runtime.stop(SERVICE, call);
		const texts = (await linesOf(runtime)).map(({ text }) => text);
		t.equal(texts.join("|").replaceAll("|", ""), `${"x".repeat(40_000)}${"é".repeat(20_000)}unfinished`);
		t.equal(texts.at(-1), "unfinished");
		t.ok(texts.every((text) => Buffer.byteLength(text) <= 16 * 1024));
	});

	t.test("a companion that is killed leaves the container, and each line is kept once", async (t) => {
		const { runtime, folder } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["count"]), call);
		const { url } = await reach(runtime, 1, "ready");
		const name = await ask(`${url}/host`);
		for (let round = 1; round <= 3; round++) {
			const before = await companion(folder);
			if (before === null) throw new Error("no companion");
			process.kill(before, "SIGKILL");
			await until(
				() => companion(folder),
				(now) => now !== null && now !== before,
				"another companion",
			);
			const answered = await until(
				() => ask(`${url}/host`),
				(body) => body !== null,
				"the address answers",
			);
			t.equal(answered, name, "the same container");
			const seen = (await linesOf(runtime)).length;
			await until(
				async () => (await linesOf(runtime)).length,
				(now) => now > seen + 100,
				"its output goes on",
			);
		}
		await runtime.stop(SERVICE, call);
		const lines = await linesOf(runtime);
		for (const [stream, word] of [
			["stdout", "line"],
			["stderr", "fault"],
		]) {
			const texts = lines.filter((line) => line.stream === stream).map(({ text }) => text);
			t.ok(texts.length > 300);
			t.same(
				texts,
				texts.map((_, i) => `${word} ${i}`),
				`${stream}: none is lost, none is there twice`,
			);
		}
	});

	t.test("what somebody else removed is started again, and a stubborn one is ended", async (t) => {
		const { runtime } = await harness(t, site, { graceMs: 300 });
		await runtime.apply(spec(site, SERVICE, 1, ["stubborn"]), call);
		const { url } = await reach(runtime, 1, "ready");
		const name = await ask(`${url}/host`);
		const [one] = await containers(site);
		await site.dockerd.docker.getContainer(one?.Id ?? "").remove({ force: true });
		const again = await until(
			() => ask(`${url}/host`),
			(body) => body !== null && body !== name,
			"another container answers",
		);
		t.not(again, name);
		await runtime.stop(SERVICE, call);
		t.same(await containers(site), []);
	});

	t.test("leftovers are removed at the start, and a name that is taken is taken back", async (t) => {
		const { runtime, folder } = await harness(t, site);
		const [id] = (await readFile(join(folder, "folder.id"), "utf8")).split(" ");
		const { docker } = site.dockerd;
		const leftover = (name: string) =>
			docker.createContainer({
				name,
				Image: site.image,
				Labels: { "runtime-builds.folder": id ?? "", "runtime-builds.instance": "nobody" },
			});
		await leftover(`runtime-${id}-${SERVICE.id}-r1-g1-0`);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		await reach(runtime, 1, "ready");
		t.equal((await containers(site)).length, 1);
		await leftover(`runtime-${id}-stray`);
		await docker.createNetwork({ Name: `runtime-${id}-stray`, Labels: { "runtime-builds.folder": id ?? "" } });
		const pid = await companion(folder);
		if (pid === null) throw new Error("no companion");
		process.kill(pid, "SIGKILL");
		await until(
			async () => [(await containers(site)).length, (await networks(site)).length],
			([left, nets]) => left === 1 && nets === 1,
			"only what is known is left",
		);
		t.equal((await reach(runtime, 1, "ready")).serving, 1);
	});

	for (const point of ["docker.sweep", "docker.after_create", "companion.after_spawn", "companion.before_spawn"])
		t.test(`a kill at ${point} ends with one container`, async (t) => {
			const log = join(await mkdtemp(join(tmpdir(), "points-")), "points");
			t.teardown(() => rm(join(log, ".."), { recursive: true, force: true }));
			process.env.RUNTIME_FAILPOINTS = `${point}:1=kill`;
			process.env.RUNTIME_FAILPOINT_LOG = log;
			// Only the first companion is asked to crash: it must not end by itself before it has anything to do.
			const { runtime } = await harness(t, site, { idleMs: 60_000 });
			try {
				await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
			} finally {
				delete process.env.RUNTIME_FAILPOINTS;
				delete process.env.RUNTIME_FAILPOINT_LOG;
			}
			const { url } = await reach(runtime, 1, "ready");
			t.match(await readFile(log, "utf8"), new RegExp(`^${point} 1$`, "m"), "the point was reached");
			t.equal((await containers(site)).length, 1);
			t.equal(await ask(url ?? ""), "revision 1");
		});

	t.test("the engine is ended or killed: unavailable meanwhile, then ready again, and no crash", async (t) => {
		const { runtime, folder } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"], { instances: 2 }), call);
		let before = await reach(runtime, 1, "ready");
		const { url } = before;
		for (const signal of ["SIGTERM", "SIGKILL"] as const) {
			await site.dockerd.down(signal);
			const error = await until(
				() =>
					runtime.observe(SERVICE, call).then(
						() => null,
						(reason: unknown) => reason,
					),
				(reason) => reason !== null,
				"it is unavailable",
			);
			t.match(error, { code: "unavailable", message: /the Docker engine does not answer at .*dockerd running/ });
			await t.rejects(runtime.stop(SERVICE, call), { code: "unavailable" });
			await site.dockerd.up();
			const seen: Observed = await until(
				() => runtime.observe(SERVICE, call).catch(() => null),
				(now): now is Observed =>
					now !== null && now.revisions[0]?.phase === "ready" && noneOf(before, now) && instancesOf(now).length === 2,
				"it is ready again, with other containers",
			).then((found) => found ?? { url: null, serving: null, revisions: [] });
			before = seen;
			t.equal(seen.url, url);
			t.equal(seen.revisions[0]?.failure, null);
			t.equal(await ask(url ?? ""), "revision 1");
			t.same(await exitsOf(folder), [], "no exit is counted");
			t.equal((await containers(site)).length, 2);
		}
	});

	for (const signal of ["SIGTERM", "SIGKILL"] as const)
		t.test(`an engine (${signal}) and a companion that end together are no crash of the program`, async (t) => {
			const { runtime, folder } = await harness(t, site);
			await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
			const before = await reach(runtime, 1, "ready");
			const pid = await companion(folder);
			if (pid === null) throw new Error("no companion");
			process.kill(pid, "SIGKILL");
			await site.dockerd.down(signal);
			await site.dockerd.up();
			const seen = await readyWithOthers(runtime, before);
			t.equal(seen.revisions[0]?.failure, null);
			t.same(await exitsOf(folder), [], "no exit is counted");
		});

	t.test("what ends while no companion watches is a crash where the engine was there", async (t) => {
		const { runtime, folder } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const before = await reach(runtime, 1, "ready");
		const [one] = await containers(site);
		const pid = await companion(folder);
		if (pid === null) throw new Error("no companion");
		process.kill(pid, "SIGSTOP");
		await site.dockerd.docker.getContainer(one?.Id ?? "").kill();
		process.kill(pid, "SIGKILL");
		await readyWithOthers(runtime, before);
		t.equal((await exitsOf(folder)).length, 1);
	});

	t.test("a companion that starts while the engine is away goes on when it is back", async (t) => {
		const { runtime, folder } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const { url } = await reach(runtime, 1, "ready");
		await site.dockerd.down();
		const pid = await companion(folder);
		if (pid === null) throw new Error("no companion");
		process.kill(pid, "SIGKILL");
		const second = await openRuntime(site, folder);
		await t.rejects(second.observe(SERVICE, call), { code: "unavailable" });
		await second[Symbol.asyncDispose]();
		await site.dockerd.up();
		const answer = await until(
			() => ask(url ?? ""),
			(body) => body !== null,
			"it answers",
		);
		t.equal(answer, "revision 1");
	});
}

function instancesOf({ revisions }: Observed): string[] {
	return revisions.flatMap(({ instances }) => instances.map(({ instance }) => instance));
}

function noneOf(before: Observed, now: Observed): boolean {
	const old = new Set(instancesOf(before));
	return !instancesOf(now).some((instance) => old.has(instance));
}

function readyWithOthers(runtime: Runtime, before: Observed): Promise<Observed> {
	return until(
		() => runtime.observe(SERVICE, call).catch(() => ({ url: null, serving: null, revisions: [] })),
		(now) => now.revisions[0]?.phase === "ready" && noneOf(before, now),
		"another container is ready",
	);
}

/** Those that count as crashes. */
async function exitsOf(folder: string): Promise<number[]> {
	const state: { live: { exits: number[] } } = JSON.parse(
		await readFile(join(folder, "services", SERVICE.id, "state.json"), "utf8"),
	);
	return state.live.exits;
}
