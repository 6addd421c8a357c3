import { randomBytes } from "node:crypto";
import { open, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { systemCode } from "./errors.ts";
import { Turns } from "./turns.ts";

const PIECE = 256 * 1024;
/** Given up in so many parts: what is freed may be taken by whoever filled the disk. */
const PARTS = 4;
/** Milliseconds between two looks for room. */
const LOOK_EVERY = 1_000;

/** Whether the disk, or a quota, is used up. */
export function isDiskFull(error: unknown): boolean {
	for (let current = error, depth = 0; current instanceof Error && depth < 5; current = current.cause, depth++) {
		const code = systemCode(current);
		if (code === "ENOSPC" || code === "EDQUOT") return true;
	}
	return false;
}

/**
 * A file that takes up space so that there is some to give when the disk is full: for what must be written in order to go on,
 * to stop something or to make room. Its blocks are really allocated.
 */
export class Ballast {
	readonly #file: string;
	readonly #bytes: number;
	readonly #turns = new Turns();
	#whole = false;
	#lookedAt = Number.NEGATIVE_INFINITY;

	/** `bytes` 0: there is none. The file's folder must be there when it is first filled. */
	constructor(file: string, bytes: number) {
		this.#file = file;
		this.#bytes = bytes;
		this.#whole = bytes === 0;
	}

	/** Makes it, or makes it whole again, where there is room for it twice. No room is no error. Costs nothing while it is whole. */
	async fill(): Promise<void> {
		if (this.#whole || performance.now() - this.#lookedAt < LOOK_EVERY) return;
		this.#lookedAt = performance.now();
		await this.#attempt(() => this.#fill(), undefined);
	}

	/** Gives up a part; false where nothing is left, or the disk refuses even that. */
	release(): Promise<boolean> {
		return this.#attempt(async () => {
			const { size } = await this.#seen();
			if (size === 0 || this.#bytes === 0) return false;
			const handle = await open(this.#file, "r+");
			try {
				await handle.truncate(Math.max(0, size - Math.ceil(this.#bytes / PARTS)));
				await handle.sync();
			} finally {
				await handle.close();
			}
			this.#whole = false;
			this.#lookedAt = performance.now();
			return true;
		}, false);
	}

	/** Gives up a part where fewer than so many bytes are free. */
	async ease(bytes: number): Promise<void> {
		if (await this.#attempt(async () => (await this.#free()) < bytes, true)) await this.release();
	}

	/** Runs `action`, and again after each part that is given up, for as long as the disk is too full for it. */
	async spend<T>(action: () => Promise<T>, isFull: (error: unknown) => boolean = isDiskFull): Promise<T> {
		for (;;) {
			try {
				return await action();
			} catch (error) {
				if (!isFull(error) || !(await this.release())) throw error;
			}
		}
	}

	/** It is a help, not a need: what the system refuses is no error. */
	#attempt<T>(action: () => Promise<T>, otherwise: T): Promise<T> {
		return this.#turns.inTurn("", async () => {
			try {
				return await action();
			} catch (error) {
				if (systemCode(error) === undefined) throw error;
				return otherwise;
			}
		});
	}

	async #fill(): Promise<void> {
		const { size, allocated } = await this.#seen();
		const start = allocated >= size ? Math.min(size, this.#bytes) : 0;
		if (start < this.#bytes) {
			if ((await this.#free()) < 2 * this.#bytes) return;
			// Noise: zeros take no space on a disk that compresses.
			const piece = randomBytes(Math.min(PIECE, this.#bytes));
			const handle = await open(this.#file, size === 0 ? "w" : "r+", 0o600);
			try {
				for (let at = start; at < this.#bytes; )
					at += (await handle.write(piece, 0, Math.min(piece.length, this.#bytes - at), at)).bytesWritten;
				await handle.sync();
			} catch (error) {
				await handle.truncate(start);
				throw error;
			} finally {
				await handle.close();
			}
		}
		this.#whole = true;
	}

	async #free(): Promise<number> {
		const { bavail, bsize } = await statfs(dirname(this.#file));
		return bavail * bsize;
	}

	async #seen(): Promise<{ size: number; allocated: number }> {
		try {
			const { size, blocks } = await stat(this.#file);
			return { size, allocated: blocks * 512 };
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
			return { size: 0, allocated: 0 };
		}
	}
}
