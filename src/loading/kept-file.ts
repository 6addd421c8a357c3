import { mkdir, open, rename } from "node:fs/promises";
import path from "node:path";
import { AppError, messageOf, systemCode } from "../errors.ts";
import { failpoint } from "../failpoint.ts";

/** The text of a file that only the server's user may read; undefined where there is none. Rejects with `internal`. */
export async function readKept(file: string): Promise<string | undefined> {
	try {
		await using handle = await open(file, "r");
		if (((await handle.stat()).mode & 0o077) !== 0) await handle.chmod(0o600);
		return await handle.readFile("utf8");
	} catch (cause) {
		if (systemCode(cause) === "ENOENT") return undefined;
		throw new AppError("internal", `${file} cannot be read: ${messageOf(cause)}`, { cause });
	}
}

/** Writes the whole of a file, for the server's user alone; a crash leaves what was there before or all of it. */
export async function writeKept(file: string, text: string): Promise<void> {
	const folder = path.dirname(file);
	const made = await mkdir(folder, { recursive: true, mode: 0o700 });
	if (made !== undefined) await syncNames(path.dirname(made));
	const temporary = `${file}.tmp`;
	{
		await using handle = await open(temporary, "w", 0o600);
		// One that a crash left may have been made with another mode.
		await handle.chmod(0o600);
		await handle.writeFile(text);
		await handle.sync();
	}
	failpoint("loading.before_rename");
	await rename(temporary, file);
	await syncNames(folder);
}

async function syncNames(folder: string): Promise<void> {
	await using handle = await open(folder, "r");
	await handle.sync();
}
