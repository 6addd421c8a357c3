import { StringDecoder } from "node:string_decoder";
import type { BuildLog } from "./builder.ts";

/** Characters of one line; what is longer is cut there and says so. */
export const MAX_LINE = 16 * 1024;

/** Cuts output into lines at LF, CRLF and CR (progress bars), with a limit on each line and on all of them. */
export class LineSplitter {
	readonly #log: BuildLog;
	readonly #limit: number;
	readonly #decoder = new StringDecoder("utf8");
	#line = "";
	#cut = false;
	#afterCr = false;
	#seen = 0;
	#full = false;

	/** `limit` in bytes of output. */
	constructor(log: BuildLog, limit: number) {
		this.#log = log;
		this.#limit = limit;
	}

	write(chunk: Uint8Array): void {
		if (this.#full) return;
		const room = this.#limit - this.#seen;
		this.#seen += chunk.byteLength;
		this.#text(this.#decoder.write(Buffer.from(chunk.subarray(0, room))));
		if (this.#seen <= this.#limit) return;
		this.#full = true;
		if (this.#line !== "") this.#emit();
		this.#log(`[the output is longer than ${this.#limit} bytes; the rest was dropped]`);
	}

	/** The last line may have no end. */
	end(): void {
		if (this.#full) return;
		this.#text(this.#decoder.end());
		if (this.#line !== "") this.#emit();
	}

	#text(text: string): void {
		let from = 0;
		for (let index = 0; index < text.length; index++) {
			const character = text[index];
			if (character !== "\n" && character !== "\r") {
				this.#afterCr = false;
				continue;
			}
			const secondOfPair = character === "\n" && this.#afterCr;
			if (!secondOfPair) {
				this.#append(text.slice(from, index));
				this.#emit();
			}
			this.#afterCr = character === "\r";
			from = index + 1;
		}
		this.#append(text.slice(from));
	}

	#append(text: string): void {
		const room = MAX_LINE - this.#line.length;
		if (text.length > room) this.#cut = true;
		this.#line += text.slice(0, Math.max(room, 0));
	}

	#emit(): void {
		const line = this.#cut ? `${this.#line} [cut]` : this.#line;
		this.#line = "";
		this.#cut = false;
		this.#log(line);
	}
}
