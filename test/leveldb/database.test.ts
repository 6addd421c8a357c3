import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { type Bounds, Database, type DatabaseOptions } from "../../src/leveldb/database.ts";

async function folderFor(t: Test): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), "database-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	return folder;
}

async function openDatabase(t: Test, folder: string, options?: DatabaseOptions): Promise<Database> {
	const database = await Database.open(folder, options);
	t.teardown(() => database[Symbol.asyncDispose]());
	return database;
}

async function entries(database: Database, bounds: Bounds = {}): Promise<string[]> {
	const found: string[] = [];
	for await (const [key, value] of database.range(bounds)) found.push(`${key}=${value}`);
	return found;
}

/** Flips one bit in the middle of the only file with this ending. */
async function damage(folder: string, ending: string, at: (size: number) => number): Promise<void> {
	const names = (await readdir(join(folder, "level"))).filter((name) => name.endsWith(ending));
	for (const name of names) {
		const path = join(folder, "level", name);
		const bytes = await readFile(path);
		if (bytes.length === 0) continue;
		const offset = at(bytes.length);
		bytes[offset] = (bytes[offset] ?? 0) ^ 4;
		await writeFile(path, bytes);
	}
}

/** A write hook that fails the next write when told to, before it was done or after. */
function faults() {
	type Faults = { fail: "before" | "after" | undefined; code: string; writes: number; gate: Promise<void> };
	const state: Faults = { fail: undefined, code: "EIO", writes: 0, gate: Promise.resolve() };
	const write = async (write: () => Promise<void>) => {
		state.writes++;
		await state.gate;
		const { fail } = state;
		state.fail = undefined;
		if (fail !== "before") await write();
		if (fail !== undefined) throw Object.assign(new Error("injected"), { code: state.code });
	};
	return { state, write };
}

t.test("commits are read back, also after reopening, and in key order", async (t) => {
	const folder = await folderFor(t);
	const first = await Database.open(join(folder, "deep", "er"));
	await first.commit([
		{ put: "b", value: "2" },
		{ put: "a", value: "1" },
		{ put: "c", value: "ü" },
		{ put: "d", value: "" },
	]);
	await first.commit([{ delete: "b" }, { put: "a", value: "one" }]);
	await first.commit([]);
	await first[Symbol.asyncDispose]();
	await t.rejects(first.get("a"), { code: "unavailable" });
	await t.rejects(first.commit([{ put: "a", value: "" }]), { code: "unavailable" });

	const database = await openDatabase(t, join(folder, "deep", "er"));
	t.equal(await database.get("a"), "one");
	t.equal(await database.get("b"), undefined);
	t.equal(await database.get("d"), "");
	t.same(await entries(database), ["a=one", "c=ü", "d="]);
	t.same(await entries(database, { gt: "a", lt: "d" }), ["c=ü"]);
	t.same(await entries(database, { gte: "a", lte: "c", reverse: true }), ["c=ü", "a=one"]);
	t.same(await entries(database, { limit: 1 }), ["a=one"]);
	t.same(await entries(database, { gt: "\0" }), ["a=one", "c=ü", "d="]);
	await t.rejects(database.commit([{ put: "", value: "" }]), { code: "invalid_argument" });
});

t.test("a range is a snapshot", async (t) => {
	const database = await openDatabase(t, await folderFor(t));
	await database.commit(
		Array.from({ length: 3_000 }, (_, index) => ({ put: `k${10_000 + index}`, value: "x".repeat(100) })),
	);
	let count = 0;
	for await (const [key] of database.range({})) {
		if (count++ === 0) await database.commit([{ delete: "k12999" }, { put: "k99999", value: "" }]);
		t.not(key, "k99999");
	}
	t.equal(count, 3_000);
});

t.test("concurrent commits share a batch, in the order of the calls", async (t) => {
	const { state, write } = faults();
	const database = await openDatabase(t, await folderFor(t), { write });
	const settled: number[] = [];
	await Promise.all(
		Array.from({ length: 500 }, async (_, index) => {
			await database.commit([
				{ put: "last", value: String(index) },
				{ put: `k${index}`, value: "" },
			]);
			settled.push(index);
		}),
	);
	t.ok(state.writes <= 2, `${state.writes} writes`);
	t.same(
		settled,
		[...settled].sort((a, b) => a - b),
	);
	t.equal(await database.get("last"), "499");
});

