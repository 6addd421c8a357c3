import { unseal } from "./entries.ts";

type Known<T> = { readonly stored: string; readonly reading: T };

/** What a reading costs beside its text. */
const OVERHEAD = 256;

/**
 * What values that were read mean, kept for as long as the very same bytes, their checksum included, are read again: whoever
 * asks reads the database first, so nothing here can be out of date, and damage is seen as ever. The least recently read go
 * first. A reading is given to many: it must not be changed.
 */
export class Readings<T> {
	readonly #parse: (value: string) => T;
	readonly #most: number;
	readonly #known = new Map<string, Known<T>>();
	#size = 0;

	/** Keeps readings of up to `most` characters of keys and values; what they are parsed into takes a few times that. */
	constructor(parse: (value: string) => T, most: number) {
		this.#parse = parse;
		this.#most = most;
	}

	/** Characters of what is kept, never more than allowed. */
	get size(): number {
		return this.#size;
	}

	/** Of a value as it is stored. Throws `internal` where its checksum does not match. */
	of(key: string, stored: string): T {
		const known = this.#known.get(key);
		if (known !== undefined) {
			this.#known.delete(key);
			if (known.stored === stored) {
				this.#known.set(key, known);
				return known.reading;
			}
			this.#size -= sizeOf(key, known.stored);
		}
		const reading = this.#parse(unseal(key, stored));
		this.#keep(key, { stored, reading });
		return reading;
	}

	#keep(key: string, known: Known<T>): void {
		const size = sizeOf(key, known.stored);
		if (size > this.#most) return;
		this.#known.set(key, known);
		this.#size += size;
		for (const [oldest, { stored }] of this.#known) {
			if (this.#size <= this.#most) return;
			this.#known.delete(oldest);
			this.#size -= sizeOf(oldest, stored);
		}
	}
}

function sizeOf(key: string, stored: string): number {
	return key.length + stored.length + OVERHEAD;
}
