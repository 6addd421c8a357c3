import { readdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay, setImmediate as turn } from "node:timers/promises";
import t, { type Test } from "tap";
import { isAppError } from "../../src/errors.ts";
import { revisionOf, sourceId, sourceKey } from "../../src/manager/model.ts";
import { named, TestCore } from "../harness/core.ts";

const never = { signal: new AbortController().signal };
const HOUR = 3_600_000;
const CREATES = Number(process.env.COLLECT_CREATES ?? 2000);
const ROLLBACKS = Number(process.env.COLLECT_ROLLBACKS ?? 300);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
/** So old that everything is: what keeps a source is its references alone. */
const AT_ONCE = -1000;

/** Mulberry32. */
function randomOf(seed: number): () => number {
	let state = seed;
	return () => {
		state = (state + 0x6d2b79f5) | 0;
		let value = Math.imul(state ^ (state >>> 15), 1 | state);
		value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
		return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
	};
}

async function stored(core: TestCore, source: string): Promise<boolean> {
	const key = `default/${sourceKey(sourceId(source))}`;
	return (await core.blobKeys()).includes(key);
}

async function updated(core: TestCore, name: string, revision: number, change: object): Promise<void> {
	await core.manager.update(named(name), change);
	await core.at(name, revision, "Running");
	await core.reach(name, ({ revisions }) => revisions.length === 1, "what it replaced has ended");
}

async function logged(core: TestCore, id: string): Promise<string[]> {
	return (await readdir(path.join(core.folder, "build-logs", id))).sort();
}

t.test("sources: unreferenced and old ones go, with bytes and record; referenced and young ones stay", async (t) => {
	let ahead = 0;
	const core = await TestCore.open(t, { sourceAgeMs: 24 * HOUR, ahead: () => ahead });
	const lonely = await core.upload("lonely");
	const other = await core.upload("other", "other");
	const { source: mine = "" } = (await core.create("app")).revisions[0] ?? {};
	await core.at("app", 1, "Running");
	ahead = 23 * HOUR;
	t.same(await core.collector.collect(never), { sources: 0, builds: 0 }, "CI may upload now and create later");
	ahead = 25 * HOUR;
	t.same(await core.collector.collect(never), { sources: 2, builds: 0 });
	for (const [source, namespace] of [
		[lonely, "default"],
		[other, "other"],
	] as const) {
		t.equal(await core.store.getSource(namespace, sourceId(source)), undefined);
		t.notOk((await core.blobKeys()).includes(`${namespace}/${sourceKey(sourceId(source))}`));
	}
	await t.rejects(core.manager.create("default", { name: "late", source: lonely }), {
		code: "not_found",
		field: "source",
		hint: /[Uu]pload/,
	});
	t.ok(await stored(core, mine));
	ahead = 10_000 * HOUR;
	t.same(await core.collector.collect(never), { sources: 0, builds: 0 }, "never, while a service has it");
	await core.manager.stop(named("app"));
	await core.at("app", 1, "Stopped");
	t.same(await core.collector.collect(never), { sources: 0, builds: 0 }, "a stopped one as well");
	await core.manager.remove(named("app"));
	await core.gone("app");
	t.same(await core.collector.collect(never), { sources: 1, builds: 0 });
	t.same(await core.blobKeys(), []);
	const left: unknown[] = [];
	for await (const source of core.store.sources()) left.push(source);
	t.same(left, []);
});

t.test("the sources of the live, the newest and the one on its way are kept, those of others not", async (t) => {
	const core = await TestCore.open(t, { sourceAgeMs: AT_ONCE });
	const keys = [await core.upload("1"), "", "", ""];
	await core.manager.create("default", { name: "app", source: keys[0] ?? "" });
	await core.at("app", 1, "Running");
	const update = async (index: number, text: string) => {
		keys[index] = await core.upload(text);
		await core.manager.update(named("app"), { source: keys[index] ?? "" });
	};
	await update(1, "2");
	await core.at("app", 2, "Running");
	await core.at("app", 1, "Stopped");
	await update(2, "!bad");
	await core.at("app", 3, "Error");
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	await core.collector.collect(never);
	t.same(await Promise.all(keys.slice(0, 3).map((key) => stored(core, key))), [false, true, true]);
	await update(3, "4");
	await core.at("app", 4, "Building");
	await core.collector.collect(never);
	t.same(await Promise.all(keys.map((key) => stored(core, key))), [false, true, false, true]);
	gate.resolve();
	await core.at("app", 4, "Running");
});

