import { randomUUID } from "node:crypto";
import { chmod, readdir, rename, rm, rmdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "./errors.ts";

/** What `rm` gives up at: folders that are read-only, names that are no text, paths that are longer than a call takes. */
const STUBBORN: readonly string[] = ["EACCES", "EPERM", "ENOTEMPTY", "ENAMETOOLONG"];

/** Removes a folder with all it holds, whatever a stranger's program has made there. Resolves where there is none. */
export async function removeTree(path: string): Promise<void> {
	try {
		await rm(path, { recursive: true, force: true, maxRetries: 3 });
	} catch (error) {
		if (!STUBBORN.includes(systemCode(error) ?? "")) throw error;
		await takeApart(path);
	}
}

/** Each folder is moved up to the top before it is looked into, so that no path is long; names stay the bytes that they are. */
async function takeApart(root: string): Promise<void> {
	const top = Buffer.from(root);
	const folders = [top];
	for (const folder of folders) {
		await chmod(folder, 0o700);
		for (const entry of await readdir(folder, { withFileTypes: true, encoding: "buffer" })) {
			const path = Buffer.concat([folder, Buffer.from("/"), entry.name]);
			if (!entry.isDirectory()) await unlink(path);
			else if (folder === top) folders.push(path);
			else {
				const moved = Buffer.from(join(root, randomUUID()));
				// To move a folder is to write to it: it knows its parent.
				await chmod(path, 0o700);
				await rename(path, moved);
				folders.push(moved);
			}
		}
		if (folder !== top) await rmdir(folder);
	}
	await rmdir(top);
}
