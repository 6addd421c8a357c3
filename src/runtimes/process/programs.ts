import { createHash } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError, cancelled, systemCode } from "../../errors.ts";
import { syncFolder } from "../companion/state-file.ts";
import type { Call, Program } from "../runtime.ts";
import { digestOf } from "./digest.ts";

const TEMPORARY = ".incoming";

/**
 * Puts a build's bytes where the companion executes them: `<folder>/<sha256>`, whole, verified and durable. What is there
 * already is verified anew. Rejects with `damaged` where the bytes are not the build's. One at a time for a folder.
 */
export async function materialise(
	folder: string,
	program: Extract<Program, { kind: "build" }>,
	{ signal }: Call,
): Promise<void> {
	const file = join(folder, program.sha256);
	if ((await digest(file)) === program.sha256) return;
	await mkdir(folder, { recursive: true, mode: 0o700 });
	for (const name of await readdir(folder)) if (name.endsWith(TEMPORARY)) await rm(join(folder, name), { force: true });
	const temporary = `${file}${TEMPORARY}`;
	try {
		const sha256 = await write(temporary, program, signal);
		if (sha256 !== program.sha256)
			throw new AppError("damaged", "the build's bytes are not those that were built; nothing was executed");
		await rename(temporary, file);
		await syncFolder(folder);
	} catch (error) {
		await rm(temporary, { force: true });
		if (signal.aborted) throw cancelled(signal);
		if (systemCode(error) === "ENOSPC")
			throw new AppError("no_space", "the disk is full: the program could not be stored", { cause: error });
		throw error;
	}
}

async function write(file: string, program: Extract<Program, { kind: "build" }>, signal: AbortSignal): Promise<string> {
	const hash = createHash("sha256");
	const handle = await open(file, "wx", 0o700);
	try {
		let size = 0;
		for await (const chunk of await program.open({ signal })) {
			if (signal.aborted) throw cancelled(signal);
			size += chunk.length;
			if (size > program.size) break;
			const writing = writeAll(handle, chunk);
			// Hashed meanwhile; a failure is thrown where it is awaited.
			writing.catch(() => undefined);
			hash.update(chunk);
			await writing;
		}
		if (size !== program.size)
			throw new AppError("damaged", `the build has ${program.size} bytes, but the store gave another number`);
		await handle.chmod(0o755);
		await handle.sync();
	} finally {
		await handle.close();
	}
	return hash.digest("hex");
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
	for (let at = 0; at < chunk.length; ) at += (await handle.write(chunk, at)).bytesWritten;
}

/** Null where there is no such file. */
async function digest(file: string): Promise<string | null> {
	try {
		return await digestOf(file);
	} catch (error) {
		if (systemCode(error) === "ENOENT") return null;
		throw error;
	}
}
