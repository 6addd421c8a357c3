import { createHash } from "node:crypto";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { systemCode } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { failure } from "../leveldb/failures.ts";
import { makeFolder, syncFolder } from "../leveldb/folders.ts";
import type { DigestedFile, Digester } from "./digester.ts";

const BATCH = 1024 * 1024;
/** The disk is set to work each time that so much more was written, so that little is left for the end. */
const SYNC_EVERY = 32 * BATCH;

/**
 * Writes one file that appears whole or not at all: under a temporary name, hashed on the way, synced, renamed, and the folder
 * synced. Two batches are used in turn, so that the next one fills while the last is being written; memory stays at 2 MiB.
 */
export class ObjectWriter {
	readonly #temporary: string;
	readonly #handle: FileHandle;
	readonly #file: DigestedFile;
	#filling = new Uint8Array(new SharedArrayBuffer(BATCH));
	#spare: Uint8Array<SharedArrayBuffer> | undefined;
	/** The batch before; undefined until one was full. */
	#flushing: Promise<void> | undefined;
	#filled = 0;
	#size = 0;
	#syncing: Promise<void> | undefined;
	/** What an early sync failed with. */
	#failed: { readonly error: unknown } | undefined;
	#synced = 0;
	#path: string;

	private constructor(temporary: string, handle: FileHandle, digester: Digester) {
		this.#temporary = temporary;
		this.#path = temporary;
		this.#handle = handle;
		this.#file = digester.file(handle.fd);
	}

	static async open(temporary: string, digester: Digester): Promise<ObjectWriter> {
		try {
			return new ObjectWriter(temporary, await open(temporary, "wx", 0o600), digester);
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
			const sha256 = await this.#end();
			await this.#syncing;
			if (this.#failed !== undefined) throw this.#failed.error;
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
			return { size: this.#size, sha256 };
		} catch (error) {
			throw failure(error, "cannot store the blob");
		}
	}

	/** Gives up the file but leaves it to the next sweep. */
	async close(): Promise<void> {
		await Promise.allSettled([this.#flushing, this.#syncing]);
		this.#file.forget();
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

	/** Hands the full batch to the other thread, once that is through with the one before. */
	async #flush(): Promise<void> {
		await this.#flushing;
		const full = this.#filling;
		this.#flushing = this.#write(full.buffer, this.#filled);
		// The failure is thrown where it is awaited: at the next flush, or in finish.
		this.#flushing.catch(() => undefined);
		this.#filling = this.#spare ?? new Uint8Array(new SharedArrayBuffer(BATCH));
		this.#spare = full;
		this.#filled = 0;
	}

	async #write(bytes: SharedArrayBuffer, length: number): Promise<void> {
		try {
			const position = this.#size;
			this.#size += length;
			await this.#file.write(bytes, length, position);
			failpoint("blob.half_written");
			this.#syncEarly();
		} catch (error) {
			throw failure(error, "cannot store the blob");
		}
	}

	/** Writes the rest; → the digest of everything. What fits into one batch is not worth another thread. */
	async #end(): Promise<string> {
		const rest = this.#filling.subarray(0, this.#filled);
		if (this.#flushing !== undefined) {
			if (rest.length > 0) await this.#flush();
			await this.#flushing;
			return this.#file.digest();
		}
		for (let written = 0; written < rest.length; )
			written += (await this.#handle.write(rest, written, rest.length - written, written)).bytesWritten;
		this.#size = rest.length;
		failpoint("blob.half_written");
		return createHash("sha256").update(rest).digest("hex");
	}

	/**
	 * Syncs beside the writing, so that the disk is not idle until the end. The kernel tells of a failed write-back once:
	 * whichever sync hears of it, the put fails and none is tried again.
	 */
	#syncEarly(): void {
		if (this.#syncing !== undefined || this.#size - this.#synced < SYNC_EVERY) return;
		this.#synced = this.#size;
		this.#syncing = this.#handle.datasync().then(
			() => {
				this.#syncing = undefined;
			},
			(error: unknown) => {
				this.#failed = { error };
			},
		);
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
