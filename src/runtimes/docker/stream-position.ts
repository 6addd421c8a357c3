import { LineCutter } from "../output/lines.ts";
import { type Intake, PartlyStored } from "../output/log.ts";

/** Lines stored at a time. */
const BATCH = 1_000;

/** A place in one stream of a container's log: so many bytes of the entries of this time. */
export type Place = { readonly time: string; readonly bytes: number };

/** One run through the entries, from the beginning of one on: which place its next byte has. */
export type Reading = {
	time: string;
	bytes: number;
	/** It waits for what comes; another reads to the end there is. */
	readonly live: boolean;
	/** The clock was set back: what comes is new though its time is not. */
	behind: boolean;
};

export function newReading(live: boolean): Reading {
	return { time: "", bytes: 0, live, behind: false };
}

/**
 * One stream of a container's log on its way into the service's: each byte once, however often and by however many readings it
 * is read. A line is stored with the place after it, so that another companion goes on there.
 */
export class StreamPosition {
	readonly #intake: Intake;
	#cutter = new LineCutter(0);
	/** Behind the last byte that the cutter has. */
	#place: Place | null;
	/** Behind the last byte that is stored. */
	#stored: Place | null;
	/** The entries that the bytes since the last stored one lie in: where each begins, in bytes of the cutter. */
	#entries: { from: number; place: Place; behind: boolean }[] = [];

	constructor(intake: Intake) {
		this.#intake = intake;
		this.#stored = intake.cursor === null ? null : parsePlace(intake.cursor);
		this.#place = this.#stored;
	}

	/** From which time on entries are wanted; null: from the first. */
	get since(): string | null {
		return this.#place?.time ?? null;
	}

	/** Takes what is new of these bytes. Throws when they cannot be stored; they are wanted again then. */
	push(reading: Reading, time: string, bytes: Buffer): void {
		const known = this.#place;
		if (known !== null && time < reading.time && reading.time === known.time) reading.behind = reading.live;
		if (known !== null && time > known.time) reading.behind = false;
		if (reading.time !== time) {
			reading.time = time;
			reading.bytes = 0;
		}
		const at = reading.bytes;
		reading.bytes += bytes.length;
		let fresh = bytes;
		if (known !== null && !reading.behind) {
			if (time < known.time) return;
			if (time === known.time && reading.bytes <= known.bytes) return;
			if (time === known.time) fresh = bytes.subarray(Math.max(0, known.bytes - at));
		}
		// The place stays where it is until the clock is there again: a successor may miss a line then, but has none twice.
		const behind = reading.behind && known !== null;
		const place = behind ? known : { time, bytes: reading.bytes - fresh.length };
		this.#entries.push({ from: this.#cutter.position, place, behind });
		if (!behind) this.#place = { time, bytes: reading.bytes };
		this.#store(this.#cutter.push(fresh));
	}

	/** Stores what has no end mark as a line: nothing more comes. */
	finish(): void {
		const last = this.#cutter.finish();
		if (last !== null) this.#store([last]);
	}

	close(): void {
		this.#intake.close();
	}

	#store(lines: readonly { readonly text: string; readonly end: number }[]): void {
		try {
			for (let from = 0; from < lines.length; from += BATCH) {
				const batch = lines.slice(from, from + BATCH).map(({ text, end }) => ({ text, end: this.#placeOf(end) }));
				this.#intake.append(batch.map(({ text, end }) => ({ text, end: formatPlace(end) })));
				this.#stored = batch.at(-1)?.end ?? this.#stored;
			}
		} catch (error) {
			if (error instanceof PartlyStored && typeof error.end === "string") this.#stored = parsePlace(error.end);
			this.#cutter = new LineCutter(0);
			this.#place = this.#stored;
			this.#entries = [];
			throw error;
		}
		const pending = this.#cutter.position - this.#cutter.pendingBytes;
		const first = this.#entries.findLastIndex(({ from }) => from <= pending);
		if (first > 0) this.#entries.splice(0, first);
	}

	#placeOf(end: number): Place {
		const entry = this.#entries.findLast(({ from }) => from < end);
		if (entry === undefined) throw new Error(`no entry holds byte ${end}`);
		const { place, behind, from } = entry;
		return behind ? place : { time: place.time, bytes: place.bytes + end - from };
	}
}

function formatPlace({ time, bytes }: Place): string {
	return `${time} ${bytes}`;
}

function parsePlace(text: string): Place | null {
	const [time, bytes] = text.split(" ");
	return time === undefined || bytes === undefined ? null : { time, bytes: Number(bytes) };
}
