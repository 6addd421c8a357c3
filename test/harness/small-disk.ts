import { execFile } from "node:child_process";
import { appendFile, mkdtemp, rm, stat, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Test } from "tap";
import { systemCode } from "../../src/errors.ts";

const run = promisify(execFile);

/** A disk of the test's own that can be filled to its last block. */
export class SmallDisk {
	readonly folder: string;

	private constructor(folder: string) {
		this.folder = folder;
	}

	/** Null where this user may not mount. Unmounted when the test is over. */
	static async mount(t: Test, size = "64m"): Promise<SmallDisk | null> {
		const folder = await mkdtemp(join(tmpdir(), "small-disk-"));
		try {
			await run("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder]);
		} catch (error) {
			await rm(folder, { recursive: true });
			t.comment(`no small disk: ${error}`);
			return null;
		}
		t.teardown(async () => {
			await run("umount", ["--lazy", folder]);
			await rm(folder, { recursive: true });
		});
		return new SmallDisk(folder);
	}

	get #filler(): string {
		return join(this.folder, "filler");
	}

	/** Not a block is free afterwards. */
	async fill(): Promise<void> {
		for (let piece = 1024 * 1024; piece >= 1; piece = Math.floor(piece / 16)) {
			const bytes = Buffer.alloc(piece, 1);
			try {
				for (;;) await appendFile(this.#filler, bytes);
			} catch (error) {
				if (systemCode(error) !== "ENOSPC") throw error;
			}
		}
	}

	async heal(): Promise<void> {
		await truncate(this.#filler, 0);
	}

	async sizeOf(...path: string[]): Promise<number> {
		return (await stat(join(this.folder, ...path))).size;
	}
}
