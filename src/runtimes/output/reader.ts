import { type FSWatcher, watch } from "node:fs";
import { AppError } from "../../errors.ts";
import type { Call, LogItem, LogQuery } from "../runtime.ts";
import { isWithoutWatch } from "./poll.ts";
import { listSegments, openSegment, type Segment } from "./segments.ts";

const POLL_MS = 200;

/**
 * Past and coming output from a ServiceLog's folder, read beside its writer and from any process. Yields lines in order of
 * `seq`, and a gap in place of lines that are no longer kept (before the first line only where `after` asked for them).
 * An aborted call ends it without an error. Rejects with `invalid_argument` where `since` is no time.
 */
export async function* readLog(folder: string, query: LogQuery, call: Call): AsyncGenerator<LogItem> {
	const since = query.since === undefined ? undefined : parseTime(query.since);
	const lastAtStart = await lastSeq(folder);
	let next = await firstWanted(folder, query, since, lastAtStart);
	const changes = new Changes(folder, call.signal);
	let segment: Segment | null = null;
	let position = 0;
	/** A newer segment was seen, so this one is complete: once more to its end, then on. */
	let complete = false;
	try {
		while (!call.signal.aborted) {
			if (!query.follow && next > lastAtStart) return;
			if (segment === null) {
				const chosen = await choose(folder, next);
				segment = chosen === undefined ? null : await openSegment(folder, chosen);
				complete = false;
				if (segment !== null) {
					const wanted = next;
					position = await segment.seek((record) => record.seq >= wanted);
				} else if (chosen === undefined) {
					if (!query.follow) return;
					await changes.wait();
				}
				continue;
			}
			const piece = await segment.read(position);
			for (const { record } of piece.records) {
				if (call.signal.aborted) return;
				if (record.seq < next) continue;
				if (!query.follow && record.seq > lastAtStart) return;
				if (record.seq > next) yield { gap: { from: next, to: record.seq - 1 } };
				next = record.seq + 1;
				if (since !== undefined && record.time < since) continue;
				const { seq, time, revision, instance, stream, text } = record;
				yield { line: { seq, time, revision, instance, stream, text } };
			}
			if (piece.end > position) {
				position = piece.end;
				continue;
			}
			const { firstSeq } = segment;
			if (complete) {
				await segment[Symbol.asyncDispose]();
				segment = null;
				// Everything below the next segment's first has been read, or is gone.
				const following = (await listSegments(folder)).find((first) => first > firstSeq);
				if (following !== undefined && following > next) {
					yield { gap: { from: next, to: following - 1 } };
					next = following;
				}
			} else if ((await listSegments(folder)).some((first) => first > firstSeq)) complete = true;
			else if (!query.follow) return;
			else await changes.wait();
		}
	} finally {
		changes.close();
		await segment?.[Symbol.asyncDispose]();
	}
}

function parseTime(text: string): string {
	const time = Date.parse(text);
	if (!Number.isNaN(time)) return new Date(time).toISOString();
	throw new AppError("invalid_argument", `since: "${text}" is no time`, {
		field: "since",
		hint: "write ISO 8601, for example 2026-01-31T12:00:00Z",
	});
}

async function lastSeq(folder: string): Promise<number> {
	for (const first of (await listSegments(folder)).reverse()) {
		await using segment = await openSegment(folder, first);
		if (segment !== null) return (await segment.last())?.seq ?? first - 1;
	}
	return 0;
}

/** The first sequence number that the query asks for. All its conditions are lower bounds, so the greatest one counts. */
async function firstWanted(
	folder: string,
	query: LogQuery,
	since: string | undefined,
	lastAtStart: number,
): Promise<number> {
	const segments = await listSegments(folder);
	let next = query.after === undefined ? (segments[0] ?? 1) : query.after + 1;
	if (query.tail !== undefined) next = Math.max(next, lastAtStart - query.tail + 1);
	if (since === undefined) return next;
	for (const first of segments.reverse()) {
		if (first < next) break;
		await using segment = await openSegment(folder, first);
		const begin = (await segment?.read(0))?.records[0]?.record;
		if (begin === undefined || begin.time >= since) continue;
		// Lines before this segment are all older. Those that are older within it are filtered as they are read.
		return Math.max(next, first);
	}
	return next;
}

/** The segment in which `next` is, or would be; the first one where that is gone. */
async function choose(folder: string, next: number): Promise<number | undefined> {
	const segments = await listSegments(folder);
	return segments.findLast((first) => first <= next) ?? segments[0];
}

/** Tells when to look again. The poll is for folders that do not exist yet, and for file systems that tell nothing. */
class Changes {
	readonly #folder: string;
	readonly #signal: AbortSignal;
	#watcher: FSWatcher | null = null;
	#dirty = true;
	#wake: (() => void) | null = null;
	#timer: NodeJS.Timeout | undefined;
	readonly #notify = () => {
		this.#dirty = true;
		this.#wake?.();
	};

	constructor(folder: string, signal: AbortSignal) {
		this.#folder = folder;
		this.#signal = signal;
		signal.addEventListener("abort", this.#notify);
	}

	async wait(): Promise<void> {
		this.#watch();
		if (!this.#dirty && !this.#signal.aborted) {
			await new Promise<void>((resolve) => {
				this.#wake = resolve;
				this.#timer = setTimeout(resolve, POLL_MS);
			});
			this.#wake = null;
			clearTimeout(this.#timer);
		}
		this.#dirty = false;
	}

	close(): void {
		this.#watcher?.close();
		clearTimeout(this.#timer);
		this.#signal.removeEventListener("abort", this.#notify);
	}

	#watch(): void {
		if (this.#watcher !== null) return;
		try {
			const watcher = watch(this.#folder, { persistent: false }, this.#notify);
			watcher.on("error", () => watcher.close());
			this.#watcher = watcher;
			this.#dirty = true;
		} catch (error) {
			if (!isWithoutWatch(error)) throw error;
			// No folder yet, say: the poll will see it.
			this.#watcher = null;
		}
	}
}
