import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { type Extract, extract } from "tar-stream";
import type { Call } from "../blob/store.ts";
import { AppError, cancelled, messageOf, systemCode } from "../errors.ts";
import { EntryNames, type NameLimits, refusal } from "./entry-names.ts";

export type UnpackLimits = NameLimits & {
	/** Bytes of all files together, and of the unzipped archive. */
	readonly bytes: number;
	/** Unzipped bytes per zipped byte, once `ratioFrom` bytes are unzipped. */
	readonly ratio: number;
	readonly ratioFrom: number;
};

export const DEFAULT_UNPACK_LIMITS: UnpackLimits = {
	entries: 100_000,
	path: 1024,
	segment: 255,
	bytes: 4 * 1024 ** 3,
	ratio: 200,
	ratioFrom: 10 * 1024 ** 2,
};

/** Old archives without a `ustar` mark are read too; every header's checksum still has to be right. */
const PARSER_OPTIONS = { highWaterMark: 64 * 1024, allowUnknownFormat: true };

const BLOCK = 512;
const END_MARKER = 2 * BLOCK;

/**
 * Unpacks a tar.gz into the folder `into`, which is made where it does not exist and must be empty.
 *
 * Only files (644, or 755 where the owner may execute) and folders (755) are written; whatever else an archive can hold is
 * refused, and so is what is broken, cut short or too large: `invalid_argument` with a message that names the entry.
 * Rejects with `no_space` when the disk is full. After any error the caller removes `into`.
 */
export async function unpack(
	archive: AsyncIterable<Uint8Array>,
	into: string,
	limits: Partial<UnpackLimits>,
	call: Call,
): Promise<{ files: number; bytes: number }> {
	const bounds = { ...DEFAULT_UNPACK_LIMITS, ...limits };
	if (call.signal.aborted) throw cancelled(call.signal);
	const stop = new AbortController();
	const signal = AbortSignal.any([call.signal, stop.signal]);
	const parser = extract(PARSER_OPTIONS);
	const feed = new Feed(bounds);
	let failure: { readonly error: unknown } | undefined;
	const fail = (error: unknown) => {
		failure ??= { error };
		stop.abort();
		parser.destroy(null);
		return undefined;
	};
	try {
		await mkdir(into, { recursive: true, mode: 0o755 });
	} catch (error) {
		throw explain(error, feed);
	}
	// The writer listens before the first byte comes: the parser does not repeat itself.
	const writing = writeEntries(parser, into, bounds, signal).catch(fail);
	const [result] = await Promise.all([writing, feed.run(archive, parser, signal).catch(fail)]);
	if (call.signal.aborted) throw cancelled(call.signal);
	if (failure !== undefined) throw explain(failure.error, feed);
	if (result === undefined || !feed.ended) throw new AppError("internal", "the source was not unpacked to its end");
	if (feed.zeros < END_MARKER + result.unpaddedZeros)
		throw broken("is cut short: its end-of-archive marker is missing");
	return { files: result.files, bytes: result.bytes };
}

function broken(what: string, cause?: unknown): AppError {
	return new AppError("invalid_argument", `the archive ${what}`, {
		cause,
		hint: "Send a complete tar.gz, as `tar -czf` makes it.",
	});
}

/** Says in words what went wrong; only zlib's and the system's codes are looked at. */
function explain(error: unknown, feed: Feed): unknown {
	if (error instanceof AppError) return error;
	switch (systemCode(error)) {
		case "Z_BUF_ERROR":
			return broken(feed.zipped === 0 ? "is empty" : "is cut short: its gzip data ends too early", error);
		case "Z_DATA_ERROR":
		case "Z_NEED_DICT":
			return broken(
				feed.startsAsGzip ? `is damaged: its gzip data is not valid (${messageOf(error)})` : "is not gzip data",
				error,
			);
		case "ENOSPC":
		case "EDQUOT":
			return new AppError("no_space", "the disk is full while unpacking the source", { cause: error });
		case undefined:
		case "STREAM_DESTROYED":
			if (feed.ended) return broken("is cut short: it ends within an entry", error);
			return broken(`is damaged: its tar data is not valid (${messageOf(error)})`, error);
		default:
			return new AppError("internal", "the source could not be unpacked", { cause: error });
	}
}

/** Unzips the archive into the parser, counting. */
class Feed {
	zipped = 0;
	/** Zero bytes at the end of what has been unzipped: padding and the end-of-archive marker. */
	zeros = 0;
	startsAsGzip = false;
	ended = false;
	#unzipped = 0;
	#head: number[] = [];
	readonly #limits: UnpackLimits;

	constructor(limits: UnpackLimits) {
		this.#limits = limits;
	}

	async run(archive: AsyncIterable<Uint8Array>, parser: Extract, signal: AbortSignal): Promise<void> {
		const gunzip = createGunzip({ chunkSize: 128 * 1024 });
		await pipeline(
			this.#own(archive),
			gunzip,
			async (chunks: AsyncIterable<Buffer>) => {
				for await (const chunk of chunks) {
					this.#count(chunk);
					if (!parser.write(chunk)) await drained(parser);
				}
			},
			{ signal },
		);
		// zlib stops without a word at zero bytes behind a member and ignores what follows them.
		if (gunzip.bytesWritten !== this.zipped) throw broken("has bytes after the end of its gzip data");
		this.ended = true;
		parser.end(undefined);
	}