t.test("builds beyond the last five go, with their logs; what they made is 410 and says so", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	const { id } = await core.at("app", 1, "Running");
	for (let number = 2; number <= 8; number++)
		await updated(core, "app", number, { source: await core.upload(`${number}`) });
	t.same(await core.collector.collect(never), { sources: 0, builds: 3 });
	const builds = async () => (await core.blobKeys()).filter((key) => key.includes("/build/")).sort();
	t.same(
		await builds(),
		[4, 5, 6, 7, 8].map((number) => `default/build/${id}/${number}`),
	);
	t.same(
		await logged(core, id),
		[4, 5, 6, 7, 8].map((number) => `${number}.ndjson`),
	);
	t.same(await core.collector.collect(never), { sources: 0, builds: 0 }, "once");
	await t.rejects(core.queries.build(named("app"), 3), { code: "gone" });
	await core.manager.rollback(named("app"), 4);
	await core.at("app", 9, "Running");
	t.equal(core.runtime.servedAt((await core.queries.get(named("app"))).url ?? "")?.revision, 9);
	for (let number = 10; number <= 14; number++)
		await updated(core, "app", number, { source: await core.upload(`${number}`) });
	await core.collector.collect(never);
	t.same(
		await builds(),
		[10, 11, 12, 13, 14].map((number) => `default/build/${id}/${number}`),
	);
	await core.crash();
	t.equal((await builds()).length, 5, "the sweep agrees");
});

t.test(
	"kept besides the last five: the live build, one that many revisions share, and what is on its way",
	async (t) => {
		const core = await TestCore.open(t, { keepBuilds: 2 });
		const gate = Promise.withResolvers<void>();
		await core.create("app", "1");
		const { id } = await core.at("app", 1, "Running");
		await updated(core, "app", 2, { source: await core.upload("2") });
		for (let number = 3; number <= 8; number++) await updated(core, "app", number, { env: { N: `${number}` } });
		const builds = async () =>
			(await core.blobKeys()).filter((key) => key.includes("/build/")).map((key) => Number(key.split("/").at(-1)));
		await core.collector.collect(never);
		t.same((await builds()).sort(), [1, 2], "seven revisions that share a build are one build");
		await core.manager.rollback(named("app"), 1);
		await core.at("app", 9, "Running");
		core.runtime.outcome = () => ({ kind: "hang" });
		for (let number = 10; number <= 13; number++) {
			await core.manager.update(named("app"), { source: await core.upload(`${number}`) });
			await core.at("app", number, "Starting");
		}
		await core.collector.collect(never);
		t.same(
			(await builds()).sort((a, b) => a - b),
			[1, 12, 13],
			"the live one's, and the last two",
		);
		core.builder.gate = () => gate.promise;
		await core.manager.update(named("app"), { source: await core.upload("14") });
		await core.at("app", 14, "Building");
		await core.collector.collect(never);
		gate.resolve();
		core.runtime.outcome = () => ({ kind: "ready" });
		await core.at("app", 14, "Running");
		t.equal((await core.queries.get(named("app"))).id, id);
	},
);

t.test("a build that is shared past the oldest revision that is kept survives the sweep", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "1");
	const { id } = await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { env: { A: "1" } });
	await core.at("app", 2, "Running");
	await core.at("app", 1, "Stopped");
	// As after a thousand updates of the environment.
	await core.database.commit([{ delete: `revision!${id}!000000000001` }]);
	t.equal(await core.store.revision(id, 1), undefined);
	await core.crash();
	t.ok((await core.blobKeys()).includes(`default/build/${id}/1`));
	await core.manager.restart(named("app"));
	await core.reach(
		"app",
		(service) => revisionOf(service, 2)?.generation === 2 && revisionOf(service, 2)?.status === "Running",
		"runs anew",
	);
});

