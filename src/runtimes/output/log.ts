import { closeSync, existsSync, ftruncateSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
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
/** What `lastLines` can give: lines an instance, characters a line, instances. */
const LAST_LINES = 20;
const LAST_LINE_LENGTH = 4_096;
const LAST_INSTANCES = 16;

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
	readonly #lastLines = new Map<string, string[]>();
	readonly #followers = new Map<string, Follower>();
	#segments: number[] = [];
	#fd = -1;
	#size = 0;
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
		return count <= 0 ? [] : (this.#lastLines.get(instance) ?? []).slice(-count);
	}

	/** Closes all followers, without their unfinished lines. */
	async [Symbol.asyncDispose](): Promise<void> {
		await Promise.all([...this.#followers.values()].map((follower) => follower.close(false)));
		if (this.#fd >= 0) closeSync(this.#fd);
		this.#fd = -1;
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
			this.#startSegment();
			return;
		}
		const file = join(this.#folder, segmentName(last));
		this.#seq = last - 1;
		await using handle = await open(file, "r+");
		const { size } = await handle.stat();
		for (const want of [TAIL_BYTES, size]) {
			const buffer = Buffer.alloc(Math.min(size, want));
			await handle.read(buffer, 0, buffer.length, size - buffer.length);
			// What follows the last line's end was torn by a crash: its raw bytes are still there, and read again.
			const whole = buffer.lastIndexOf(LF) + 1;
			if (whole === 0 && buffer.length < size) continue;
			const begin = buffer.length === size ? 0 : buffer.indexOf(LF) + 1;
			this.#size = size - buffer.length + whole;
			if (!this.#remember(buffer.toString("utf8", begin, whole)) && buffer.length < size) continue;
			break;
		}
		if (this.#size < size) await handle.truncate(this.#size);
		this.#fd = openSync(file, "a");
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
				this.#keepLast(line.instance, [line.text]);
			}
		}
		return checkpoint;
	}

	#append(source: OutputSource, lines: readonly { readonly text: string; readonly end: Cursor }[]): void {
		if (this.#fd < 0) throw new AppError("unavailable", "this log is closed");
		if (this.#size >= this.#segmentBytes && this.#segments.at(-1) !== this.#seq + 1) this.#rotate();
		// Never backwards, so that a search by time is a search by order.
		const now = this.#now().toISOString();
		if (now > this.#lastTime) this.#lastTime = now;
		const { revision, instance, stream } = source;
		const file = this.#key(source);
		const origin = formatOrigin(this.#lastTime, { revision, instance, stream, file });
		let seq = this.#seq;
		let text = "";
		for (const line of lines) text += formatRecord(++seq, origin, line.end, line.text);
		const whole = this.#write(text);
		const stored = whole === null ? lines : lines.slice(0, whole.lines);
		const last = stored.at(-1);
		if (last !== undefined) {
			this.#seq += stored.length;
			this.#offsets.set(file, last.end);
			const recent = stored.slice(-LAST_LINES).map((line) => line.text);
			this.#keepLast(instance, recent);
		}
		if (whole !== null) throw last === undefined ? whole.error : new PartlyStored(last.end, whole.error);
		failpoint("output.after_append");
		if (this.#sinceCheckpoint >= CHECKPOINT_EVERY) this.#checkpoint();
	}

	/** Null when all was written; else how many whole lines were, and the file ends with them. */
	#write(text: string): { lines: number; error: unknown } | null {
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
		this.#sinceCheckpoint += bytes.length;
		return null;
	}

	#checkpoint(): void {
		// One that does not fit on the disk is only a slower start later: the next append says what is wrong.
		if (this.#write(formatCheckpoint(this.#offsets)) === null) this.#sinceCheckpoint = 0;
	}

	#restarted(source: OutputSource): void {
		this.#offsets.set(this.#key(source), 0);
		this.#checkpoint();
	}

	#rotate(): void {
		failpoint("output.before_rotate");
		for (const file of this.#offsets.keys()) {
			if (!this.#followers.has(file) && !existsSync(resolve(this.#folder, file))) this.#offsets.delete(file);
		}
		const old = this.#fd;
		this.#startSegment();
		closeSync(old);
		this.#removeOld();
	}

	/** Complete with its first checkpoint or not there: by renaming. */
	#startSegment(): void {
		const first = this.#seq + 1;
		const temporary = join(this.#folder, "segment.tmp");
		const checkpoint = formatCheckpoint(this.#offsets);
		const fd = openSync(temporary, "a");
		try {
			ftruncateSync(fd, 0);
			if (writeSync(fd, checkpoint) < Buffer.byteLength(checkpoint)) throw new AppError("no_space", "the disk is full");
			renameSync(temporary, join(this.#folder, segmentName(first)));
		} catch (error) {
			closeSync(fd);
			throw error;
		}
		this.#fd = fd;
		this.#size = Buffer.byteLength(checkpoint);
		this.#sinceCheckpoint = 0;
		this.#segments.push(first);
	}

	#removeOld(): void {
		for (const first of this.#segments.splice(0, Math.max(0, this.#segments.length - this.#keep))) {
			rmSync(join(this.#folder, segmentName(first)), { force: true });
		}
	}

	#keepLast(instance: string, lines: readonly string[]): void {
		const kept = this.#lastLines.get(instance) ?? [];
		kept.push(...lines.map((line) => line.slice(0, LAST_LINE_LENGTH)));
		if (kept.length > LAST_LINES) kept.splice(0, kept.length - LAST_LINES);
		// Set anew, so that the order of the map is that of the last use.
		this.#lastLines.delete(instance);
		this.#lastLines.set(instance, kept);
		if (this.#lastLines.size <= LAST_INSTANCES) return;
		for (const oldest of this.#lastLines.keys()) {
			this.#lastLines.delete(oldest);
			break;
		}
	}
}
