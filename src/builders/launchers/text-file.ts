import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import { systemCode } from "../../errors.ts";
import { BuildError } from "../builder.ts";

/** Bytes. More than any manifest that a person wrote: the source is a stranger's, and this is read whole. */
const MOST = 1024 ** 2;

/** Whether there is a file with this name below `root`. */
export async function hasFile(root: string, name: string): Promise<boolean> {
	return (await sizeOf(path.join(root, name))) !== undefined;
}

/** The text of a file below `root`, or undefined where there is none. Past 1 MiB BuildError `source_invalid` names it. */
export async function readText(root: string, name: string): Promise<string | undefined> {
	const file = path.join(root, name);
	const size = await sizeOf(file);
	if (size === undefined) return undefined;
	if (size > MOST)
		throw new BuildError("source_invalid", `${name} has ${size} bytes, and at most ${MOST} are read of it`);
	return readFile(file, "utf8");
}

/** Bytes; undefined for what is no file. */
async function sizeOf(file: string): Promise<number | undefined> {
	try {
		const found = await stat(file);
		return found.isFile() ? found.size : undefined;
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOENT" || code === "ENOTDIR") return undefined;
		throw error;
	}
}