t.test("a crash between mark and delete is made good, of sources, builds and logs", async (t) => {
	for (const point of ["blobs.delete", "store.forgetSource"]) {
		const core = await TestCore.open(t, { sourceAgeMs: AT_ONCE, keepBuilds: 1 });
		await core.create("app", "1");
		const { id } = await core.at("app", 1, "Running");
		const lonely = await core.upload("lonely");
		await updated(core, "app", 2, { source: await core.upload("2") });
		await core.at("app", 1, "Stopped");
		const collected = core.life;
		collected.fault = (name) => (name === point ? "die_before" : "none");
		void core.collector.collect(never).catch(() => undefined);
		await collected.died;
		if (point === "blobs.delete") {
			t.equal((await core.store.revision(id, 1))?.build?.collected, true, "marked");
			t.ok((await logged(core, id)).includes("1.ndjson"), "and not deleted");
		} else {
			const marked: boolean[] = [];
			for await (const { collected: mark } of core.store.sources()) marked.push(mark);
			t.ok(marked.includes(true), "marked, and its bytes are gone, but not forgotten");
		}
		await core.crash();
		t.notOk((await core.blobKeys()).includes(`default/build/${id}/1`), "the sweep has the bytes");
		await core.collector.collect(never);
		t.same(await logged(core, id), ["2.ndjson"], "the next run has the log");
		t.notOk(await stored(core, lonely));
		const left: string[] = [];
		for await (const source of core.store.sources()) left.push(source.id);
		t.equal(left.length, 1, "one source, of the service");
		await t.rejects(core.manager.create("default", { name: "late", source: lonely }), { code: "not_found" });
		await t.rejects(core.manager.rollback(named("app"), 1), { code: "gone" });
	}
});

t.test("a store that fails in the middle of a run is gone over again by the next", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1 });
	await core.create("app", "1");
	const { id } = await core.at("app", 1, "Running");
	await updated(core, "app", 2, { source: await core.upload("2") });
	await core.collector.collect(never);
	await updated(core, "app", 3, { source: await core.upload("3") });
	core.life.fault = (name) => (name === "blobs.delete" ? "fail_before" : "none");
	await t.rejects(core.collector.collect(never), { code: "unavailable" });
	core.life.fault = () => "none";
	t.ok((await core.blobKeys()).includes(`default/build/${id}/2`));
	await core.collector.collect(never);
	t.notOk((await core.blobKeys()).includes(`default/build/${id}/2`));
	t.same(await logged(core, id), ["3.ndjson"]);
});

/**
 * Random turns around every call of a port. Answers how to wait for the collector's next call of `name` and a little more, at
 * `most` so many milliseconds: so that it meets who waits.
 */
function shuffle(core: TestCore, random: () => number, name: string, most: number): () => Promise<void> {
	let met = Promise.withResolvers<void>();
	const turns = async (limit: number) => {
		for (let left = Math.floor(random() * limit); left > 0; left--) await turn();
	};
	core.life.pace = () => turns(4);
	core.life.fault = (call) => {
		if (call === name) {
			met.resolve();
			met = Promise.withResolvers();
		}
		return "none";
	};
	return async () => {
		await met.promise;
		await delay(random() * most);
	};
}

/** Collects without a pause until `work` is done. */
async function whileCollecting(core: TestCore, work: Promise<unknown>): Promise<number> {
	let runs = 0;
	const end = new AbortController();
	const loop = (async () => {
		while (!end.signal.aborted) {
			await core.collector.collect(never);
			runs++;
		}
	})();
	try {
		await Promise.race([work, loop]);
	} finally {
		end.abort();
	}
	await loop;
	return runs;
}

