import { closeSync, constants, fstatSync, openSync, read, readSync, type Stats } from "node:fs";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { createGzip, type ZlibOptions } from "node:zlib";
import { CliError, messageOf, systemCode } from "../errors.ts";
import type { SourceFile } from "./files.ts";

export type ArchiveOptions = {
	readonly signal: AbortSignal;
	/** Called with the bytes of files read so far, about every quarter of a megabyte. */
	readonly onRead?: (bytes: number) => void;
};

const BLOCK = 512;
const BATCH = 256 * 1024;
/** Smaller files are read at once: a thread-pool turn for each costs more than the reading. */
const SMALL = 64 * 1024;
const readLarge = promisify(read);
// A high-water mark of one byte makes each write wait until its bytes are compressed: only then is the buffer free.
const GZIP: ZlibOptions & { writableHighWaterMark: number } = { level: 1, chunkSize: BATCH, writableHighWaterMark: 1 };
const OPEN_FLAGS = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0);

/**
 * Writes a tar.gz of the files to `sink`, which is awaited for each piece. The same files give the same bytes: sorted by
 * the caller, without times and owners, modes 644 and 755. One buffer is reused, so memory does not grow with the size.
 * Rejects with `source_changed` when a file changes while it is read.
 */
export async function writeArchive(
	files: Iterable<SourceFile>,
	sink: (piece: Buffer) => Promise<void>,
	options: ArchiveOptions,
): Promise<void> {
	const gzip = createGzip(GZIP);
	await pipeline(
		() => tar(files, options),
		gzip,
		async (compressed: AsyncIterable<Buffer>) => {
			for await (const piece of compressed) await sink(piece);
		},
		{ signal: options.signal },
	);
}

async function* tar(files: Iterable<SourceFile>, { onRead }: ArchiveOptions): AsyncGenerator<Buffer> {
	const batch = Buffer.allocUnsafeSlow(BATCH);
	let used = 0;
	let total = 0;
	for (const file of files) {
		const handle = openFile(file);
		try {
			const before = fstatSync(handle);
			if (!before.isFile()) throw changed(file);
			for (const block of headers(file.path, before.size, file.executable)) {
				if (used === BATCH) {
					yield batch;
					used = 0;
				}
				block.copy(batch, used);
				used += BLOCK;
			}
			for (let left = before.size; left > 0; ) {
				if (used === BATCH) {
					yield batch;
					onRead?.(total);
					used = 0;
				}
				const want = Math.min(left, BATCH - used);
				const got =
					before.size <= SMALL
						? readSync(handle, batch, used, want, null)
						: (await readLarge(handle, batch, used, want, null)).bytesRead;
				if (got === 0) throw changed(file);
				used += got;
				left -= got;
				total += got;
			}
			if (!same(before, fstatSync(handle))) throw changed(file);
		} finally {
			closeSync(handle);
		}
		const padding = (BLOCK - (used % BLOCK)) % BLOCK;
		batch.fill(0, used, used + padding);
		used += padding;
	}
	if (used > 0) yield batch.subarray(0, used);
	onRead?.(total);
	yield Buffer.alloc(2 * BLOCK);
}

function openFile(file: SourceFile): number {
	try {
		return openSync(file.absolute, OPEN_FLAGS);
	} catch (error) {
		const code = systemCode(error);
		if (code === "ELOOP" || code === "ENOENT") throw changed(file);
		throw new CliError(`Cannot read ${file.path}: ${messageOf(error)}`, {
			code: "source_unreadable",
			lines: ["Try:  name it in .runtimeignore"],
			cause: error,
		});
	}
}

function same(before: Stats, after: Stats): boolean {
	return before.size === after.size && before.mtimeMs === after.mtimeMs;
}

function changed(file: SourceFile): CliError {
	return new CliError(`${file.path} changed while it was being uploaded; nothing was created`, {
		code: "source_changed",
		lines: ["Try again once it is still, or name it in .runtimeignore"],
	});
}

/** A ustar header, with a pax one before it where the name or the size does not fit. */
export function headers(path: string, size: number, executable: boolean): Buffer[] {
	const mode = executable ? 0o755 : 0o644;
	const fits = /^[\x20-\x7e]{1,100}$/.test(path);
	const records: Buffer[] = [];
	if (!fits) records.push(paxRecord("path", path));
	if (size >= 8 ** 11) records.push(paxRecord("size", String(size)));
	const own = header(fits ? path : ascii(path), size >= 8 ** 11 ? 0 : size, mode, "0");
	if (records.length === 0) return [own];
	const body = Buffer.concat(records);
	const blocks = [header("PaxHeader", body.length, 0o644, "x")];
	for (let from = 0; from < body.length; from += BLOCK) {
		const block = Buffer.alloc(BLOCK);
		body.copy(block, 0, from);
		blocks.push(block);
	}
	return [...blocks, own];
}

function ascii(path: string): string {
	return path
		.replace(/[^\x20-\x7e]/g, "_")
		.slice(-100)
		.replace(/^\/+/, "");
}

/** `LENGTH key=value\n`, where the length counts itself. */
function paxRecord(key: string, value: string): Buffer {
	const rest = Buffer.byteLength(` ${key}=${value}\n`);
	let length = rest + String(rest).length;
	if (rest + String(length).length !== length) length = rest + String(length).length;
	return Buffer.from(`${length} ${key}=${value}\n`);
}

function header(name: string, size: number, mode: number, type: "0" | "x"): Buffer {
	const block = Buffer.alloc(BLOCK);
	const octal = (value: number, at: number, length: number) =>
		block.write(value.toString(8).padStart(length - 1, "0"), at, "latin1");
	block.write(name, 0, 100, "latin1");
	octal(mode, 100, 8);
	octal(0, 108, 8);
	octal(0, 116, 8);
	octal(size, 124, 12);
	octal(0, 136, 12);
	block.fill(0x20, 148, 156);
	block.write(type, 156, "latin1");
	block.write("ustar\u000000", 257, "latin1");
	octal(0, 329, 8);
	octal(0, 337, 8);
	let sum = 0;
	for (const byte of block) sum += byte;
	block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
	return block;
}
