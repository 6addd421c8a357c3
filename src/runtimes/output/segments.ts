import { type FileHandle, open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "../../errors.ts";
import { firstSeqOf, type LogRecord, parseLine, segmentName } from "./record.ts";

/** More than any line of a segment: 16 KiB of text, every byte escaped with six, and what goes with it. */
export const READ_BYTES = 256 * 1024;
const LF = 0x0a;

/** The first sequence numbers of the segments there are, ascending. No folder: none. */
export async function listSegments(folder: string): Promise<number[]> {
	let names: string[];
	try {
		names = await readdir(folder);
	} catch (error) {
		if (systemCode(error) === "ENOENT") return [];
		throw error;
	}
	return names
		.map(firstSeqOf)
		.filter((seq) => seq !== null)
		.sort((a, b) => a - b);
}

/** A segment being read; null when it has been rotated away meanwhile. */
export async function openSegment(folder: string, firstSeq: number): Promise<Segment | null> {
	try {
		return new Segment(firstSeq, await open(join(folder, segmentName(firstSeq)), "r"));
	} catch (error) {
		if (systemCode(error) === "ENOENT") return null;
		throw error;
	}
}

type Piece = {
	readonly records: readonly { readonly record: LogRecord; readonly start: number }[];
	/** Where the first line begins that is not complete. */
	readonly end: number;
};

/** Reads whole lines of one segment file, which its writer may be appending to. */
export class Segment implements AsyncDisposable {
	readonly firstSeq: number;
	readonly #handle: FileHandle;

	constructor(firstSeq: number, handle: FileHandle) {
		this.firstSeq = firstSeq;
		this.#handle = handle;
	}

	/** The complete lines from `start`, a line's beginning, on: some of them, none at the end. */
	async read(start: number): Promise<Piece> {
		const buffer = Buffer.allocUnsafe(READ_BYTES);
		const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, start);
		return cut(buffer.subarray(0, bytesRead), start, 0);
	}

	/** The last record, or null when there is none. */
	async last(): Promise<LogRecord | null> {
		const { size } = await this.#handle.stat();
		const buffer = Buffer.allocUnsafe(Math.min(size, 2 * READ_BYTES));
		const start = size - buffer.length;
		const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, start);
		const bytes = buffer.subarray(0, bytesRead);
		return cut(bytes, start, start === 0 ? 0 : bytes.indexOf(LF) + 1).records.at(-1)?.record ?? null;
	}

	/**
	 * The beginning of a line before which no record is wanted, close to the first that is. `wanted` is false for the
	 * first records and true for all after them.
	 */
	async seek(wanted: (record: LogRecord) => boolean): Promise<number> {
		let low = 0;
		let high = (await this.#handle.stat()).size;
		const buffer = Buffer.allocUnsafe(READ_BYTES);
		while (high - low > READ_BYTES / 2) {
			const middle = low + Math.floor((high - low) / 2);
			const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, middle);
			const bytes = buffer.subarray(0, bytesRead);
			const newline = bytes.indexOf(LF);
			const first = newline < 0 ? undefined : cut(bytes, middle, newline + 1, 1).records[0];
			if (first === undefined || first.start >= high || wanted(first.record)) high = middle;
			else low = first.start;
		}
		return low;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#handle.close();
	}
}

function cut(bytes: Buffer, start: number, from: number, most = Number.POSITIVE_INFINITY): Piece {
	const records: { record: LogRecord; start: number }[] = [];
	let at = from;
	while (records.length < most) {
		const newline = bytes.indexOf(LF, at);
		if (newline < 0) break;
		const line = parseLine(bytes.toString("utf8", at, newline));
		if (line !== null && "seq" in line) records.push({ record: line, start: start + at });
		at = newline + 1;
	}
	return { records, end: start + at };
}
