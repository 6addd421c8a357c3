import { closeSync, ftruncateSync, openSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { AppError } from "../../errors.ts";
import { segmentName } from "./record.ts";

const LF = 0x0a;

/** The newest segment as its one writer sees it. The file ends with a whole line, whatever the disk takes. */
export class SegmentFile {
	readonly #fd: number;
	#size: number;

	private constructor(fd: number, size: number) {
		this.#fd = fd;
		this.#size = size;
	}

	/** One that is there, and holds so many bytes. */
	static append(file: string, size: number): SegmentFile {
		return new SegmentFile(openSync(file, "a"), size);
	}

	/** Complete with its first text or not there: by renaming. Throws `no_space` where the disk does not take it. */
	static begin(folder: string, firstSeq: number, text: string): SegmentFile {
		const temporary = join(folder, "segment.tmp");
		const size = Buffer.byteLength(text);
		const fd = openSync(temporary, "a");
		try {
			ftruncateSync(fd, 0);
			if (writeSync(fd, text) < size) throw new AppError("no_space", "the disk is full");
			renameSync(temporary, join(folder, segmentName(firstSeq)));
		} catch (error) {
			closeSync(fd);
			throw error;
		}
		return new SegmentFile(fd, size);
	}

	/** Bytes. */
	get size(): number {
		return this.#size;
	}

	/** Null when all was written; else how many whole lines were, and the file ends with them. */
	write(text: string): { readonly lines: number; readonly error: unknown } | null {
		const bytes = Buffer.from(text);
		let written = 0;
		try {
			while (written < bytes.length) written += writeSync(this.#fd, bytes, written);
		} catch (error) {
			const whole = written === 0 ? 0 : bytes.lastIndexOf(LF, written - 1) + 1;
			this.#size += whole;
			ftruncateSync(this.#fd, this.#size);
			let lines = 0;
			for (let at = bytes.indexOf(LF); at >= 0 && at < whole; at = bytes.indexOf(LF, at + 1)) lines++;
			return { lines, error };
		}
		this.#size += bytes.length;
		return null;
	}

	close(): void {
		closeSync(this.#fd);
	}
}
