import { execFile } from "node:child_process";
import { open } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { AppError } from "../../errors.ts";

const LIST_LIMIT_MS = 10_000;
const PT_INTERP = 3;
const HEADER_BYTES = 64 * 1024;
/** What glibc opens by itself to look names up; since 2.34 they are stubs, and may be missing. */
const OPENED_LATER = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];

/**
 * The files that a dynamically linked program needs beside itself, at the paths where it looks for them: its ELF interpreter
 * and what that finds. None for a static one. The program is started by its interpreter, but only to list them: it must be
 * one that we trust. Rejects with `unavailable` where it is no program for Linux.
 */
export async function sharedLibraries(
	file: string,
): Promise<{ needed: readonly string[]; optional: readonly string[] }> {
	const interpreter = await interpreterOf(file);
	if (interpreter === undefined) return { needed: [], optional: [] };
	// `ldd` is a script around this call, and differs between C libraries.
	const { stdout } = await promisify(execFile)(interpreter, ["--list", file], { timeout: LIST_LIMIT_MS });
	const needed = new Set([interpreter]);
	for (const line of stdout.split("\n")) {
		const [, name = "", found] = /^\s*(\S+)(?: => (.+?))?(?: \(0x[0-9a-f]+\))?$/.exec(line) ?? [];
		if (found === "not found") throw new AppError("unavailable", `${file} needs ${name}, which is not on this machine`);
		const library = found ?? name;
		if (path.isAbsolute(library)) needed.add(path.normalize(library));
	}
	const libc = [...needed].find((library) => path.basename(library).startsWith("libc.so"));
	const optional = libc === undefined ? [] : OPENED_LATER.map((name) => path.join(path.dirname(libc), name));
	return { needed: [...needed].sort(), optional };
}

/** The path in a program's PT_INTERP; undefined for a static one. */
async function interpreterOf(file: string): Promise<string | undefined> {
	const handle = await open(file);
	try {
		const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEADER_BYTES), 0, HEADER_BYTES, 0);
		const little64 = bytesRead >= 64 && buffer.subarray(0, 6).equals(Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]));
		if (!little64) throw new AppError("unavailable", `${file} is no 64-bit program for Linux`);
		const table = Number(buffer.readBigUInt64LE(32));
		const size = buffer.readUInt16LE(54);
		for (let index = 0; index < buffer.readUInt16LE(56); index++) {
			const entry = table + index * size;
			if (entry + 56 > bytesRead) break;
			if (buffer.readUInt32LE(entry) !== PT_INTERP) continue;
			const start = Number(buffer.readBigUInt64LE(entry + 8));
			const length = Number(buffer.readBigUInt64LE(entry + 32));
			return buffer.toString("latin1", start, Math.min(start + length, bytesRead)).replace(/\0.*$/s, "");
		}
		return undefined;
	} finally {
		await handle.close();
	}
}
