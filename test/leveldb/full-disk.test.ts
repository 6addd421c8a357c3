import { join } from "node:path";
import t from "tap";
import { Database } from "../../src/leveldb/database.ts";
import { SmallDisk } from "../harness/small-disk.ts";

const skip = await SmallDisk.missing();
const BALLAST = 4 * 1024 * 1024;

/** A look at the disk stays good for a moment, in which what is not urgent may still be stored. */
async function untilRefused(database: Database): Promise<unknown> {
	const deadline = Date.now() + 30_000;
	while (Date.now() < deadline) {
		try {
			await database.commit([{ put: "new", value: "v" }]);
		} catch (error) {
			return error;
		}
	}
	return null;
}

t.test(
	"a disk without a free block: reads, urgent commits and opening go on, until there is room again",
	{ skip },
	async (t) => {
		const disk = await SmallDisk.mount(t);
		const folder = join(disk.folder, "records");
		const first = await Database.open(folder);
		for (let index = 0; index < 50; index++)
			await first.commit([{ put: `k${10 + index}`, value: "v".repeat(20_000) }], {});
		t.equal(await disk.sizeOf("records", "ballast"), BALLAST);

		await disk.fill();
		const refused = await untilRefused(first);
		t.match(refused, { code: "no_space" });
		await first.commit([{ put: "k10", value: "stopped" }], { urgent: true });
		await first.commit([{ delete: "k11" }]);
		t.equal(await first.get("k10"), "stopped");
		t.ok((await disk.sizeOf("records", "ballast")) < BALLAST, "it was needed");
		await disk.fill();
		await first.commit(
			Array.from({ length: 20 }, (_, index) => ({ put: `k${20 + index}`, value: "w".repeat(20_000) })),
			{ urgent: true },
		);
		await first[Symbol.asyncDispose]();

		await disk.fill();
		const second = await Database.open(folder);
		t.equal(await second.get("k10"), "stopped");
		t.equal(await second.get("k11"), undefined);
		t.equal((await second.get("k39"))?.[0], "w");
		await t.rejects(second.commit([{ put: "new", value: "v" }]), { code: "no_space" });
		await second.commit([{ put: "k12", value: "stopped" }], { urgent: true });

		await disk.heal();
		const deadline = Date.now() + 30_000;
		while ((await disk.sizeOf("records", "ballast")) < BALLAST && Date.now() < deadline)
			await second.commit([{ put: "healed", value: "v" }]);
		t.equal(await disk.sizeOf("records", "ballast"), BALLAST, "laid by anew");
		await second[Symbol.asyncDispose]();
		const third = await Database.open(folder);
		t.equal(await third.get("k12"), "stopped");
		t.equal(await third.get("healed"), "v");
		await third[Symbol.asyncDispose]();
	},
);

t.test(
	"an urgent commit that met a full disk is stored once, whether the write was done or not",
	{ skip },
	async (t) => {
		const disk = await SmallDisk.mount(t);
		for (const done of [true, false]) {
			let failing = 0;
			let writes = 0;
			const write = async (write: () => Promise<void>) => {
				writes++;
				const fails = failing > 0;
				if (fails) failing--;
				if (done || !fails) await write();
				if (fails) throw Object.assign(new Error("injected"), { code: "ENOSPC" });
			};
			const database = await Database.open(join(disk.folder, String(done)), { write, backoff: 1 });
			await database.commit([{ put: "a", value: "1" }]);
			failing = 2;
			writes = 0;
			await database.commit([{ put: "a", value: "2" }], { urgent: true });
			t.equal(await database.get("a"), "2");
			t.equal(writes, done ? 1 : 3);
			failing = done ? 1 : 9;
			if (!done)
				await t.rejects(database.commit([{ put: "a", value: "3" }], { urgent: true }), {
					code: "no_space",
					message: /unknown/,
				});
			failing = 0;
			await database.commit([{ put: "a", value: "4" }]);
			t.equal(await database.get("a"), "4");
			await database[Symbol.asyncDispose]();
		}
	},
);