	/** Copies: a store may reuse a chunk's memory as soon as the next one is pulled, and zlib reads it later. */
	async *#own(archive: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
		try {
			for await (const chunk of archive) {
				this.zipped += chunk.byteLength;
				if (this.#head.length < 2) {
					this.#head.push(...chunk.subarray(0, 2 - this.#head.length));
					this.startsAsGzip = this.#head[0] === 0x1f && this.#head[1] === 0x8b;
				}
				yield Buffer.from(chunk);
			}
		} catch (error) {
			throw error instanceof AppError
				? error
				: new AppError("internal", "the archive could not be read", { cause: error });
		}
	}

	#count(chunk: Buffer): void {
		this.#unzipped += chunk.length;
		let index = chunk.length;
		while (index > 0 && chunk[index - 1] === 0) index--;
		this.zeros = index === 0 ? this.zeros + chunk.length : chunk.length - index;
		const { bytes, entries, ratio, ratioFrom } = this.#limits;
		// Headers and padding are at most about two blocks an entry; long names and the end come on top.
		if (this.#unzipped > bytes + entries * 4 * BLOCK + 16 * 1024 ** 2) throw tooLarge(bytes);
		if (this.#unzipped > ratioFrom && this.#unzipped > ratio * this.zipped)
			throw new AppError("invalid_argument", `the archive expands to more than ${ratio} times its size`, {
				hint: "It looks like a decompression bomb. Leave out large files that are nearly empty.",
			});
	}
}

function tooLarge(bytes: number): AppError {
	return new AppError("invalid_argument", `the archive unpacks to more than ${bytes} bytes`, {
		hint: "Leave out what the build does not need, with .runtimeignore for example.",
	});
}

function drained(parser: Extract): Promise<void> {
	return new Promise((resolve) => {
		const done = () => {
			parser.off("drain", done);
			parser.off("close", done);
			resolve();
		};
		parser.on("drain", done);
		parser.on("close", done);
		if (parser.destroyed) done();
	});
}

type Entry = Extract extends AsyncIterable<infer T> ? T : never;

/** The parser's own iterator waits for ever once the parser has been destroyed, both for an entry and for its own end. */
async function* entriesOf(parser: Extract): AsyncGenerator<Entry> {
	const entries = parser[Symbol.asyncIterator]();
	// After the iterator, so that an error reaches us as its error.
	const closed = new Promise<undefined>((resolve) => parser.once("close", () => resolve(undefined)));
	for (;;) {
		const next = await Promise.race([entries.next(), closed]);
		if (next === undefined || next.done === true) return;
		yield next.value;
	}
}

/** `unpaddedZeros`: how many zero bytes at the end of the stream belong to the last entry and not to the end marker. */
async function writeEntries(parser: Extract, into: string, limits: UnpackLimits, signal: AbortSignal) {
	const names = new EntryNames(limits);
	let files = 0;
	let bytes = 0;
	let unpaddedZeros = 0;
	for await (const entry of entriesOf(parser)) {
		if (signal.aborted) throw cancelled(signal);
		const { name, size = 0 } = entry.header;
		const kind = kindOf(entry);
		const { folders, path } = names.add(name, kind);
		for (const folder of folders) await written(name, mkdir(join(into, folder), { mode: 0o755 }));
		unpaddedZeros = 0;
		if (kind === "directory") {
			if (size > 0) throw refusal(name, "is a folder with content");
			continue;
		}
		bytes += size;
		if (bytes > limits.bytes) throw tooLarge(limits.bytes);
		const mode = ((entry.header.mode ?? 0) & 0o100) === 0 ? 0o644 : 0o755;
		unpaddedZeros = (await written(name, writeFile(join(into, path), mode, entry))) + padding(size);
		files++;
	}
	return { files, bytes, unpaddedZeros };
}

function padding(size: number): number {
	return (BLOCK - (size % BLOCK)) % BLOCK;
}

function kindOf(entry: Entry): "file" | "directory" {
	const { name, type, linkname } = entry.header;
	switch (type) {
		case "file":
		case "contiguous-file":
			return "file";
		case "directory":
			return "directory";
		case "link":
		case "symlink":
			throw refusal(
				name,
				`is a ${type === "link" ? "hard" : "symbolic"} link to ${JSON.stringify(linkname ?? "")}; links are not unpacked`,
			);
		case "character-device":
		case "block-device":
		case "fifo":
			throw refusal(name, `is a ${type.replace("-", " ")}; only files and folders are unpacked`);
		default:
			throw refusal(name, "is of a kind that is not known; only files and folders are unpacked");
	}
}

/** Writes one file and returns how many zero bytes it ends with. */
async function writeFile(path: string, mode: number, body: AsyncIterable<unknown>): Promise<number> {
	await using file = await open(path, "wx", mode);
	let zeros = 0;
	for await (const chunk of body) {
		if (!(chunk instanceof Uint8Array)) throw new TypeError("the tar parser gave no bytes");
		let index = chunk.length;
		while (index > 0 && chunk[index - 1] === 0) index--;
		zeros = index === 0 ? zeros + chunk.length : chunk.length - index;
		for (let offset = 0; offset < chunk.length; )
			offset += (await file.write(chunk, offset, chunk.length - offset)).bytesWritten;
	}
	await file.chmod(mode);
	return zeros;
}

/** A name that our rules allow and this file system does not is the archive's fault, in words. */
async function written<T>(name: string, work: Promise<T>): Promise<T> {
	try {
		return await work;
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENAMETOOLONG" || code === "EILSEQ" || code === "EINVAL" || code === "EEXIST")
			throw refusal(name, `cannot be written here (${code})`, error);
		throw error;
	}
}
