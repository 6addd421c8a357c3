import { existsSync, rmSync } from "node:fs";
import { mkdir, open, readdir, rm } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { AppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import {
	type Follower,
	OutputFollower,
	type OutputSource,
	PartlyStored,
	type PunchHole,
	punchHole,
} from "./follower.ts";
import { LastLines } from "./last-lines.ts";
import { Poll } from "./poll.ts";
import {
	type Cursor,
	firstSeqOf,
	formatCheckpoint,
	formatOrigin,
	formatRecord,
	parseLine,
	segmentName,
} from "./record.ts";
import { SegmentFile } from "./segment-file.ts";

export type { Follower, OutputSource } from "./follower.ts";
export { PartlyStored } from "./follower.ts";

/** Where the lines of a source go that is no file. */
export type Intake = {
	/** As it was stored with the last line; null before the first. */
	readonly cursor: string | null;
	/**
	 * Stores lines, synchronously and in order, each with the cursor to go on by after it. Throws when the disk does not take
	 * them (PartlyStored: not all).
	 */
	append(lines: readonly { readonly text: string; readonly end: string }[]): void;
	/** Nothing more comes. */
	close(): void;
};

const LF = 0x0a;
/** A start reads no more than this of the log, so checkpoints come twice as often. */
const TAIL_BYTES = 1024 * 1024;
const CHECKPOINT_EVERY = TAIL_BYTES / 4;

export type ServiceLogOptions = {
	/** A segment file is closed when it has grown to this many bytes. Default 4 MiB. */
	readonly segmentBytes?: number;
	/** How many segment files are kept. Default 5. */
	readonly segments?: number;
	readonly now?: () => Date;
	/** One timer for all logs of a process; without it each log has its own. */
	readonly poll?: Poll;
	readonly punchHole?: PunchHole;
};

/**
 * The kept output of one service: raw files that programs append to become numbered lines in segment files. One writer at a
 * time. A line is stored together with how far its raw file is consumed, so that a killed writer's successor goes on with
 * neither a line lost nor one twice. `readLog` reads the folder.
 */
export class ServiceLog implements AsyncDisposable {
	readonly #folder: string;
	readonly #segmentBytes: number;
	readonly #keep: number;
	readonly #now: () => Date;
	readonly #poll: Poll;
	readonly #punchHole: PunchHole;
	readonly #offsets = new Map<string, Cursor>();
	readonly #lastLines = new LastLines();
	readonly #followers = new Map<string, Follower>();
	#segments: number[] = [];
	#segment: SegmentFile | null = null;
	#sinceCheckpoint = 0;
	#seq = 0;
	#lastTime = "";

	private constructor(folder: string, options: ServiceLogOptions) {
		this.#folder = resolve(folder);
		this.#segmentBytes = options.segmentBytes ?? 4 * 1024 * 1024;
		this.#keep = Math.max(1, options.segments ?? 5);
		this.#now = options.now ?? (() => new Date());
		this.#poll = options.poll ?? new Poll();
		this.#punchHole = options.punchHole ?? punchHole;
	}

	/** Makes the folder where there is none, and mends what a crash has left. */
	static async open(folder: string, options: ServiceLogOptions = {}): Promise<ServiceLog> {
		const log = new ServiceLog(folder, options);
		await mkdir(log.#folder, { recursive: true });
		await log.#load();
		return log;
	}

	/** Goes on where this raw file was left off. The file need not exist yet. Throws `conflict` while it is followed already. */
	follow(source: OutputSource): Follower {
		const key = this.#freeKey(source);
		const start = this.#offsets.get(key);
		const follower = new OutputFollower({
			source,
			start: typeof start === "number" ? start : 0,
			poll: this.#poll,
			punchHole: this.#punchHole,
			append: (from, lines) => this.#append(from, lines),
			restarted: (from) => this.#restarted(from),
			closed: (done) => void this.#followers.delete(this.#key(done.source)),
		});
		this.#followers.set(key, follower);
		return follower;
	}

	/**
	 * Takes the output of a source that is no file. `source.file` only names it: how far it is consumed is kept for as long as
	 * there is such a file. `follower` is what reads it, closed with the log. Throws `conflict` while it is followed already.
	 */
	take(source: OutputSource, follower: Follower): Intake {
		const key = this.#freeKey(source);
		const cursor = this.#offsets.get(key);
		this.#followers.set(key, follower);
		return {
			cursor: typeof cursor === "string" ? cursor : null,
			append: (lines) => this.#append(source, lines),
			close: () => void this.#followers.delete(key),
		};
	}

	/** The last lines of an instance, oldest first: at most 20, each cut to 4096 characters. */
	lastLines(instance: string, count: number): readonly string[] {
		return this.#lastLines.of(instance, count);
	}

	/** Closes all followers, without their unfinished lines. */
	async [Symbol.asyncDispose](): Promise<void> {
		await Promise.all([...this.#followers.values()].map((follower) => follower.close(false)));
		this.#segment?.close();
		this.#segment = null;
	}

	#freeKey(source: OutputSource): string {
		const key = this.#key(source);
		if (this.#followers.has(key)) throw new AppError("conflict", `${key} is followed already`);
		return key;
	}

	#key(source: OutputSource): string {
		return relative(this.#folder, resolve(source.file));
	}

	async #load(): Promise<void> {
		for (const name of await readdir(this.#folder)) {
			if (name.endsWith(".tmp")) await rm(join(this.#folder, name));
			const first = firstSeqOf(name);
			if (first !== null) this.#segments.push(first);
		}
		this.#segments.sort((a, b) => a - b);
		const last = this.#segments.at(-1);
		if (last === undefined) {
			this.#segment = this.#startSegment();
			return;
		}
		const file = join(this.#folder, segmentName(last));
		this.#seq = last - 1;
		await using handle = await open(file, "r+");
		const { size } = await handle.stat();
		let end = 0;
		for (const want of [TAIL_BYTES, size]) {
			const buffer = Buffer.alloc(Math.min(size, want));
			await handle.read(buffer, 0, buffer.length, size - buffer.length);
			// What follows the last line's end was torn by a crash: its raw bytes are still there, and read again.
			const whole = buffer.lastIndexOf(LF) + 1;
			if (whole === 0 && buffer.length < size) continue;
			const begin = buffer.length === size ? 0 : buffer.indexOf(LF) + 1;
			end = size - buffer.length + whole;
			if (!this.#remember(buffer.toString("utf8", begin, whole)) && buffer.length < size) continue;
			break;
		}
		if (end < size) await handle.truncate(end);
		this.#segment = SegmentFile.append(file, end);
		this.#removeOld();
	}

	/** Takes over what these lines say. False where no checkpoint is among them. */
	#remember(text: string): boolean {
		let checkpoint = false;
		this.#offsets.clear();
		this.#lastLines.clear();
		for (const each of text.split("\n")) {
			const line = each === "" ? null : parseLine(each);
			if (line === null) continue;
			if ("offsets" in line) {
				checkpoint = true;
				this.#offsets.clear();
				for (const [file, end] of Object.entries(line.offsets)) this.#offsets.set(file, end);
			} else {
				this.#seq = line.seq;
				this.#lastTime = line.time;
				this.#offsets.set(line.file, line.end);
				this.#lastLines.add(line.instance, [line.text]);
			}
		}
		return checkpoint;
	}

	#append(source: OutputSource, lines: readonly { readonly text: string; readonly end: Cursor }[]): void {
		let segment = this.#segment;
		if (segment === null) throw new AppError("unavailable", "this log is closed");
		if (segment.size >= this.#segmentBytes && this.#segments.at(-1) !== this.#seq + 1) segment = this.#rotate(segment);
		// Never backwards, so that a search by time is a search by order.
		const now = this.#now().toISOString();
		if (now > this.#lastTime) this.#lastTime = now;
		const { revision, instance, stream } = source;
		const file = this.#key(source);
		const origin = formatOrigin(this.#lastTime, { revision, instance, stream, file });
		let seq = this.#seq;
		let text = "";
		for (const line of lines) text += formatRecord(++seq, origin, line.end, line.text);
		const before = segment.size;
		const whole = segment.write(text);
		const stored = whole === null ? lines : lines.slice(0, whole.lines);
		const last = stored.at(-1);
		if (last !== undefined) {
			this.#seq += stored.length;
			this.#offsets.set(file, last.end);
			this.#lastLines.add(
				instance,
				stored.map((line) => line.text),
			);
		}
		if (whole !== null) throw last === undefined ? whole.error : new PartlyStored(last.end, whole.error);
		this.#sinceCheckpoint += segment.size - before;
		failpoint("output.after_append");
		if (this.#sinceCheckpoint >= CHECKPOINT_EVERY) this.#checkpoint();
	}

	#checkpoint(): void {
		// One that does not fit on the disk is only a slower start later: the next append says what is wrong.
		if (this.#segment?.write(formatCheckpoint(this.#offsets)) === null) this.#sinceCheckpoint = 0;
	}

	#restarted(source: OutputSource): void {
		this.#offsets.set(this.#key(source), 0);
		this.#checkpoint();
	}

	#rotate(old: SegmentFile): SegmentFile {
		failpoint("output.before_rotate");
		for (const file of this.#offsets.keys()) {
			if (!this.#followers.has(file) && !existsSync(resolve(this.#folder, file))) this.#offsets.delete(file);
		}
		const segment = this.#startSegment();
		this.#segment = segment;
		old.close();
		this.#removeOld();
		return segment;
	}

	#startSegment(): SegmentFile {
		const first = this.#seq + 1;
		const segment = SegmentFile.begin(this.#folder, first, formatCheckpoint(this.#offsets));
		this.#sinceCheckpoint = 0;
		this.#segments.push(first);
		return segment;
	}

	#removeOld(): void {
		for (const first of this.#segments.splice(0, Math.max(0, this.#segments.length - this.#keep))) {
			rmSync(join(this.#folder, segmentName(first)), { force: true });
		}
	}
}
