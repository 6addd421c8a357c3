import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import type { Reply, Request } from "./digest-worker.ts";

type Waiting = { readonly resolve: (reply: Reply) => void; readonly reject: (error: unknown) => void };

/**
 * Writes and hashes in a thread of its own, shared by all files that are being written: hashing takes longer than receiving, and
 * side by side an upload takes as long as the slower of them. The thread is started for the first batch.
 */
export class Digester implements AsyncDisposable {
	readonly #waiting = new Map<number, Waiting>();
	#worker: Worker | undefined;
	#files = 0;
	#closed = false;

	/** A file of its own name; its batches are hashed in the order of the calls. */
	file(fd: number): DigestedFile {
		return new DigestedFile(
			++this.#files,
			fd,
			(request) => this.#ask(request),
			(id) => this.#forget(id),
		);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closed = true;
		await this.#worker?.terminate();
	}

	#ask(request: Request): Promise<Reply> {
		if (this.#closed) return Promise.reject(new Error("the digester is closed"));
		return new Promise((resolve, reject) => {
			this.#waiting.set(request.id, { resolve, reject });
			this.#running().ref();
			this.#running().postMessage(request);
		});
	}

	#forget(id: number): void {
		this.#worker?.postMessage({ kind: "forget", id } satisfies Request);
	}

	#running(): Worker {
		if (this.#worker !== undefined) return this.#worker;
		// The extension is .ts in a clone and .js in the package.
		const worker = new Worker(new URL(`./digest-worker${extname(import.meta.url)}`, import.meta.url), {
			resourceLimits: { maxYoungGenerationSizeMb: 1 },
		});
		worker.on("message", (reply: Reply) => {
			const waiting = this.#waiting.get(reply.id);
			this.#waiting.delete(reply.id);
			if (this.#waiting.size === 0) worker.unref();
			waiting?.resolve(reply);
		});
		const lost = (error: unknown) => {
			if (this.#worker === worker) this.#worker = undefined;
			for (const waiting of this.#waiting.values()) waiting.reject(error);
			this.#waiting.clear();
		};
		worker.on("error", lost);
		worker.on("exit", (code) => lost(new Error(`the digester ended with ${code}`)));
		this.#worker = worker;
		return worker;
	}
}

/** One request at a time: whoever writes awaits the one before. */
export class DigestedFile {
	readonly #id: number;
	readonly #fd: number;
	readonly #ask: (request: Request) => Promise<Reply>;
	readonly #forget: (id: number) => void;

	constructor(id: number, fd: number, ask: (request: Request) => Promise<Reply>, forget: (id: number) => void) {
		this.#id = id;
		this.#fd = fd;
		this.#ask = ask;
		this.#forget = forget;
	}

	/** Rejects with the system's error. The bytes must stay as they are until it has resolved. */
	async write(bytes: SharedArrayBuffer, length: number, position: number): Promise<void> {
		checked(await this.#ask({ kind: "write", id: this.#id, fd: this.#fd, bytes, length, position }));
	}

	/** Lower-case hex SHA-256 of all that was written. */
	async digest(): Promise<string> {
		return checked(await this.#ask({ kind: "digest", id: this.#id })).digest ?? "";
	}

	/** The file was given up. */
	forget(): void {
		this.#forget(this.#id);
	}
}

function checked(reply: Reply): Reply {
	const { error } = reply;
	if (error === undefined) return reply;
	throw Object.assign(new Error(error.message), { code: error.code });
}