t.test("create against collection", { timeout: 600_000 }, async (t: Test) => {
	t.comment(`SEED=${SEED}`);
	const core = await TestCore.open(t, { sourceAgeMs: AT_ONCE });
	const random = randomOf(SEED);
	const meet = shuffle(core, random, "store.sources", 40);
	const count = { acknowledged: 0, refused: 0 };
	let begun = 0;
	const one = async (name: string) => {
		const source = await core.upload("x");
		await meet();
		try {
			await core.manager.create("default", { name, source });
		} catch (error) {
			if (!isAppError(error, "not_found") || error.field !== "source") throw error;
			count.refused++;
			if ((await core.store.get(named(name))) !== undefined) throw new Error(`${name}: refused, and there`);
			return;
		}
		count.acknowledged++;
		let status: string | undefined;
		while (status !== "Running") {
			const service = await core.store.get(named(name));
			status = service?.revisions[0]?.status;
			const id = sourceId(source);
			const there = (await core.store.getSource("default", id)) !== undefined;
			await core.blobs.in("default").stat(sourceKey(id), never);
			if (!there || status === undefined || status === "Error")
				throw new Error(`SEED=${SEED} ${name}: ${JSON.stringify(service)}`);
			await delay(30);
		}
		await core.manager.remove(named(name));
		while ((await core.store.get(named(name))) !== undefined) await delay(30);
	};
	const worker = async () => {
		while (begun < CREATES) await one(`s${begun++}`);
	};
	const runs = await whileCollecting(core, Promise.all(Array.from({ length: 32 }, worker)));
	core.life.pace = () => undefined;
	t.comment(`${JSON.stringify(count)} in ${runs} collections`);
	t.equal(count.acknowledged + count.refused, CREATES);
	t.ok(count.acknowledged > CREATES / 200 && count.refused > CREATES / 200, "both ends were seen often");
	await core.collector.collect(never);
	t.same(await core.blobKeys(), [], "and nothing is left");
	t.same(await readdir(path.join(core.folder, "build-logs")), []);
});

t.test("rollback against collection", { timeout: 600_000 }, async (t: Test) => {
	t.comment(`SEED=${SEED}`);
	const core = await TestCore.open(t, { sourceAgeMs: AT_ONCE, keepBuilds: 1 });
	const random = randomOf(SEED + 1);
	const count = { acknowledged: 0, refused: 0 };
	let begun = 0;
	const names = Array.from({ length: 12 }, (_, index) => `app${index}`);
	for (const name of names) {
		await core.create(name, "first");
		await core.at(name, 1, "Running");
	}
	const meet = shuffle(core, random, "store.all", 60);
	const worker = async (name: string) => {
		for (let newest = 1; begun < ROLLBACKS; ) {
			begun++;
			const old = newest;
			for (;;) {
				try {
					await core.manager.update(named(name), { source: await core.upload(`${newest + 1}`) });
					break;
				} catch (error) {
					// The source may be gone before it is used; nothing keeps it here.
					if (!isAppError(error, "not_found")) throw error;
				}
			}
			await core.at(name, ++newest, "Running");
			await meet();
			try {
				await core.manager.rollback(named(name), old);
			} catch (error) {
				if (!isAppError(error, "gone")) throw error;
				count.refused++;
				continue;
			}
			count.acknowledged++;
			// An Error would be there instead, and this wait would say so.
			const service = await core.at(name, ++newest, "Running");
			const build = revisionOf(service, newest)?.build;
			if (build === null || build === undefined || build.collected === true)
				throw new Error(`SEED=${SEED}: ${name} runs what is collected`);
			await core.blobs.in("default").stat(`build/${service.id}/${build.revision}`, never);
		}
	};
	const runs = await whileCollecting(core, Promise.all(names.map(worker)));
	t.comment(`${JSON.stringify(count)} in ${runs} collections`);
	t.ok(count.acknowledged > ROLLBACKS / 200 && count.refused > ROLLBACKS / 200, "both ends were seen often");
	core.life.pace = () => undefined;
	for (const name of names) {
		await core.manager.remove(named(name));
		await core.gone(name);
	}
	await core.collector.collect(never);
	t.same(await core.blobKeys(), []);
});

t.test("idempotency keys go after their day", async (t) => {
	let ahead = 0;
	const core = await TestCore.open(t, { ahead: () => ahead });
	const source = await core.upload("x");
	await core.manager.create("default", { name: "app", source }, { once: { key: "k", hash: "h" } });
	await core.collector.collect(never);
	t.ok(await core.store.recall("default", "k"));
	ahead = 25 * HOUR;
	await core.collector.collect(never);
	t.equal(await core.store.recall("default", "k"), undefined);
});
