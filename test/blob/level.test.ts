import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as textOf } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import { LevelBlobStore, type LevelBlobStoreOptions } from "../../src/blob/level.ts";
import { blobSuite, collect, never, pattern, reusedChunks, text } from "../conformance/blob.ts";

async function folderFor(t: Test): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), "blob-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	return folder;
}

async function openStore(t: Test, folder: string, options?: LevelBlobStoreOptions): Promise<LevelBlobStore> {
	const store = await LevelBlobStore.open(folder, options);
	t.teardown(() => store[Symbol.asyncDispose]());
	return store;
}

async function objectFiles(folder: string): Promise<string[]> {
	const entries = await readdir(join(folder, "objects"), { recursive: true, withFileTypes: true });
	return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

async function runChild(mode: "open" | "write", folder: string, env: NodeJS.ProcessEnv = {}) {
	const script = fileURLToPath(new URL("level-child.ts", import.meta.url));
	const child = spawn(process.execPath, [script, mode, folder], {
		stdio: ["ignore", "pipe", "inherit"],
		env: { ...process.env, ...env },
	});
	const [output, [code, signal]] = await Promise.all([textOf(child.stdout), once(child, "close")]);
	return { output, code, signal };
}

blobSuite(t, "level", async () => {
	const folder = await mkdtemp(join(tmpdir(), "blob-"));
	const store = await LevelBlobStore.open(folder);
	const cut = async (size: number) => {
		const [file, ...others] = await objectFiles(folder);
		if (file === undefined || others.length > 0) throw new Error("it is not the only one");
		await truncate(file, size);
	};
	return { store, cut, close: () => rm(folder, { recursive: true }) };
});

const FAILPOINTS = {
	"blob.temp_open": "absent",
	"blob.half_written": "absent",
	"blob.before_fsync": "absent",
	"blob.after_fsync": "absent",
	"blob.after_rename": "absent",
	"blob.after_dir_fsync": "absent",
	"blob.after_index": "present",
} as const;

for (const [point, expected] of Object.entries(FAILPOINTS)) {
	t.test(`killed at ${point}: what was acknowledged is there, the rest left nothing`, async (t) => {
		const folder = await folderFor(t);
		const log = join(folder, "hits");
		const { output, signal } = await runChild("write", join(folder, "data"), {
			RUNTIME_FAILPOINTS: `${point}:2=kill`,
			RUNTIME_FAILPOINT_LOG: log,
		});
		t.equal(signal, "SIGKILL");
		t.match(await readFile(log, "utf8"), `${point} 2\n`, "the point was reached");
		t.equal(output, "opened\nstored kept\n");

		const store = await openStore(t, join(folder, "data"));
		await store.swept;
		t.same(await readdir(join(folder, "data", "temporary")), []);
		t.equal(
			(await objectFiles(join(folder, "data"))).length,
			expected === "present" ? 2 : 1,
			"no file without an entry",
		);
		t.equal(String(await collect(await store.get("kept", never()))), "acknowledged");
		if (expected === "absent") {
			await t.rejects(store.stat("victim", never()), { code: "not_found" });
			await store.put("victim", reusedChunks(pattern(3_500_000), 65_536), never());
		}
		t.ok(pattern(3_500_000).equals(await collect(await store.get("victim", never()))));
	});

	t.test(`an error at ${point}: the answer is true and no file is left over`, async (t) => {
		const folder = await folderFor(t);
		const { output, code } = await runChild("write", folder, { RUNTIME_FAILPOINTS: `${point}:2=error` });
		t.equal(code, 0);
		t.match(output, expected === "present" ? "stored victim\n" : /failed .*failpoint/);
		t.same(await readdir(join(folder, "temporary")), []);
		t.equal((await objectFiles(folder)).length, expected === "present" ? 2 : 1);
	});
}

t.test("temporary files and files without an entry are removed at opening, others stay", async (t) => {
	const folder = await folderFor(t);
	const first = await LevelBlobStore.open(folder);
	await first.put("kept", text("kept"), never());
	await first[Symbol.asyncDispose]();
	await writeFile(join(folder, "temporary", "left-over"), "x");
	await mkdir(join(folder, "objects", "zz"), { recursive: true });
	await writeFile(join(folder, "objects", "zz", "zz-orphan"), "x");
	const store = await openStore(t, folder);
	t.equal(await store.swept, 1);
	t.same(await readdir(join(folder, "temporary")), []);
	t.equal((await objectFiles(folder)).length, 1);
	t.equal(String(await collect(await store.get("kept", never()))), "kept");
});

t.test("delete removes the file, and a reader of it reads to the end", async (t) => {
	const folder = await folderFor(t);
	const store = await openStore(t, folder);
	const bytes = pattern(3_000_000);
	await store.put("read", reusedChunks(bytes, 65_536), never());
	const chunks = await store.get("read", never());
	await store.delete("read", never());
	t.same(await objectFiles(folder), []);
	t.ok(bytes.equals(await collect(chunks)));
});

t.test("a damaged file is never served silently: by its size at once, by its hash after a scrub", async (t) => {
	const folder = await folderFor(t);
	const names = ["aa-short", "bb-long", "cc-flipped", "dd-missing", "ee-good"];
	const store = await openStore(t, folder, { unique: () => names.shift() ?? "ff", scrubRate: 1e9 });
	for (const key of ["short", "long", "flipped", "missing", "good"]) {
		await store.put(key, reusedChunks(pattern(700_000), 65_536), never());
	}
	const path = (object: string) => join(folder, "objects", object.slice(0, 2), object);
	await truncate(path("aa-short"), 600_000);
	await writeFile(path("bb-long"), pattern(700_001));
	const flipped = pattern(700_000);
	flipped[350_000] = (flipped[350_000] ?? 0) ^ 1;
	await writeFile(path("cc-flipped"), flipped);
	await unlink(path("dd-missing"));
	for (const key of ["short", "long", "missing"]) await t.rejects(store.get(key, never()), { code: "damaged" });

	const found: Record<string, boolean> = {};
	for await (const { key, ok } of store.scrub(never())) found[key] = ok;
	t.same(found, { short: false, long: false, flipped: false, missing: false, good: true });
	await t.rejects(store.get("flipped", never()), { code: "damaged" });
	t.ok(pattern(700_000).equals(await collect(await store.get("good", never()))));
	await t.rejects(store.put("flipped", text("x"), never()), { code: "conflict" });
	await store.delete("flipped", never());
	await store.put("flipped", text("again"), never());
	t.equal(String(await collect(await store.get("flipped", never()))), "again");
});

t.test("a disk that is full but for the reserve refuses a put, and leaves nothing", async (t) => {
	const folder = await folderFor(t);
	const store = await openStore(t, folder, { reserve: Number.MAX_SAFE_INTEGER });
	await t.rejects(store.put("big", text("x"), never()), { code: "no_space" });
	t.same(await readdir(join(folder, "temporary")), []);
	t.same(await objectFiles(folder), []);
});

t.test("the scrub can be cancelled in the middle of a blob", async (t) => {
	const store = await openStore(t, await folderFor(t), { scrubRate: 1_000 });
	await store.put("slow", reusedChunks(pattern(700_000), 65_536), never());
	const controller = new AbortController();
	setImmediate(() => controller.abort());
	const scrub = async () => {
		for await (const _result of store.scrub(controller)) t.fail("the blob takes minutes at this rate");
	};
	await t.rejects(scrub(), { code: "cancelled" });
	t.equal((await store.stat("slow", never())).size, 700_000);
	await collect(await store.get("slow", never()));
});

t.test("when the index commit fails, put's answer agrees with the index", async (t) => {
	for (const applied of [true, false]) {
		const folder = await folderFor(t);
		let fail = false;
		const write = async (write: () => Promise<void>) => {
			if (applied || !fail) await write();
			if (!fail) return;
			fail = false;
			throw Object.assign(new Error("injected"), { code: "ENOSPC" });
		};
		const store = await openStore(t, folder, { database: { write } });
		await store.put("before", text("before"), never());
		fail = true;
		const put = store.put("doubtful", text("doubtful"), never());
		if (applied) {
			await put;
			t.equal(String(await collect(await store.get("doubtful", never()))), "doubtful");
		} else {
			await t.rejects(put, { code: "no_space" });
			await t.rejects(store.get("doubtful", never()), { code: "not_found" });
		}
		t.equal((await objectFiles(folder)).length, applied ? 2 : 1);
		t.equal(String(await collect(await store.get("before", never()))), "before");
	}
});

t.test("a second open is refused in this process, and after that still in another", async (t) => {
	const folder = await folderFor(t);
	const store = await openStore(t, folder);
	await t.rejects(LevelBlobStore.open(folder), { code: "conflict", message: folder });
	t.match((await runChild("open", folder)).output, /^failed conflict .*another server/);
	await store[Symbol.asyncDispose]();
	t.equal((await runChild("open", folder)).output, "opened\n");
});

t.test("no descriptor is left open by readers that never started, stopped early or were cancelled", async (t) => {
	const store = await openStore(t, await folderFor(t));
	await store.put("read", reusedChunks(pattern(3_000_000), 65_536), never());
	await store.swept;
	const descriptors = async () => (await readdir("/dev/fd")).length;
	const before = await descriptors();
	for (let round = 0; round < 20; round++) {
		const controller = new AbortController();
		await store.get("read", controller);
		controller.abort();
		for await (const _chunk of await store.get("read", never())) break;
		const unstarted = (await store.get("read", never()))[Symbol.asyncIterator]();
		await unstarted.return?.();
	}
	const deadline = Date.now() + 10_000;
	while ((await descriptors()) > before && Date.now() < deadline) await new Promise(setImmediate);
	t.ok((await descriptors()) <= before);
});
