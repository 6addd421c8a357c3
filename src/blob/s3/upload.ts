import { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import {
	AbortMultipartUploadCommand,
	CompleteMultipartUploadCommand,
	type S3Client,
	UploadPartCommand,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { AppError, cancelled, isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { Bucket } from "./bucket.ts";
import { Chunks } from "./chunks.ts";
import { failureOf } from "./failures.ts";

/** How long requests under way may go on after an abort: one that is cut may be carried out after we have cleaned up. */
const GRACE_MS = 2_000;
const CLEAN_UP_MS = 15_000;

export type Uploaded = { readonly size: number; readonly sha256: string; readonly etag: string };

/**
 * Streams a body into one data object, in parts as they fill; memory is about (parallel parts + 2) × part size. Rejects with the
 * body's own error, with `cancelled`, or as a Bucket does; then neither object nor unfinished upload is left, as far as the
 * endpoint could be reached.
 */
export async function upload(
	bucket: Bucket,
	name: string,
	body: AsyncIterable<Uint8Array>,
	signal: AbortSignal,
): Promise<Uploaded> {
	const { partSize, parallelParts } = bucket.settings;
	const chunks = new Chunks(partSize);
	// The first part that fails must stop the body: the SDK would go on to send all the others.
	const stop = new AbortController();
	const requests = new Requests(bucket.client, partSize, AbortSignal.any([signal, stop.signal]), (error) =>
		stop.abort(error),
	);
	const source = Readable.from(chunks.of(body, AbortSignal.any([signal, stop.signal])), { highWaterMark: 1 });
	const upload = new Upload({
		client: requests.client,
		params: { Bucket: bucket.name, Key: name, Body: source, ContentType: "application/octet-stream" },
		...{ partSize, queueSize: parallelParts },
	});
	try {
		try {
			await upload.done();
		} catch (error) {
			// An answer that was lost, and the next try found the upload gone.
			if (!chunks.ended || !requests.completing || signal.aborted) throw error;
		}
		return await verified(bucket, name, chunks, requests, signal);
	} catch (error) {
		source.destroy();
		await cleanUp(bucket, name, requests);
		throw reasonOf(error, chunks, requests, signal);
	} finally {
		requests.close();
	}
}

/** Asks the endpoint what it has, before anything refers to it. */
async function verified(
	bucket: Bucket,
	name: string,
	chunks: Chunks,
	requests: Requests,
	signal: AbortSignal,
): Promise<Uploaded> {
	try {
		const { size, etag } = await bucket.head(name, { signal });
		if (size === chunks.size) return { size, etag, sha256: chunks.digest() };
	} catch (error) {
		if (!isAppError(error, "not_found")) throw error;
	}
	if (requests.failed !== undefined) throw requests.failed.error;
	throw new AppError("unavailable", "the S3 endpoint does not have all bytes that it was sent");
}

function reasonOf(error: unknown, chunks: Chunks, requests: Requests, signal: AbortSignal): unknown {
	if (requests.failed !== undefined) return failureOf(requests.failed.operation, requests.failed.error);
	if (chunks.failed !== undefined) return chunks.failed.error;
	if (signal.aborted) return cancelled(signal);
	return failureOf("Upload", error);
}

async function cleanUp(bucket: Bucket, name: string, requests: Requests): Promise<void> {
	if (!requests.any) return;
	const call = { signal: AbortSignal.timeout(CLEAN_UP_MS) };
	try {
		// A part that was under way may bring an upload back; that is soon over.
		for (let open = true, tries = 0; open && tries < 5; tries++) {
			open = false;
			for await (const found of bucket.uploads(name, call)) {
				open = true;
				await bucket.abortUpload(found, call);
			}
			if (open && tries > 0) await delay(100, undefined, call);
		}
		await bucket.remove(name, call);
	} catch {
		// The endpoint is away: what is left is the sweep's.
	}
}

/** Stands before the SDK's client: learns of failures, and lets requests end that are under way when the signal fires. */
class Requests {
	readonly client: S3Client;
	readonly #late = new AbortController();
	readonly #signal: AbortSignal;
	readonly #onAbort: () => void;
	readonly #onFailure: (error: unknown) => void;
	readonly #buffers: PartBuffers;
	#timer: NodeJS.Timeout | undefined;
	#any = false;
	#completing = false;
	#failed: { readonly operation: string; readonly error: unknown } | undefined;

	constructor(client: S3Client, partSize: number, signal: AbortSignal, onFailure: (error: unknown) => void) {
		this.#buffers = new PartBuffers(partSize);
		this.#signal = signal;
		this.#onFailure = onFailure;
		this.#onAbort = () => {
			this.#timer = setTimeout(() => this.#late.abort(signal.reason), GRACE_MS);
		};
		signal.addEventListener("abort", this.#onAbort, { once: true });
		this.client = new Proxy(client, {
			get: (target, property) =>
				property === "send"
					? (command: Parameters<S3Client["send"]>[0]) => this.#send(target, command)
					: Reflect.get(target, property, target),
		});
	}

	/** Whether anything was sent. */
	get any(): boolean {
		return this.#any;
	}

	/** Whether all parts were there. */
	get completing(): boolean {
		return this.#completing;
	}

	/** The first failure that was no consequence of another. */
	get failed(): { readonly operation: string; readonly error: unknown } | undefined {
		return this.#failed;
	}

	close(): void {
		clearTimeout(this.#timer);
		this.#signal.removeEventListener("abort", this.#onAbort);
	}

	async #send(client: S3Client, command: Parameters<S3Client["send"]>[0]): Promise<unknown> {
		// We clean up ourselves, and more.
		if (command instanceof AbortMultipartUploadCommand) return {};
		if (this.#signal.aborted) throw this.#signal.reason;
		this.#any = true;
		if (command instanceof CompleteMultipartUploadCommand) this.#completing = true;
		const part = command instanceof UploadPartCommand ? command.input : undefined;
		if (part !== undefined) this.#buffers.started(part);
		try {
			const reply = await client.send(command, { abortSignal: this.#late.signal });
			if (part !== undefined) {
				this.#buffers.ended(part);
				failpoint("s3.part_sent");
			}
			return reply;
		} catch (error) {
			if (!this.#signal.aborted) {
				this.#failed = { operation: command.constructor.name.replace(/Command$/, ""), error };
				this.#onFailure(error);
			}
			throw error;
		}
	}
}

type SentPart = { readonly PartNumber?: number | undefined; readonly Body?: unknown };

/**
 * Gives the memory of sent parts back at once: the collector would let many of them come together. The SDK cuts a part off a buffer
 * whose rest begins the next one, so that a buffer is free when its part was sent and the next part has been made.
 */
class PartBuffers {
	readonly #partSize: number;
	readonly #parts = new Map<number, { readonly buffer: ArrayBuffer; ended: boolean }>();

	constructor(partSize: number) {
		this.#partSize = partSize;
	}

	started({ PartNumber, Body }: SentPart): void {
		if (PartNumber === undefined || !(Body instanceof Uint8Array) || !(Body.buffer instanceof ArrayBuffer)) return;
		this.#parts.set(PartNumber, { buffer: Body.buffer, ended: false });
		this.#release(PartNumber - 1);
	}

	ended({ PartNumber = 0 }: SentPart): void {
		const part = this.#parts.get(PartNumber);
		if (part === undefined) return;
		part.ended = true;
		this.#release(PartNumber);
	}

	#release(number: number): void {
		const part = this.#parts.get(number);
		const next = this.#parts.get(number + 1);
		if (part?.ended !== true || next === undefined || next.buffer === part.buffer) return;
		// A small one lies in a pool that others use.
		if (part.buffer.byteLength >= this.#partSize) part.buffer.transfer(0);
	}
}
