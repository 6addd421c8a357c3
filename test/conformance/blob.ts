import { createHash } from "node:crypto";
import type { Test } from "tap";
import type { BlobStore, ByteRange } from "../../src/blob/store.ts";

export type BlobFixture = {
	readonly store: BlobStore;
	/** Cuts the only blob that is stored to its first `size` bytes, behind the store's back. */
	readonly cut: (size: number) => Promise<void>;
	readonly close?: () => Promise<void>;
};
export type BlobSuiteOptions = {
	/** The most that resident memory may grow while 64 MiB are stored and read. Default 48 MiB. */
	readonly maxGrowth?: number;
	/** A blob of so many bytes is not all on its way when its first chunk is there. Default 4 MiB. */
	readonly inFlight?: number;
};

const MIB = 1024 * 1024;

export function never(): { signal: AbortSignal } {
	return { signal: new AbortController().signal };
}

/** A body that reuses its one buffer for every chunk, as a producer may. */
export async function* reusedChunks(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
	const buffer = Buffer.alloc(size);
	for (let offset = 0; offset < bytes.length; offset += size) {
		const length = Math.min(size, bytes.length - offset);
		buffer.set(bytes.subarray(offset, offset + length));
		yield buffer.subarray(0, length);
	}
	buffer.fill(0);
}

export async function* text(content: string): AsyncGenerator<Uint8Array> {
	yield Buffer.from(content);
}

/** The same bytes for the same seed, cheaply. */
export function pattern(length: number, seed = 1): Buffer {
	const bytes = Buffer.alloc(length);
	for (let index = 0, state = seed; index < length; index++) {
		state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
		bytes[index] = state >>> 16;
	}
	return bytes;
}

export async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
	const copies: Buffer[] = [];
	for await (const chunk of chunks) copies.push(Buffer.from(chunk));
	return Buffer.concat(copies);
}

async function all(keys: AsyncIterable<string>): Promise<string[]> {
	const list: string[] = [];
	for await (const key of keys) list.push(key);
	return list;
}

