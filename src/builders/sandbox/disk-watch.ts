import { lstat, opendir, statfs } from "node:fs/promises";
import { join, sep } from "node:path";
import { systemCode } from "../../errors.ts";
import type { Limits } from "./limits.ts";

/** A walk through large caches is not free. */
const LEAST_MS_BETWEEN_WALKS = 2_000;
/** So many files are looked at before the free space is again. */
const BATCH = 256;
/** No file takes less of a file system that does not count them. */
const LEAST_BYTES_OF_A_FILE = 256;

/** What cannot be looked at: a folder that may not be read, a path that is too long. */
const HIDDEN = Symbol("hidden");

export type DiskVerdict = "fine" | "too_much" | "too_many" | "no_room" | "no_files";

type DiskLimits = Pick<Limits, "disk" | "reserve" | "files" | "reserveFiles">;

/** What a file system has left: bytes, and files where it counts them. */
type Free = { readonly bytes: number; readonly files: number | undefined };

/** What `statfs` tells, as far as it is used. */
export type Space = { readonly bavail: number; readonly bsize: number; readonly files: number; readonly ffree: number };

/**
 * Watches what a command adds to its folders. Looks at the free space, which costs nothing, and counts files only where so
 * much has gone as to be of interest: others fill the same disk.
 */
export class DiskWatch {
	readonly #folders: readonly string[];
	readonly #limits: DiskLimits;
	readonly #space: (folder: string) => Promise<Space>;
	readonly #before: readonly Free[];
	readonly #since: number;
	#walked = Number.NEGATIVE_INFINITY;

	private constructor(
		folders: readonly string[],
		limits: DiskLimits,
		space: (folder: string) => Promise<Space>,
		before: readonly Free[],
	) {
		this.#folders = folders;
		this.#limits = limits;
		this.#space = space;
		this.#before = before;
		// File systems stamp files with a clock that ticks a little behind.
		this.#since = Date.now() - 50;
	}

	static async start(
		folders: readonly string[],
		limits: DiskLimits,
		space: (folder: string) => Promise<Space> = statfs,
	): Promise<DiskWatch> {
		return new DiskWatch(folders, limits, space, await freeOf(folders, space));
	}

	async look(): Promise<DiskVerdict> {
		const { disk, files } = this.#limits;
		const free = await freeOf(this.#folders, this.#space);
		const short = this.#shortage(free);
		if (short !== undefined) return short;
		const gone = free.map((now, index) => difference(this.#before[index] ?? now, now));
		const bytes = Math.max(0, ...gone.map((each) => each.bytes));
		const suspicious = bytes > disk || gone.some((each) => each.files > files);
		if (!suspicious || performance.now() - this.#walked < LEAST_MS_BETWEEN_WALKS) return "fine";
		try {
			return await this.#count(bytes);
		} finally {
			this.#walked = performance.now();
		}
	}

	#shortage(free: readonly Free[]): "no_room" | "no_files" | undefined {
		if (free.some(({ bytes }) => bytes < this.#limits.reserve)) return "no_room";
		return free.some(({ files }) => files !== undefined && files < this.#limits.reserveFiles) ? "no_files" : undefined;
	}

	/** Goes through what was changed since the start until it is too much; `gone` is how much less is free on a disk. */
	async #count(gone: number): Promise<DiskVerdict> {
		const added = { bytes: 0, files: 0 };
		for (const folder of this.#folders)
			for await (const batch of batches(folder)) {
				const found = await Promise.all(batch.map((path) => (path === HIDDEN ? HIDDEN : there(lstat(path)))));
				for (const entry of found) {
					// It may be all that has gone.
					if (entry === HIDDEN) added.bytes = Math.max(added.bytes, gone);
					else if (entry !== "gone" && entry.ctimeMs >= this.#since) {
						added.files++;
						added.bytes += entry.blocks * 512;
					}
				}
				if (added.bytes > this.#limits.disk) return "too_much";
				if (added.files > this.#limits.files) return "too_many";
				const short = this.#shortage(await freeOf(this.#folders, this.#space));
				if (short !== undefined) return short;
			}
		return "fine";
	}
}

function freeOf(folders: readonly string[], space: (folder: string) => Promise<Space>): Promise<Free[]> {
	return Promise.all(
		folders.map(async (folder) => {
			const { bavail, bsize, files, ffree } = await space(folder);
			return { bytes: bavail * bsize, files: files === 0 ? undefined : ffree };
		}),
	);
}

/** What has gone; files by what they must have taken where they are not counted. */
function difference(before: Free, now: Free): { readonly bytes: number; readonly files: number } {
	const bytes = before.bytes - now.bytes;
	const counted = before.files !== undefined && now.files !== undefined;
	return { bytes, files: counted ? before.files - now.files : bytes / LEAST_BYTES_OF_A_FILE };
}

/** A folder that is still to be looked into: its path would be held as often as it has folders. */
type Pending = { readonly above: Pending | undefined; readonly name: string };

function pathOf(pending: Pending): string {
	const names: string[] = [];
	for (let at: Pending | undefined = pending; at !== undefined; at = at.above) names.push(at.name);
	return names.reverse().join(sep);
}

/** Paths of all that is below a folder. A folder is never held whole: there can be millions in one. */
async function* batches(root: string): AsyncGenerator<(string | typeof HIDDEN)[]> {
	const folders: Pending[] = [{ above: undefined, name: root }];
	let batch: (string | typeof HIDDEN)[] = [];
	for (let at = folders.pop(); at !== undefined; at = folders.pop()) {
		const folder = pathOf(at);
		const opened = await there(opendir(folder, { bufferSize: BATCH }));
		if (opened === "gone") continue;
		if (opened === HIDDEN) batch.push(HIDDEN);
		else
			for await (const entry of opened) {
				if (entry.isDirectory()) folders.push({ above: at, name: entry.name });
				batch.push(join(folder, entry.name));
				if (batch.length < BATCH) continue;
				yield batch;
				batch = [];
			}
	}
	yield batch;
}

/** A build removes files all the time. */
async function there<T>(work: Promise<T>): Promise<T | "gone" | typeof HIDDEN> {
	try {
		return await work;
	} catch (error) {
		const code = systemCode(error) ?? "";
		if (["ENOENT", "ENOTDIR", "ELOOP"].includes(code)) return "gone";
		if (["EACCES", "ENAMETOOLONG"].includes(code)) return HIDDEN;
		throw error;
	}
}
