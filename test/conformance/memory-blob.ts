import { createHash } from "node:crypto";
import { cancellable } from "../../src/blob/cancellable.ts";
import { boundsOf } from "../../src/blob/entry.ts";
import type { BlobInfo, BlobStore, ByteRange, Call } from "../../src/blob/store.ts";
import { AppError, cancelled } from "../../src/errors.ts";

/** A blob store for tests of what stands above one. Not bounded: it is all memory. */
export class MemoryBlobStore implements BlobStore {
	readonly #blobs = new Map<string, { info: BlobInfo; bytes: Buffer }>();
	readonly #closing = new AbortController();

	async put(key: string, body: AsyncIterable<Uint8Array>, call: Call): Promise<BlobInfo> {
		this.#check(call);
		const chunks: Buffer[] = [];
		for await (const chunk of cancellable(body, AbortSignal.any([call.signal, this.#closing.signal])))
			chunks.push(Buffer.from(chunk));
		this.#check(call);
		if (this.#blobs.has(key)) throw new AppError("conflict", `blob ${key} exists already`);
		const bytes = Buffer.concat(chunks);
		const sha256 = createHash("sha256").update(bytes).digest("hex");
		const info = { key, size: bytes.length, sha256, createdAt: new Date().toISOString() };
		this.#blobs.set(key, { info, bytes });
		return info;
	}

	async get(key: string, call: Call & { readonly range?: ByteRange }): Promise<AsyncIterable<Uint8Array>> {
		this.#check(call);
		const blob = this.#find(key);
		const { size } = blob.info;
		const { start, end } = boundsOf(call.range, size);
		const check = () => {
			this.#check(call);
			if (blob.bytes.length !== size) throw new AppError("damaged", `blob ${key} has lost bytes`);
		};
		check();
		return (async function* () {
			for (let offset = start; offset < end; offset += 65_536) {
				check();
				yield blob.bytes.subarray(offset, Math.min(end, offset + 65_536));
			}
		})();
	}

	/** As a disk may: behind the back of whoever asks. */
	cut(size: number): void {
		for (const blob of this.#blobs.values()) blob.bytes = blob.bytes.subarray(0, size);
	}

	async stat(key: string, call: Call): Promise<BlobInfo> {
		this.#check(call);
		return this.#find(key).info;
	}

	async *list(prefix: string, call: Call): AsyncGenerator<string> {
		this.#check(call);
		for (const key of [...this.#blobs.keys()].sort()) {
			this.#check(call);
			if (key.startsWith(prefix)) yield key;
		}
	}

	async delete(key: string, call: Call): Promise<void> {
		this.#check(call);
		this.#blobs.delete(key);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closing.abort(new AppError("unavailable", "the blob store is closed"));
	}

	#find(key: string): { info: BlobInfo; bytes: Buffer } {
		const blob = this.#blobs.get(key);
		if (blob === undefined) throw new AppError("not_found", `there is no blob ${key}`);
		return blob;
	}

	#check(call: Call): void {
		if (this.#closing.signal.aborted) throw cancelled(this.#closing.signal);
		if (call.signal.aborted) throw cancelled(call.signal);
	}
}
