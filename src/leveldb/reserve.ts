import { statfs } from "node:fs/promises";
import { AppError } from "../errors.ts";

const MIB = 1024 * 1024;
const MIN_INODES = 64;
/** Milliseconds for which a look at a disk with plenty of room stays good. */
const GOOD_FOR = 1_000;

/**
 * Refuses writes while there is still a little room: LevelDB needs some to open again after an error, and deleting needs some too.
 * Without it a full disk takes the reads away as well.
 */
export class Reserve {
	readonly #folder: string;
	readonly #bytes: number;
	#goodUntil = 0;
	/** What can be written before the next look. */
	#allowance = 0;

	/** `bytes` is what must stay free on the folder's disk; 0 switches it off. */
	constructor(folder: string, bytes: number) {
		this.#folder = folder;
		this.#bytes = bytes;
	}

	/** Rejects with `no_space` if writing so many bytes would eat into the reserve. */
	async take(bytes: number): Promise<void> {
		if (this.#bytes === 0) return;
		if (performance.now() > this.#goodUntil || this.#allowance < bytes) {
			const { bavail, bsize, files, ffree } = await statfs(this.#folder);
			const free = bavail * bsize - this.#bytes;
			// A file system without a fixed number of inodes reports none.
			if (free < bytes || (files > 0 && ffree < MIN_INODES)) {
				this.#allowance = 0;
				throw new AppError(
					"no_space",
					`the disk that holds ${this.#folder} is full but for a reserve of ${this.#bytes / MIB} MiB`,
					{
						hint: "free some space, or delete services",
					},
				);
			}
			this.#goodUntil = performance.now() + GOOD_FOR;
			this.#allowance = free / 2;
		}
		this.#allowance -= bytes;
	}
}
