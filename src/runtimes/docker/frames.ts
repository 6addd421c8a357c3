const HEADER = 8;
const STDERR = 2;
const SPACE = 0x20;
/** A time of day with nanoseconds takes 30. */
const LONGEST_TIME = 64;

/** A piece of one entry of a container's log. An entry is a line, or a part of a long one. */
export type Piece = {
	readonly stream: "stdout" | "stderr";
	/** RFC 3339 UTC with nanoseconds, always as long: compares as text. The parts of a long line have the same. */
	readonly time: string;
	readonly bytes: Buffer;
};

/**
 * Takes apart what the engine sends of a container's log, with timestamps: frames of an eight-byte header (stream, length) and
 * a payload, which is the time, a space and the entry. Holds no more than a header and a time.
 */
export class Frames {
	#head = Buffer.alloc(0);
	#left = 0;
	#stream: Piece["stream"] = "stdout";
	#time: string | null = null;

	push(chunk: Buffer): Piece[] {
		const pieces: Piece[] = [];
		let bytes = this.#head.length === 0 ? chunk : Buffer.concat([this.#head, chunk]);
		this.#head = Buffer.alloc(0);
		while (bytes.length > 0) {
			if (this.#left === 0) {
				if (bytes.length < HEADER) break;
				this.#stream = bytes[0] === STDERR ? "stderr" : "stdout";
				this.#left = bytes.readUInt32BE(4);
				this.#time = null;
				bytes = bytes.subarray(HEADER);
				continue;
			}
			if (this.#time === null) {
				const space = bytes.subarray(0, this.#left).indexOf(SPACE);
				if (space < 0 && bytes.length < Math.min(this.#left, LONGEST_TIME)) break;
				if (space < 0 || space > LONGEST_TIME) throw new Error("the engine sent an entry without its time");
				this.#time = bytes.toString("latin1", 0, space);
				this.#left -= space + 1;
				bytes = bytes.subarray(space + 1);
				continue;
			}
			const part = bytes.subarray(0, this.#left);
			pieces.push({ stream: this.#stream, time: this.#time, bytes: part });
			this.#left -= part.length;
			bytes = bytes.subarray(part.length);
		}
		// A copy: what is left is little, and must not keep the whole chunk.
		this.#head = Buffer.from(bytes);
		return pieces;
	}
}
