import { open, readdir } from "node:fs/promises";
import path from "node:path";
import type { Call } from "../blob/store.ts";
import { cancelled } from "../errors.ts";

/** Files being synced at the same time: the disk takes many with little more effort than one. */
const PARALLEL = 16;

/** Makes the bytes of a file, or the names in a folder, survive a power cut. */
export async function sync(file: string): Promise<void> {
	const handle = await open(file, "r");
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** Syncs every file and folder of a tree by `one`, each folder after what it holds. Links are names in their folder. */
export async function syncTree(folder: string, call: Call, one: (file: string) => Promise<void>): Promise<void> {
	const entries = await readdir(folder, { withFileTypes: true });
	const files = entries.filter((entry) => entry.isFile()).map(({ name }) => path.join(folder, name));
	while (files.length > 0) {
		if (call.signal.aborted) throw cancelled(call.signal);
		await Promise.all(files.splice(-PARALLEL).map(one));
	}
	for (const entry of entries) if (entry.isDirectory()) await syncTree(path.join(folder, entry.name), call, one);
	await one(folder);
}
