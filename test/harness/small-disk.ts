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

	/** For a test's `skip`: why there cannot be one, or false. */
	static async missing(): Promise<string | false> {
		const folder = await mkdtemp(join(tmpdir(), "small-disk-"));
		try {
			await mount(folder, "1m");
			await run("umount", [folder]);
			return false;
		} catch {
			return "this user may not mount a file system";
		} finally {
			await rm(folder, { recursive: true });
		}
	}

	/** Unmounted when the test is over. */
	static async mount(t: Test, size = "64m"): Promise<SmallDisk> {
		const folder = await mkdtemp(join(tmpdir(), "small-disk-"));
		await mount(folder, size);
		t.teardown(async () => {
			await run("umount", ["--lazy", folder]);
			await rm(folder, { recursive: true });
		});
		return new SmallDisk(folder);
	}

	get #filler(): string {
		return join(this.folder, "filler");
	}

	/** Not a byte more fits on it afterwards, unless somebody gives something back meanwhile. */
	async fill(): Promise<void> {
		for (let full = false; !full; ) {
			full = true;
			for (let piece = 1024 * 1024; piece >= 1; piece /= 16) {
				// What is given back meanwhile is not filled byte by byte.
				for (let count = 0; count < 64 && (await this.#append(piece)); count++) full = false;
			}
		}
	}

	async #append(bytes: number): Promise<boolean> {
		try {
			await appendFile(this.#filler, Buffer.alloc(bytes, 1));
			return true;
		} catch (error) {
			if (systemCode(error) === "ENOSPC") return false;
			throw error;
		}
	}

	async heal(): Promise<void> {
		await truncate(this.#filler, 0);
	}

	async sizeOf(...path: string[]): Promise<number> {
		return (await stat(join(this.folder, ...path))).size;
	}
}

async function mount(folder: string, size: string): Promise<void> {
	await run("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder]);
}
