import { readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "../../errors.ts";
import type { Limits } from "./limits.ts";

/** A walk through large caches is not free. */
const LEAST_MS_BETWEEN_WALKS = 2_000;

export type DiskVerdict = "fine" | "too_much" | "no_room";

/**
 * Watches what a command adds to its folders. Looks at the free space, which costs nothing, and counts files only where so
 * much has gone as to be of interest: others fill the same disk.
 */
export class DiskWatch {
	readonly #folders: readonly string[];
	readonly #limits: Pick<Limits, "disk" | "reserve">;
	readonly #free: readonly number[];
	readonly #since: number;
	#walked = Number.NEGATIVE_INFINITY;

	private constructor(folders: readonly string[], free: readonly number[], limits: Pick<Limits, "disk" | "reserve">) {
		this.#folders = folders;
		this.#free = free;
		this.#limits = limits;
		// File systems stamp files with a clock that ticks a little behind.
		this.#since = Date.now() - 50;
	}

	static async start(folders: readonly string[], limits: Pick<Limits, "disk" | "reserve">): Promise<DiskWatch> {
		return new DiskWatch(folders, await Promise.all(folders.map(freeBytes)), limits);
	}

	async look(): Promise<DiskVerdict> {
		const free = await Promise.all(this.#folders.map(freeBytes));
		if (free.some((bytes) => bytes < this.#limits.reserve)) return "no_room";
		const most = Math.max(0, ...free.map((bytes, index) => (this.#free[index] ?? 0) - bytes));
		if (most <= this.#limits.disk || performance.now() - this.#walked < LEAST_MS_BETWEEN_WALKS) return "fine";
		let added = 0;
		for (const folder of this.#folders) added += await bytesSince(folder, this.#since);
		this.#walked = performance.now();
		return added > this.#limits.disk ? "too_much" : "fine";
	}
}

async function freeBytes(folder: string): Promise<number> {
	const { bavail, bsize } = await statfs(folder);
	return bavail * bsize;
}

/** Bytes on disk of the files below `folder` that were changed since then. */
async function bytesSince(folder: string, since: number): Promise<number> {
	let bytes = 0;
	for (const entry of await there(readdir(folder, { withFileTypes: true }), [])) {
		const path = join(folder, entry.name);
		if (entry.isDirectory()) bytes += await bytesSince(path, since);
		else if (entry.isFile()) {
			const found = await there(stat(path), undefined);
			if (found !== undefined && found.ctimeMs >= since) bytes += found.blocks * 512;
		}
	}
	return bytes;
}

/** A build removes files all the time. */
async function there<T>(work: Promise<T>, otherwise: T): Promise<T> {
	try {
		return await work;
	} catch (error) {
		if (["ENOENT", "EACCES", "ENOTDIR", "ELOOP", "ENAMETOOLONG"].includes(systemCode(error) ?? "")) return otherwise;
		throw error;
	}
}
