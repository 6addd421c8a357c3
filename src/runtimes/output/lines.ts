const LF = 0x0a;
const CR = 0x0d;

/** A longer line is cut into lines of this many bytes. */
export const LONGEST_LINE = 16 * 1024;

export type CutLine = {
	readonly text: string;
	/** Bytes from the start of the stream to behind this line and its end mark. */
	readonly end: number;
};

/**
 * Cuts a stream of bytes into lines. Lines are decoded whole, so that a character may lie over two pieces; bytes that are
 * no UTF-8 become U+FFFD; a CR before the LF is dropped.
 */
export class LineCutter {
	#pending: Buffer = Buffer.alloc(0);
	/** Where `#pending` begins. */
	#start: number;

	constructor(start: number) {
		this.#start = start;
	}

	/** Bytes that were given, and belong to no line yet. */
	get pendingBytes(): number {
		return this.#pending.length;
	}

	/** Bytes given so far, counted as `CutLine.end` is. */
	get position(): number {
		return this.#start + this.#pending.length;
	}

	push(piece: Buffer): CutLine[] {
		const lines: CutLine[] = [];
		const bytes = this.#pending.length === 0 ? piece : Buffer.concat([this.#pending, piece]);
		let from = 0;
		while (from < bytes.length) {
			const newline = bytes.indexOf(LF, from);
			const until = newline < 0 ? bytes.length : newline;
			if (until - from > LONGEST_LINE) {
				const cut = characterStart(bytes, from, from + LONGEST_LINE);
				lines.push({ text: bytes.toString("utf8", from, cut), end: this.#start + cut });
				from = cut;
				continue;
			}
			if (newline < 0) break;
			const trimmed = newline > from && bytes[newline - 1] === CR ? newline - 1 : newline;
			lines.push({ text: bytes.toString("utf8", from, trimmed), end: this.#start + newline + 1 });
			from = newline + 1;
		}
		this.#start += from;
		// A copy: the caller reuses its buffer for the next piece.
		this.#pending = Buffer.from(bytes.subarray(from));
		return lines;
	}

	/** What is left without an end mark, as a line; null when there is nothing. */
	finish(): CutLine | null {
		if (this.#pending.length === 0) return null;
		const bytes = this.#pending;
		const length = bytes[bytes.length - 1] === CR ? bytes.length - 1 : bytes.length;
		this.#start += bytes.length;
		this.#pending = Buffer.alloc(0);
		return { text: bytes.toString("utf8", 0, length), end: this.#start };
	}

	/** Goes on with another numbering: the file was cut to nothing. */
	restart(): void {
		this.#start = -this.#pending.length;
	}
}

/** The start of the character that lies over `at`, or `at` where the bytes are no UTF-8. */
function characterStart(bytes: Buffer, from: number, at: number): number {
	for (let back = 0; back < 4 && at - back > from; back++) {
		if (((bytes[at - back] ?? 0) & 0xc0) !== 0x80) return at - back;
	}
	return at;
}