for (const fail of ["before", "after"] as const) {
	t.test(
		`a write error (${fail} the write) rejects all that waited; after it nothing acknowledged is lost`,
		async (t) => {
			const folder = await folderFor(t);
			const { state, write } = faults();
			const database = await Database.open(folder, { write });
			await database.commit([{ put: "acknowledged", value: "1" }]);
			state.fail = fail;
			// The first is in the batch that fails, the second waits behind it.
			const gate = Promise.withResolvers<void>();
			state.gate = gate.promise;
			const { writes } = state;
			const first = database.commit([{ put: "doubtful", value: "1" }]);
			while (state.writes === writes) await new Promise(setImmediate);
			const both = Promise.allSettled([first, database.commit([{ put: "untried", value: "1" }])]);
			gate.resolve();
			const results = await both;
			t.match(results[1], { status: "rejected", reason: { code: "unavailable", message: /not stored/ } });
			t.match(results[0], { status: "rejected", reason: { code: "unavailable", message: /unknown/ } });
			t.equal(await database.get("acknowledged"), "1", "reads wait for the reopened database");
			t.equal(await database.get("doubtful"), fail === "after" ? "1" : undefined);
			t.equal(await database.get("untried"), undefined);
			for (let index = 0; index < 20; index++) await database.commit([{ put: `later${index}`, value: "1" }]);
			state.fail = fail;
			state.code = "ENOSPC";
			await t.rejects(database.commit([{ put: "full", value: "1" }]), { code: "no_space" });
			await database.commit([{ put: "healed", value: "1" }]);
			await database[Symbol.asyncDispose]();

			const reopened = await openDatabase(t, folder);
			for (const key of ["acknowledged", "healed", "later0", "later19"]) t.equal(await reopened.get(key), "1", key);
		},
	);
}

t.test("while it cannot be reopened nothing is acknowledged, and a close does not wait for the back-off", async (t) => {
	const folder = await folderFor(t);
	const { state, write } = faults();
	const database = await Database.open(folder, { write, backoff: 60_000, maxBackoff: 60_000 });
	await database.commit([{ put: "a", value: "1" }]);
	state.fail = "before";
	await t.rejects(database.commit([{ put: "b", value: "1" }]), { code: "unavailable" });
	// LevelDB cannot open a folder whose CURRENT names nothing.
	const current = await readFile(join(folder, "level", "CURRENT"));
	await writeFile(join(folder, "level", "CURRENT"), "MANIFEST-999999\n");
	await t.rejects(database.commit([{ put: "c", value: "1" }]));
	const waiting = t.rejects(database.commit([{ put: "d", value: "1" }]), { code: "unavailable" });
	const reading = t.rejects(database.get("a"), { code: "unavailable" });
	await new Promise(setImmediate);
	await database[Symbol.asyncDispose]();
	await Promise.all([waiting, reading]);
	await writeFile(join(folder, "level", "CURRENT"), current);
	const reopened = await openDatabase(t, folder);
	t.same(await entries(reopened), ["a=1"]);
});

t.test("it opens again by itself after some failed attempts", async (t) => {
	const folder = await folderFor(t);
	const { state, write } = faults();
	const database = await openDatabase(t, folder, { write, backoff: 1 });
	state.fail = "before";
	await t.rejects(database.commit([{ put: "b", value: "1" }]));
	const current = await readFile(join(folder, "level", "CURRENT"));
	await writeFile(join(folder, "level", "CURRENT"), "MANIFEST-999999\n");
	for (let attempt = 0; attempt < 3; attempt++) await t.rejects(database.commit([{ put: "c", value: "1" }]));
	await writeFile(join(folder, "level", "CURRENT"), current);
	await database.commit([{ put: "d", value: "1" }]);
	t.same(await entries(database), ["d=1"]);
});

