import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { AppError } from "../../src/errors.ts";
import { sourceId, sourceKey } from "../../src/manager/model.ts";
import { sweep } from "../../src/manager/sweep.ts";
import { Uploads } from "../../src/manager/uploads.ts";
import { named, TestCore } from "../harness/core.ts";

const never = { signal: new AbortController().signal };
const HOUR = 3_600_000;
/** So old that everything is: what keeps a blob is its record, or its upload, alone. */
const AT_ONCE = -1000;

async function* bytes(text: string): AsyncGenerator<Uint8Array> {
	yield Buffer.from(text);
}

async function put(core: TestCore, key: string, namespace = "default"): Promise<void> {
	await core.blobs.in(namespace).put(key, bytes(key), never);
}

t.test(
	"an upload that was not recorded for certain leaves no bytes; where nobody knows they stay for a sweep",
	async (t) => {
		let ahead = 0;
		const core = await TestCore.open(t, { ahead: () => ahead });
		const uploads = (fail: AppError | Error, after = false) =>
			new Uploads({
				blobs: core.blobs,
				newId: () => "up",
				store: new Proxy(core.store, {
					get: (store, name) => {
						if (name !== "putSource") {
							const member: unknown = Reflect.get(store, name);
							return typeof member === "function" ? member.bind(store) : member;
						}
						return async (record: Parameters<typeof store.putSource>[0]) => {
							if (after) await store.putSource(record);
							throw fail;
						};
					},
				}),
			});
		for (const error of [new AppError("internal", "no"), new TypeError("no")]) {
			await t.rejects(uploads(error).take("default", bytes("x"), { ...never, maxBytes: 10 }), error);
			t.same(await core.blobKeys(), []);
		}
		const unknown = new AppError("unavailable", "perhaps");
		await t.rejects(uploads(unknown).take("default", bytes("x"), { ...never, maxBytes: 10 }), unknown);
		t.same(await core.blobKeys(), ["default/source/up"]);
		await core.collector.collect(never);
		t.same(await core.blobKeys(), ["default/source/up"], "too young to be sure");
		ahead = HOUR + 60_000;
		await core.collector.collect(never);
		t.same(await core.blobKeys(), [], "an hour later it has no record, and goes without a restart");
		ahead = 0;
		await t.rejects(uploads(unknown, true).take("default", bytes("x"), { ...never, maxBytes: 10 }), unknown);
		ahead = HOUR + 60_000;
		await core.collector.collect(never);
		t.same(await core.blobKeys(), ["default/source/up"], "it was recorded after all");
	},
);

t.test(
	"the collector sweeps what has no record and is old, and leaves what is referred to or being made",
	async (t) => {
		let ahead = 0;
		const core = await TestCore.open(t, { ahead: () => ahead });
		const { id } = await core.create("app", "1");
		await core.at("app", 1, "Running");
		const gate = Promise.withResolvers<void>();
		core.builder.gate = () => gate.promise;
		await core.manager.update(named("app"), { source: await core.upload("2") });
		await core.at("app", 2, "Building");
		const kept = await core.blobKeys();
		// As if it had been stored already and were to be recorded.
		const making = `build/${id}/2`;
		const strays = ["source/nobody", "build/nobody/1", `build/${id}/7`];
		for (const key of [making, ...strays]) await put(core, key);
		await put(core, `build/${id}/1`, "other");
		const all = (await core.blobKeys()).sort();
		ahead = HOUR - 60_000;
		await core.collector.collect(never);
		t.same((await core.blobKeys()).sort(), all, "all are young");
		ahead = HOUR + 60_000;
		await core.collector.collect(never);
		t.same((await core.blobKeys()).sort(), [...kept, `default/${making}`].sort());
		gate.resolve();
		await core.at("app", 2, "Running");
	},
);

t.test("uploads against sweeps: what was acknowledged keeps its bytes", { timeout: 120_000 }, async (t) => {
	const core = await TestCore.open(t, { strayAgeMs: AT_ONCE });
	let calls = 0;
	core.life.pace = async () => {
		for (let left = calls++ % 7; left > 0; left--) await turn();
	};
	const end = new AbortController();
	let runs = 0;
	const sweeping = (async () => {
		while (!end.signal.aborted) {
			await core.collector.collect(never);
			runs++;
		}
	})();
	const sources: string[] = [];
	const worker = async () => {
		for (let left = 60; left > 0; left--) sources.push(await core.upload("x"));
	};
	const work = Promise.all(Array.from({ length: 8 }, worker)).finally(() => end.abort());
	await Promise.all([work, sweeping]);
	t.comment(`${runs} runs`);
	const keys = new Set(await core.blobKeys());
	t.equal(sources.length, 480);
	t.same(
		sources.filter((source) => !keys.has(`default/${sourceKey(sourceId(source))}`)),
		[],
	);
});

t.test("an upload that is held between its bytes and its record outlasts every sweep", async (t) => {
	const core = await TestCore.open(t, { strayAgeMs: AT_ONCE });
	const stored = Promise.withResolvers<void>();
	const gate = Promise.withResolvers<void>();
	core.life.pace = async (name) => {
		if (name !== "store.putSource") return;
		stored.resolve();
		await gate.promise;
	};
	const upload = core.upload("slow");
	await stored.promise;
	await put(core, "source/nobody");
	await core.collector.collect(never);
	const keys = await core.blobKeys();
	t.equal(keys.length, 1);
	t.notOk(keys.includes("default/source/nobody"), "the sweep was at work");
	gate.resolve();
	t.same(await core.blobKeys(), [`default/${sourceKey(sourceId(await upload))}`]);
});

t.test("a sweep at the start spares nothing; one that is aborted ends", async (t) => {
	const core = await TestCore.open(t);
	await put(core, "source/nobody");
	await t.rejects(sweep(core.blobs, core.store, { signal: AbortSignal.abort() }));
	t.same(await core.blobKeys(), ["default/source/nobody"]);
	t.equal(await sweep(core.blobs, core.store, never), 1);
	t.same(await core.blobKeys(), []);
});
