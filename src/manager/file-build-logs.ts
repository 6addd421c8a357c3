import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Call } from "../blob/store.ts";
import { messageOf, systemCode } from "../errors.ts";
import type { BuildLogLine, BuildLogs, BuildLogWriter } from "./build-log.ts";

const POLL_MS = 50;
const ENDING = ".ndjson";

/** Build logs as NDJSON files, one for each revision, below one folder. */
export class FileBuildLogs implements BuildLogs {
	readonly #folder: string;
	readonly #maxBytes: number;
	readonly #now: () => Date;

	/** `maxBytes` bounds one log; what comes after is left out, and a last line says so. */
	constructor(folder: string, options: { maxBytes: number; now?: () => Date }) {
		this.#folder = folder;
		this.#maxBytes = options.maxBytes;
		this.#now = options.now ?? (() => new Date());
	}

	async open(serviceId: string, revision: number): Promise<BuildLogWriter> {
		const file = this.#file(serviceId, revision);
		await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
		const handle = await open(file, "a+", 0o600);
		const { seq, bytes } = await lastGood(file, handle);
		return new Writer(handle, seq, bytes, this.#maxBytes, this.#now);
	}

	async *read(
		serviceId: string,
		revision: number,
		query: { after: number; follow: boolean; ended: () => Promise<boolean> },
		call: Call,
	): AsyncIterable<BuildLogLine> {
		const file = this.#file(serviceId, revision);
		let offset = 0;
		while (!call.signal.aborted) {
			// Asked before reading, so that what was written up to the end is read for certain.
			const last = !query.follow || (await query.ended());
			for await (const { line, end } of completeLines(file, offset, call.signal)) {
				offset = end;
				if (line.seq > query.after) yield line;
			}
			if (last) return;
			await delay(POLL_MS, undefined, { signal: call.signal }).catch(() => undefined);
		}
	}

	async revisions(serviceId: string): Promise<number[]> {
		try {
			const names = await readdir(path.join(this.#folder, serviceId));
			return names.flatMap((name) => (name.endsWith(ENDING) ? [Number(name.slice(0, -ENDING.length))] : []));
		} catch (error) {
			if (systemCode(error) === "ENOENT") return [];
			throw error;
		}
	}

	async remove(serviceId: string, revision?: number): Promise<void> {
		const place = revision === undefined ? path.join(this.#folder, serviceId) : this.#file(serviceId, revision);
		await rm(place, { recursive: true, force: true });
	}

	#file(serviceId: string, revision: number): string {
		return path.join(this.#folder, serviceId, `${revision}${ENDING}`);
	}
}

class Writer implements BuildLogWriter {
	readonly #handle: FileHandle;
	readonly #maxBytes: number;
	readonly #now: () => Date;
	#seq: number;
	#bytes: number;
	#full: boolean;
	#queue: string[] = [];
	#writing: Promise<void> | undefined;

	constructor(handle: FileHandle, seq: number, bytes: number, maxBytes: number, now: () => Date) {
		this.#handle = handle;
		this.#seq = seq;
		this.#bytes = bytes;
		this.#maxBytes = maxBytes;
		this.#full = bytes >= maxBytes;
		this.#now = now;
	}

	append(text: string): void {
		if (this.#full) return;
		const line = this.#line(text);
		this.#full = this.#bytes + line.length > this.#maxBytes;
		const kept = this.#full ? this.#line(`the log is cut here: it has reached ${this.#maxBytes} bytes`) : line;
		this.#seq++;
		this.#bytes += kept.length;
		this.#queue.push(kept);
		this.#writing ??= this.#drain();
	}

	async flush(): Promise<void> {
		await this.#writing;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.flush();
		await this.#handle.close();
	}

	#line(text: string): string {
		return `${JSON.stringify({ seq: this.#seq + 1, time: this.#now().toISOString(), text })}\n`;
	}

	async #drain(): Promise<void> {
		await null;
		while (this.#queue.length > 0) {
			const chunk = this.#queue.splice(0).join("");
			try {
				await this.#handle.appendFile(chunk);
			} catch (error) {
				// The build matters more than its log; the loss is visible as a jump in seq.
				process.emitWarning(`a build log could not be written: ${messageOf(error)}`);
			}
		}
		this.#writing = undefined;
	}
}

/** Cuts a line that a crash left torn, and finds where to go on. */
async function lastGood(file: string, handle: FileHandle): Promise<{ seq: number; bytes: number }> {
	let seq = 0;
	let bytes = 0;
	for await (const { line, end } of completeLines(file, 0, new AbortController().signal)) {
		seq = line.seq;
		bytes = end;
	}
	await handle.truncate(bytes);
	return { seq, bytes };
}

/** The lines that have their line end, from byte `start`; `end` is the offset behind each. A file that is not there has none. */
async function* completeLines(
	file: string,
	start: number,
	signal: AbortSignal,
): AsyncIterable<{ line: BuildLogLine; end: number }> {
	let end = start;
	let rest = Buffer.alloc(0);
	try {
		for await (const chunk of createReadStream(file, { start, signal })) {
			rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
			let from = 0;
			for (let at = rest.indexOf(10); at !== -1; at = rest.indexOf(10, from)) {
				end += at + 1 - from;
				yield { line: JSON.parse(rest.toString("utf8", from, at)), end };
				from = at + 1;
			}
			rest = rest.subarray(from);
		}
	} catch (error) {
		if (systemCode(error) === "ENOENT" || signal.aborted) return;
		throw error;
	}
}
