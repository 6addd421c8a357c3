import { createHash } from "node:crypto";
import t from "tap";
import { Blobs } from "../../src/blob/blobs.ts";
import type { BlobStore } from "../../src/blob/store.ts";
import { collect, never, text } from "../conformance/blob.ts";
import { MemoryBlobStore } from "../conformance/memory-blob.ts";

async function keys(list: AsyncIterable<string>): Promise<string[]> {
	const found: string[] = [];
	for await (const key of list) found.push(key);
	return found;
}

t.test("a namespace sees its own blobs only, whatever its name begins with", async (t) => {
	const blobs = new Blobs(new MemoryBlobStore());
	for (const namespace of ["a", "ab", "a-b"]) {
		const info = await blobs.in(namespace).put("b/key", text(namespace), never());
		t.equal(info.key, "b/key");
		t.equal((await blobs.in(namespace).stat("b/key", never())).key, "b/key");
	}
	await blobs.in("a").put("other", text("x"), never());
	t.same(await keys(blobs.in("a").list("", never())), ["b/key", "other"]);
	t.same(await keys(blobs.in("a").list("b", never())), ["b/key"]);
	t.same(await keys(blobs.in("ab").list("", never())), ["b/key"]);
	t.equal(String(await collect(await blobs.in("ab").get("b/key", never()))), "ab");
	await blobs.in("a").delete("b/key", never());
	await t.rejects(blobs.in("a").get("b/key", never()), { code: "not_found" });
	t.equal(String(await collect(await blobs.in("ab").get("b/key", { ...never(), range: { start: 1, end: 1 } }))), "b");
});

t.test("bad names are refused, naming the field", async (t) => {
	const blobs = new Blobs(new MemoryBlobStore());
	for (const namespace of ["", "-a", "a-", "A", "a/b", ".", "a".repeat(64), "a\n"]) {
		t.throws(() => blobs.in(namespace), { code: "invalid_argument", field: "namespace" }, JSON.stringify(namespace));
	}
	const space = blobs.in("a");
	for (const key of ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.b", "a b", "ü", "a\n", "k".repeat(511)]) {
		await t.rejects(
			space.put(key, text("x"), never()),
			{ code: "invalid_argument", field: "key" },
			JSON.stringify(key),
		);
		await t.rejects(space.get(key, never()), { code: "invalid_argument" });
		await t.rejects(space.stat(key, never()), { code: "invalid_argument" });
		await t.rejects(space.delete(key, never()), { code: "invalid_argument" });
	}
	for (const prefix of ["/", "../ab", "a//", "a\n", ".a"]) {
		await t.rejects(
			keys(space.list(prefix, never())),
			{ code: "invalid_argument", field: "prefix" },
			JSON.stringify(prefix),
		);
	}
	for (const key of ["a", "a.b", "A-_.z/0", "k".repeat(510)]) await space.put(key, text("x"), never());
	t.equal((await keys(space.list("", never()))).length, 4);
});

t.test("a body past the limit is too_large, and nothing is stored", async (t) => {
	const space = new Blobs(new MemoryBlobStore(), { maxBytes: 10 }).in("a");
	await space.put("fits", text("0123456789"), never());
	await t.rejects(space.put("big", text("0123456789a"), never()), { code: "too_large" });
	await t.rejects(space.put("big", text("012345"), { ...never(), maxBytes: 5 }), { code: "too_large" });
	await t.rejects(space.put("big", text("0123456789a"), { ...never(), maxBytes: 100 }), { code: "too_large" });
	t.same(await keys(space.list("", never())), ["fits"]);
});

t.test("a body with another digest than expected is refused, and nothing is stored", async (t) => {
	const space = new Blobs(new MemoryBlobStore()).in("a");
	const sha256 = createHash("sha256").update("right").digest("hex");
	await t.rejects(space.put("key", text("wrong"), { ...never(), sha256 }), {
		code: "invalid_argument",
		field: "sha256",
	});
	await t.rejects(space.put("key", text("right"), { ...never(), sha256: "abc" }), {
		code: "invalid_argument",
		field: "sha256",
	});
	t.same(await keys(space.list("", never())), []);
	t.equal((await space.put("key", text("right"), { ...never(), sha256: sha256.toUpperCase() })).sha256, sha256);
});

t.test("what a store throws gets a code; what the body throws stays as it is", async (t) => {
	const broken = new Error("socket hang up");
	const failing = new (class extends MemoryBlobStore {
		override async get(): ReturnType<BlobStore["get"]> {
			return (async function* () {
				yield Buffer.from("x");
				throw broken;
			})();
		}
		override async stat(): ReturnType<BlobStore["stat"]> {
			throw broken;
		}
	})();
	const space = new Blobs(failing).in("a");
	await t.rejects(space.stat("key", never()), { code: "internal", cause: broken });
	await t.rejects(collect(await space.get("key", never())), { code: "internal", cause: broken });
	let returned = false;
	const body = async function* (): AsyncGenerator<Uint8Array> {
		try {
			yield Buffer.from("x");
			throw broken;
		} finally {
			returned = true;
		}
	};
	t.equal(await space.put("key", body(), never()).catch((error: unknown) => error), broken);
	t.ok(returned);
});