t.test("a torn log is noticed, and opened only when the loss is accepted", async (t) => {
	const folder = await folderFor(t);
	const database = await Database.open(folder);
	for (let index = 0; index < 20; index++) await database.commit([{ put: `k${10 + index}`, value: "v" }]);
	await database[Symbol.asyncDispose]();
	await damage(folder, ".log", (size) => Math.floor(size / 4));
	await t.rejects(Database.open(folder), {
		code: "internal",
		message: /lost 1\d acknowledged commits/,
		hint: /backup.*acceptLoss/,
	});
	const accepted = await Database.open(folder, { acceptLoss: true });
	t.equal(await accepted.get("k10"), "v");
	t.equal(await accepted.get("k29"), undefined);
	await accepted.commit([{ put: "new", value: "v" }]);
	await accepted[Symbol.asyncDispose]();
	t.equal(await (await openDatabase(t, folder)).get("new"), "v");
});

t.test("commits lost from the middle of the log are noticed although the newest is there", async (t) => {
	const folder = await folderFor(t);
	const database = await Database.open(folder);
	for (let index = 0; index < 200; index++)
		await database.commit([{ put: `k${100 + index}`, value: "v".repeat(1_000) }]);
	await database[Symbol.asyncDispose]();
	await damage(folder, ".log", (size) => Math.floor(size / 2));
	await t.rejects(Database.open(folder), { code: "internal", message: /lost \d+ acknowledged commits/ });
	const accepted = await Database.open(folder, { acceptLoss: true });
	t.equal(await accepted.get("k299"), "v".repeat(1_000), "what followed is there");
	await accepted[Symbol.asyncDispose]();
	await openDatabase(t, folder);
});

t.test("a database that is gone is noticed", async (t) => {
	const folder = await folderFor(t);
	const database = await Database.open(folder);
	await database.commit([{ put: "a", value: "1" }]);
	await database[Symbol.asyncDispose]();
	await rm(join(folder, "level"), { recursive: true });
	await t.rejects(Database.open(folder), { code: "internal", message: /lost 1 acknowledged/ });
});

t.test("a value that rotted in a table is never returned", async (t) => {
	const folder = await folderFor(t);
	const value = (index: number) => `${index}`.repeat(20_000).slice(0, 20_000);
	let database = await Database.open(folder);
	for (let index = 0; index < 200; index++) await database.commit([{ put: `k${index}`, value: value(index) }]);
	await database[Symbol.asyncDispose]();
	await (await Database.open(folder))[Symbol.asyncDispose]();
	await damage(folder, ".ldb", (size) => Math.floor(size / 3));
	let damaged = 0;
	try {
		database = await openDatabase(t, folder);
	} catch (error) {
		t.match(error, { code: "internal" });
		return;
	}
	for (let index = 0; index < 200; index++) {
		try {
			t.ok((await database.get(`k${index}`)) === value(index), `k${index} is as it was stored`);
		} catch (error) {
			t.match(error, { code: "internal" });
			damaged++;
		}
	}
	t.ok(damaged > 0, "the damage was met");
});

t.test("a second open in the same process is refused, by another path too, and harms nothing", async (t) => {
	const folder = await folderFor(t);
	const database = await openDatabase(t, folder);
	await t.rejects(Database.open(folder), { code: "conflict", message: folder });
	await t.rejects(Database.open(`${folder}/../${folder.split("/").at(-1)}`), { code: "conflict" });
	await database.commit([{ put: "a", value: "1" }]);
	await database[Symbol.asyncDispose]();
	await database[Symbol.asyncDispose]();
	t.equal(await (await openDatabase(t, folder)).get("a"), "1");
});

t.test("a disk that is full but for the reserve refuses what is put; reading and deleting go on", async (t) => {
	const folder = await folderFor(t);
	const first = await Database.open(folder);
	await first.commit([{ put: "a", value: "1" }]);
	await first[Symbol.asyncDispose]();
	const database = await openDatabase(t, folder, { reserve: Number.MAX_SAFE_INTEGER });
	const results = await Promise.allSettled([
		database.commit([{ put: "b", value: "1" }]),
		database.commit([{ delete: "a" }]),
		database.commit([{ delete: "c" }, { put: "c", value: "" }]),
	]);
	t.match(results, [{ reason: { code: "no_space" } }, { status: "fulfilled" }, { reason: { code: "no_space" } }]);
	t.same(await entries(database), []);
});
