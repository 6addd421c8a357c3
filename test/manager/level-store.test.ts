import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { Database } from "../../src/leveldb/database.ts";
import { LevelServiceStore } from "../../src/manager/level-store.ts";
import { type Opened, serviceStoreSuite } from "../conformance/service-store.ts";

async function open(folder: string): Promise<Opened> {
	const store = new LevelServiceStore(await Database.open(folder));
	const close = () => store[Symbol.asyncDispose]();
	return {
		store,
		close,
		reopen: async () => {
			await close();
			return open(folder);
		},
	};
}

serviceStoreSuite(t, "LevelDB", async () => {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-store-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	return open(path.join(folder, "records"));
});
