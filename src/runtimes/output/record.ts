import type { LogLine } from "../runtime.ts";

/**
 * The lines of a segment file. A record is a LogLine plus where its raw bytes end; a checkpoint says how far each raw file
 * is consumed, so that nobody has to read all records to know it. Both are one JSON object a line.
 */
export type LogRecord = LogLine & {
	/** The raw file, relative to the log's folder. */
	readonly file: string;
	/** How far it is consumed with this line. */
	readonly end: Cursor;
};

/** How far a source is consumed: bytes of a raw file, or what a source that is no file goes on by. */
export type Cursor = number | string;

export type Checkpoint = { readonly offsets: Readonly<Record<string, Cursor>> };

/** Digits of the first sequence number in a segment's name, so that names sort as numbers do. */
const DIGITS = 15;

export function segmentName(firstSeq: number): string {
	return `${String(firstSeq).padStart(DIGITS, "0")}.ndjson`;
}

/** The first sequence number that a segment of this name holds, or null for any other file. */
export function firstSeqOf(name: string): number | null {
	return /^[0-9]{15}\.ndjson$/.test(name) ? Number.parseInt(name, 10) : null;
}

/** What the records of one raw file at one time have in common, as text. */
export function formatOrigin(
	time: string,
	origin: Pick<LogRecord, "revision" | "instance" | "stream" | "file">,
): string {
	const { revision, instance, stream, file } = origin;
	return JSON.stringify({ time, revision, instance, stream, file }).slice(1, -1);
}

/** A record's line: by hand, since a flood of output makes a million of them. `origin` is from `formatOrigin`. */
export function formatRecord(seq: number, origin: string, end: Cursor, text: string): string {
	return `{"seq":${seq},${origin},"end":${typeof end === "number" ? end : JSON.stringify(end)},"text":${JSON.stringify(text)}}\n`;
}

export function formatCheckpoint(offsets: ReadonlyMap<string, Cursor>): string {
	return `${JSON.stringify({ offsets: Object.fromEntries(offsets) })}\n`;
}

function isObject(value: unknown): value is Record<string, unknown> {
	return typeof value === "object" && value !== null;
}

function isCursor(value: unknown): value is Cursor {
	return typeof value === "number" || typeof value === "string";
}

/** Null for what is no line of ours: a damaged one is passed over, not a reason to show nothing. */
export function parseLine(line: string): LogRecord | Checkpoint | null {
	let value: unknown;
	try {
		value = JSON.parse(line);
	} catch (error) {
		if (!(error instanceof SyntaxError)) throw error;
		return null;
	}
	if (!isObject(value)) return null;
	if (isObject(value.offsets)) {
		const offsets: Record<string, Cursor> = {};
		for (const [file, end] of Object.entries(value.offsets)) if (isCursor(end)) offsets[file] = end;
		return { offsets };
	}
	const { seq, time, revision, instance, stream, text, file, end } = value;
	if (typeof seq !== "number" || typeof time !== "string" || typeof revision !== "number") return null;
	if (typeof instance !== "string" || typeof text !== "string" || typeof file !== "string") return null;
	if (!isCursor(end) || (stream !== "stdout" && stream !== "stderr")) return null;
	return { seq, time, revision, instance, stream, text, file, end };
}
