import { mkdir, open, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { AppError } from "../errors.ts";

/** Makes the names in a folder survive a power cut: without it a renamed file can be gone although its bytes were synced. */
export async function syncFolder(folder: string): Promise<void> {
	const handle = await open(folder, "r");
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** Makes a folder with its missing parents, each durable in its own parent. */
export async function makeFolder(folder: string): Promise<void> {
	const path = resolve(folder);
	const first = await mkdir(path, { recursive: true, mode: 0o700 });
	if (first === undefined) return;
	const top = dirname(first);
	for (let parent = dirname(path); ; parent = dirname(parent)) {
		await syncFolder(parent);
		if (parent === top || parent === dirname(parent)) return;
	}
}

/**
 * The folders that are open in this process. LevelDB's LOCK is an fcntl lock: one that is freed by a kill -9, but also by any
 * second open within the same process, successful or not. So the process itself must know, and this one piece of state is
 * as global as the lock that it protects.
 */
const openFolders = new Set<string>();

/** Claims a folder for this process; `release` gives it back. Rejects with `conflict` if the process holds it already. */
export async function claimFolder(folder: string): Promise<() => void> {
	const { dev, ino } = await stat(folder);
	const identity = `${dev}:${ino}`;
	if (openFolders.has(identity)) {
		throw new AppError("conflict", `the data folder ${folder} is already open in this process`, {
			hint: "open it once and share the handle",
		});
	}
	openFolders.add(identity);
	return () => openFolders.delete(identity);
}
