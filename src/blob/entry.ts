import { AppError } from "../errors.ts";
import type { BlobInfo, ByteRange } from "./store.ts";

/** What the index holds about a blob. */
export type Entry = BlobInfo & {
	/** The name of its file; never made from the key, so two keys cannot meet in one file. */
	readonly object: string;
	/** Set by the scrub: the bytes do not match `sha256`. */
	readonly damaged: boolean;
};

/** The part of an entry that callers see. */
export function infoOf({ key, size, sha256, createdAt }: Entry): BlobInfo {
	return { key, size, sha256, createdAt };
}

export function encodeEntry({ object, size, sha256, createdAt, damaged }: Entry): string {
	return JSON.stringify({ object, size, sha256, createdAt, damaged });
}

/** Throws `internal` for what is no entry of any version. */
export function parseEntry(key: string, text: string): object {
	try {
		const value: unknown = JSON.parse(text);
		if (typeof value === "object" && value !== null) return value;
	} catch {
		// The same as any other text that is no entry.
	}
	throw unreadable(key);
}

/** Throws `internal` for what this version cannot read. */
export function decodeEntry(key: string, value: object): Entry {
	if (
		"object" in value &&
		typeof value.object === "string" &&
		"size" in value &&
		typeof value.size === "number" &&
		"sha256" in value &&
		typeof value.sha256 === "string" &&
		"createdAt" in value &&
		typeof value.createdAt === "string" &&
		"damaged" in value &&
		typeof value.damaged === "boolean"
	) {
		const { object, size, sha256, createdAt, damaged } = value;
		return { key, object, size, sha256, createdAt, damaged };
	}
	throw unreadable(key);
}

export function unreadable(key: string): AppError {
	return new AppError("internal", `the index entry of blob ${key} cannot be read: was it written by a newer version?`);
}

/** The bytes that a range means in a blob of `size` bytes, `end` exclusive. As in RFC 9110 an end past the last byte is cut. */
export function boundsOf(range: ByteRange | undefined, size: number): { start: number; end: number } {
	if (range === undefined) return { start: 0, end: size };
	const { start, end } = range;
	if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start || start >= size) {
		throw new AppError("range", `the range ${start}-${end} lies outside of the blob's ${size} bytes`, {
			field: "range",
		});
	}
	return { start, end: Math.min(end + 1, size) };
}
