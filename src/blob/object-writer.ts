import { createHash } from "node:crypto";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { systemCode } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { failure } from "../leveldb/failures.ts";
import { makeFolder, syncFolder } from "../leveldb/folders.ts";

const BATCH = 1024 * 1024;

/**
 * Writes one file that appears whole or not at all: under a temporary name, hashed on the way, synced, renamed, and the folder
 * synced. Two batches are used in turn, so that the next one fills while the last is being written; memory stays at 2 MiB.
 */
export class ObjectWriter {
	readonly #temporary: string;
	readonly #handle: FileHandle;
	readonly #hash = createHash("sha256");
	#filling: Buffer = Buffer.allocUnsafeSlow(BATCH);
	#spare: Buffer | undefined;
	#filled = 0;
	#size = 0;
	#flushing: Promise<void> = Promise.resolve();
	#path: string;

	private constructor(temporary: string, handle: FileHandle) {
		this.#temporary = temporary;
		this.#path = temporary;
		this.#handle = handle;
	}

	static async open(temporary: string): Promise<ObjectWriter> {
		try {
			return new ObjectWriter(temporary, await open(temporary, "wx", 0o600));
		} catch (error) {
			throw failure(error, "cannot store the blob");
		}
	}

	/** Copies the chunk; resolves when there is room for the next. */
	async write(chunk: Uint8Array): Promise<void> {
		for (let offset = 0; offset < chunk.length; ) {
			const end = Math.min(chunk.length, offset + BATCH - this.#filled);
			this.#filling.set(chunk.subarray(offset, end), this.#filled);
			this.#filled += end - offset;
			offset = end;
			if (this.#filled === BATCH) await this.#flush();
		}
	}

	/** Makes the bytes durable at `path`. */
	async finish(path: string): Promise<{ size: number; sha256: string }> {
		try {
			await this.#flush();
			await this.#flushing;
			failpoint("blob.before_fsync");
			await this.#handle.sync();
			failpoint("blob.after_fsync");
			await this.#handle.close();
			await makeFolder(dirname(path));
			await rename(this.#temporary, path);
			this.#path = path;
			failpoint("blob.after_rename");
			await syncFolder(dirname(path));
			failpoint("blob.after_dir_fsync");
		} catch (error) {
			throw failure(error, "cannot store the blob");
		}
		return { size: this.#size, sha256: this.#hash.digest("hex") };
	}

	/** Gives up the file but leaves it to the next sweep. */
	async close(): Promise<void> {
		await Promise.allSettled([this.#flushing]);
		await this.#handle.close();
	}

	/** Removes what was written, wherever it is by now. */
	async discard(): Promise<void> {
		try {
			await this.close();
		} finally {
			await removeFile(this.#path);
		}
	}

	async #flush(): Promise<void> {
		const batch = this.#filling.subarray(0, this.#filled);
		await this.#flushing;
		if (batch.length === 0) return;
		this.#flushing = this.#writeBatch(batch);
		// The failure is thrown where it is awaited: at the next flush, or in finish.
		this.#flushing.catch(() => undefined);
		const full = this.#filling;
		this.#filling = this.#spare ?? Buffer.allocUnsafeSlow(BATCH);
		this.#spare = full;
		this.#filled = 0;
	}

	async #writeBatch(batch: Buffer): Promise<void> {
		try {
			const position = this.#size;
			this.#size += batch.length;
			const writing = this.#writeWhole(batch, position);
			this.#hash.update(batch);
			await writing;
			failpoint("blob.half_written");
		} catch (error) {
			throw failure(error, "cannot store the blob");
		}
	}

	async #writeWhole(batch: Buffer, position: number): Promise<void> {
		for (let written = 0; written < batch.length; ) {
			const { bytesWritten } = await this.#handle.write(batch, written, batch.length - written, position + written);
			written += bytesWritten;
		}
	}
}

/** One that is gone already is no error. */
export async function removeFile(path: string): Promise<void> {
	try {
		await unlink(path);
	} catch (error) {
		if (systemCode(error) !== "ENOENT") throw failure(error, "cannot remove a blob's file");
	}
}
