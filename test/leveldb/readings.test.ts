import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import t from "tap";
import { Database } from "../../src/leveldb/database.ts";
import { entryOf } from "../../src/leveldb/entries.ts";
import { Readings } from "../../src/leveldb/readings.ts";

const MOST = 4_000;

function stored(key: string, value: string): string {
	const entry = entryOf({ put: key, value });
	return entry.type === "put" ? entry.value : "";
}

t.test("what is read is what the database holds, whatever is written meanwhile", async (t) => {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-readings-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	await using database = await Database.open(folder, { reserve: 0 });
	const readings = new Readings<{ readonly value: string }>((value) => ({ value }), MOST);
	const all = { gt: "k", lt: "l" };
	const look = async (atOnce: number) => {
		const found: string[] = [];
		for await (const some of database.readings(all, readings, atOnce)) found.push(...some.map(({ value }) => value));
		return found;
	};
	const key = fc.integer({ min: 0, max: 30 }).map((number) => `k${String(number).padStart(2, "0")}`);
	const change = fc.record({ key, value: fc.option(fc.string({ maxLength: 300 })) });
	const round = fc.record({ changes: fc.array(change, { maxLength: 6 }), atOnce: fc.integer({ min: 1, max: 40 }) });
	const model = new Map<string, string>();
	await fc.assert(
		fc.asyncProperty(fc.array(round, { maxLength: 8 }), async (rounds) => {
			for (const { changes, atOnce } of rounds) {
				const before = [...model].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
				const last = new Map(changes.map((one) => [one.key, one.value]));
				for (const [name, value] of last) value === null ? model.delete(name) : model.set(name, value);
				const after = [...model].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
				const written = database.commit(
					[...last].map(([name, value]) => (value === null ? { delete: name } : { put: name, value })),
				);
				const during = JSON.stringify(await look(atOnce));
				await written;
				if (during !== JSON.stringify(before) && during !== JSON.stringify(after))
					throw new Error(`read neither of before nor of after: ${during}`);
				if (JSON.stringify(await look(atOnce)) !== JSON.stringify(after)) throw new Error("read what was written over");
				if (readings.size > MOST) throw new Error(`${readings.size} are kept`);
			}
		}),
		{ numRuns: 60 },
	);
});

t.test("the same bytes are the same reading; others, and others' keys, are read anew", async (t) => {
	let parsed = 0;
	const readings = new Readings((value) => ({ value, number: ++parsed }), MOST);
	const first = readings.of("a", stored("a", "one"));
	t.equal(readings.of("a", stored("a", "one")), first);
	t.not(readings.of("a", stored("a", "two")), first);
	t.equal(readings.of("b", stored("b", "one")).number, 3);
	t.equal(readings.of("a", stored("a", "two")).number, 2);
});

t.test("damage is seen in what was read before", async (t) => {
	const readings = new Readings((value) => value, MOST);
	const good = stored("a", "one");
	readings.of("a", good);
	for (const bad of [good.replace("one", "onf"), `0${good.slice(1)}`, stored("b", "one")])
		if (bad !== good) t.throws(() => readings.of("a", bad), /damaged/);
	t.throws(() => readings.of("b", good), { code: "internal" });
});

t.test("so much is kept and no more: what was read last", async (t) => {
	let parsed = 0;
	const readings = new Readings((value) => ({ value, number: ++parsed }), MOST);
	for (let number = 0; number < 100; number++) {
		readings.of(`k${number}`, stored(`k${number}`, "x".repeat(100)));
		t.ok(readings.size <= MOST);
	}
	t.ok(readings.size > MOST / 2);
	readings.of("k99", stored("k99", "x".repeat(100)));
	t.equal(parsed, 100);
	readings.of("k0", stored("k0", "x".repeat(100)));
	t.equal(parsed, 101);
	readings.of("huge", stored("huge", "x".repeat(MOST)));
	t.ok(readings.size <= MOST);
});