/** What every blob store must do, whatever it is made of. `factory` makes a new empty store for each test. */
export function blobSuite(
	t: Test,
	name: string,
	factory: () => Promise<BlobFixture>,
	options: BlobSuiteOptions = {},
): void {
	function check(title: string, body: (t: Test, store: BlobStore, fixture: BlobFixture) => Promise<void>): void {
		t.test(`${name}: ${title}`, async (t) => {
			const fixture = await factory();
			const { store, close } = fixture;
			t.teardown(async () => {
				await store[Symbol.asyncDispose]();
				await close?.();
			});
			await body(t, store, fixture);
		});
	}

	check("what is stored is read back, with its hash and size", async (t, store) => {
		const bytes = pattern(3 * MIB + 17);
		const before = Date.now();
		const info = await store.put("ns/some.key-1_x", reusedChunks(bytes, 100_003), never());
		const sha256 = createHash("sha256").update(bytes).digest("hex");
		t.match(info, { key: "ns/some.key-1_x", size: bytes.length, sha256 });
		t.equal(new Date(info.createdAt).toISOString(), info.createdAt);
		t.ok(Math.abs(Date.parse(info.createdAt) - before) < 60_000, "createdAt is about now");
		t.same(await store.stat("ns/some.key-1_x", never()), info);
		t.ok(bytes.equals(await collect(await store.get("ns/some.key-1_x", never()))));
	});

	check("an empty blob is a blob", async (t, store) => {
		const info = await store.put("empty", reusedChunks(Buffer.alloc(0), 1), never());
		t.equal(info.size, 0);
		t.equal(info.sha256, createHash("sha256").digest("hex"));
		t.equal((await collect(await store.get("empty", never()))).length, 0);
		await t.rejects(store.get("empty", { ...never(), range: { start: 0, end: 0 } }), { code: "range" });
	});

	check("what is not there is not_found before the first byte", async (t, store) => {
		await t.rejects(store.get("nothing", never()), { code: "not_found" });
		await t.rejects(store.stat("nothing", never()), { code: "not_found" });
	});

	check("a blob is unseen until put has resolved", async (t, store) => {
		const opened = Promise.withResolvers<void>();
		const gate = Promise.withResolvers<void>();
		const put = store.put(
			"slow",
			(async function* () {
				yield pattern(2 * MIB);
				opened.resolve();
				await gate.promise;
				yield Buffer.from("end");
			})(),
			never(),
		);
		await opened.promise;
		await t.rejects(store.get("slow", never()), { code: "not_found" });
		await t.rejects(store.stat("slow", never()), { code: "not_found" });
		t.same(await all(store.list("", never())), []);
		gate.resolve();
		await put;
		t.same(await all(store.list("", never())), ["slow"]);
	});

	check("a body that throws leaves nothing, and its error comes back", async (t, store) => {
		const broken = new Error("the upload broke off");
		const body = async function* (): AsyncGenerator<Uint8Array> {
			yield pattern(2 * MIB);
			throw broken;
		};
		t.equal(await store.put("broken", body(), never()).catch((error: unknown) => error), broken);
		await t.rejects(store.stat("broken", never()), { code: "not_found" });
		t.same(await all(store.list("", never())), []);
		await store.put("broken", text("second try"), never());
		t.equal(String(await collect(await store.get("broken", never()))), "second try");
	});

	check("an abort ends a put whose body hangs, and leaves nothing", async (t, store) => {
		const controller = new AbortController();
		const body = async function* (): AsyncGenerator<Uint8Array> {
			yield pattern(2 * MIB);
			setImmediate(() => controller.abort());
			await new Promise(() => undefined);
		};
		await t.rejects(store.put("aborted", body(), { signal: controller.signal }), { code: "cancelled" });
		await t.rejects(store.stat("aborted", never()), { code: "not_found" });
		await t.rejects(store.put("aborted", text("x"), { signal: controller.signal }), { code: "cancelled" });
		await t.rejects(store.get("aborted", { signal: controller.signal }), { code: "cancelled" });
		t.same(await all(store.list("", never())), []);
	});

	check("a key that exists is a conflict, and keeps its bytes", async (t, store) => {
		await store.put("once", text("first"), never());
		await t.rejects(store.put("once", text("second"), never()), { code: "conflict" });
		t.equal(String(await collect(await store.get("once", never()))), "first");
	});

	check("ten writers of one key: one wins, nine have a conflict", async (t, store) => {
		const all = Array.from({ length: 10 }, async (_, writer) => {
			await store.put("race", reusedChunks(Buffer.alloc(200_000, writer), 9_999), never());
			return writer;
		});
		const results = await Promise.allSettled(all);
		const winners = results.filter((result) => result.status === "fulfilled").map((result) => result.value);
		t.equal(winners.length, 1);
		for (const result of results) if (result.status === "rejected") t.match(result.reason, { code: "conflict" });
		const bytes = await collect(await store.get("race", never()));
		t.ok(bytes.equals(Buffer.alloc(200_000, winners[0])), "the bytes are the winner's alone");
	});

	check("ranges are inclusive, cut at the end, and refused outside", async (t, store) => {
		const bytes = pattern(1_300_000);
		await store.put("ranged", reusedChunks(bytes, 65_536), never());
		const ranges: ByteRange[] = [
			{ start: 0, end: 0 },
			{ start: 1, end: 10 },
			{ start: 524_287, end: 524_288 },
			{ start: 100, end: 1_200_000 },
			{ start: 1_299_999, end: 1_299_999 },
			{ start: 1_299_990, end: 9_999_999 },
		];
		for (const range of ranges) {
			const part = await collect(await store.get("ranged", { ...never(), range }));
			t.ok(part.equals(bytes.subarray(range.start, range.end + 1)), `${range.start}-${range.end}`);
		}
		for (const range of [
			{ start: 1_300_000, end: 1_300_001 },
			{ start: 5, end: 4 },
			{ start: -1, end: 4 },
			{ start: 0.5, end: 4 },
		]) {
			await t.rejects(store.get("ranged", { ...never(), range }), { code: "range" }, `${range.start}-${range.end}`);
		}
	});

	check("64 MiB are stored and read without being held in memory", async (t, store) => {
		const block = pattern(MIB);
		let peak = 0;
		// Once before measuring, so that code and buffers that stay are there already.
		await store.put("warm", reusedChunks(block, 65_536), never());
		await collect(await store.get("warm", never()));
		const before = process.memoryUsage.rss();
		const body = async function* (): AsyncGenerator<Uint8Array> {
			for (let index = 0; index < 64; index++) {
				block.writeUInt32LE(index);
				for (let offset = 0; offset < MIB; offset += 65_536) yield block.subarray(offset, offset + 65_536);
				peak = Math.max(peak, process.memoryUsage.rss());
			}
		};
		const info = await store.put("large", body(), never());
		t.equal(info.size, 64 * MIB);
		const hash = createHash("sha256");
		for await (const chunk of await store.get("large", never())) {
			hash.update(chunk);
			peak = Math.max(peak, process.memoryUsage.rss());
		}
		t.equal(hash.digest("hex"), info.sha256);
		t.comment(`resident memory grew by ${((peak - before) / MIB).toFixed(1)} MiB`);
		t.ok(peak - before < (options.maxGrowth ?? 48 * MIB), `grew by ${peak - before} bytes`);
	});

	check("keys are listed in byte order, by prefix, and never collide", async (t, store) => {
		const keys = ["a", "a-b", "a.b", "a/b", "a/b/c", "a_b", "ab", "A", "Z/z", "0", "a/B", `long/${"k".repeat(500)}`];
		for (const key of keys) await store.put(key, text(key), never());
		t.same(await all(store.list("", never())), [...keys].sort());
		t.same(await all(store.list("a/", never())), ["a/B", "a/b", "a/b/c"]);
		t.same(await all(store.list("a/b", never())), ["a/b", "a/b/c"]);
		t.same(await all(store.list("nothing", never())), []);
		for (const key of keys) t.equal(String(await collect(await store.get(key, never()))), key);
	});

	check("a thousand keys are listed completely, and a listing can be stopped and cancelled", async (t, store) => {
		const keys = Array.from({ length: 1_000 }, (_, index) => `many/${String(index).padStart(4, "0")}`);
		for (let index = 0; index < keys.length; index += 50) {
			await Promise.all(keys.slice(index, index + 50).map((key) => store.put(key, text(key), never())));
		}
		t.same(await all(store.list("many/", never())), keys);
		let seen = 0;
		for await (const _key of store.list("many/", never())) if (++seen === 3) break;
		t.equal(seen, 3);
		const controller = new AbortController();
		const cancelledListing = async () => {
			for await (const _key of store.list("many/", controller)) controller.abort();
		};
		await t.rejects(cancelledListing(), { code: "cancelled" });
	});

	check("delete is idempotent, and frees the key", async (t, store) => {
		await store.delete("gone", never());
		await store.put("gone", text("first"), never());
		await store.put("gone/deeper", text("other"), never());
		await Promise.all([store.delete("gone", never()), store.delete("gone", never())]);
		await store.delete("gone", never());
		await t.rejects(store.get("gone", never()), { code: "not_found" });
		t.same(await all(store.list("", never())), ["gone/deeper"]);
		await store.put("gone", text("second"), never());
		t.equal(String(await collect(await store.get("gone", never()))), "second");
	});

	check("a blob deleted while it is read comes whole, or the reader gets an error", async (t, store) => {
		const bytes = pattern(5 * MIB);
		await store.put("read", reusedChunks(bytes, MIB), never());
		const parts: Buffer[] = [];
		let failed = false;
		try {
			for await (const chunk of await store.get("read", never())) {
				if (parts.length === 0) await store.delete("read", never());
				parts.push(Buffer.from(chunk));
			}
		} catch {
			failed = true;
		}
		t.ok(failed || Buffer.concat(parts).equals(bytes));
	});

	check(
		"a blob that has lost bytes is damaged, before the first byte; its key can be used again",
		async (t, store, { cut }) => {
			for (const [key, size] of [
				["cut", MIB - 1],
				["emptied", 0],
			] as const) {
				const bytes = pattern(MIB);
				await store.put(key, reusedChunks(bytes, 65_536), never());
				await cut(size);
				await t.rejects(store.get(key, never()), { code: "damaged" });
				const part = { start: 0, end: 9 };
				await t.rejects(store.get(key, { ...never(), range: part }), { code: "damaged" }, "a part that is there, too");
				await t.rejects(store.put(key, text("x"), never()), { code: "conflict" });
				await store.delete(key, never());
				await store.put(key, reusedChunks(bytes, 65_536), never());
				t.ok(bytes.equals(await collect(await store.get(key, never()))));
				await store.delete(key, never());
			}
		},
	);

	check("a blob that loses bytes while it is read is damaged, and never looks complete", async (t, store, { cut }) => {
		const size = options.inFlight ?? 4 * MIB;
		await store.put("shrinks", reusedChunks(pattern(size), MIB), never());
		const read = async () => {
			let count = 0;
			for await (const _chunk of await store.get("shrinks", never())) if (count++ === 0) await cut(size / 2 + 1);
		};
		await t.rejects(read(), { code: "damaged" });
	});

	check("a reader can stop early or be cancelled", async (t, store) => {
		await store.put("partly", reusedChunks(pattern(4 * MIB), MIB), never());
		let first = 0;
		for await (const chunk of await store.get("partly", never())) {
			first = chunk.length;
			break;
		}
		t.ok(first > 0);
		const controller = new AbortController();
		const chunks = await store.get("partly", { signal: controller.signal });
		const read = async () => {
			for await (const _chunk of chunks) controller.abort();
		};
		await t.rejects(read(), { code: "cancelled" });
	});

	check("a closed store rejects everything, and ends an upload", async (t, store) => {
		await store.put("kept", text("x"), never());
		const started = Promise.withResolvers<void>();
		const hanging = async function* (): AsyncGenerator<Uint8Array> {
			started.resolve();
			await new Promise(() => undefined);
		};
		const ended = t.rejects(store.put("hanging", hanging(), never()), { code: "unavailable" });
		await started.promise;
		await store[Symbol.asyncDispose]();
		await ended;
		await t.rejects(store.put("late", text("x"), never()), { code: "unavailable" });
		await t.rejects(store.get("kept", never()), { code: "unavailable" });
		await t.rejects(store.stat("kept", never()), { code: "unavailable" });
		await t.rejects(all(store.list("", never())), { code: "unavailable" });
		await t.rejects(store.delete("kept", never()), { code: "unavailable" });
		await store[Symbol.asyncDispose]();
	});
}
