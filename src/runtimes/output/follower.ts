import { spawn } from "node:child_process";
import { type FSWatcher, fstatSync, truncateSync, watch } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { setImmediate as immediate } from "node:timers/promises";
import { systemCode } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import { LineCutter } from "./lines.ts";
import { isWithoutWatch, type Poll } from "./poll.ts";
import type { Cursor } from "./record.ts";

const PIECE = 64 * 1024;
const BLOCK = 4096;
/** Lines stored at a time: many short ones must not hold up everything else. */
const BATCH = 1_000;
/** Consumed bytes are freed in portions of this size. */
const FREE_EVERY = 4 * 1024 * 1024;
/** Without hole punching: from here on even an unfinished line does not keep a file from being cut. */
const TRUNCATE_ANYWAY = 4 * FREE_EVERY;

/** One raw file: what a program's stdout or stderr is appended to. */
export type OutputSource = {
	readonly file: string;
	readonly revision: number;
	readonly instance: string;
	readonly stream: "stdout" | "stderr";
};

/** Frees the bytes of a file without changing its size. False where that is not possible. */
export type PunchHole = (file: string, offset: number, length: number) => Promise<boolean>;

export type FollowerOptions = {
	readonly source: OutputSource;
	/** Where to go on, in bytes. */
	readonly start: number;
	readonly poll: Poll;
	readonly punchHole: PunchHole;
	/** Stores lines, synchronously and in order; throws when the disk does not take them (PartlyStored: not all). */
	readonly append: (source: OutputSource, lines: readonly { text: string; end: number }[]) => void;
	/** The raw file starts from nothing again. */
	readonly restarted: (source: OutputSource) => void;
	readonly closed: (follower: OutputFollower) => void;
};

export interface Follower {
	/** Resolves when every complete line written by now is stored. */
	flush(): Promise<void>;
	/** Ends; `final` first reads to the end, and stores an unfinished last line too. Idempotent. */
	close(final: boolean): Promise<void>;
}

/** Reads one raw file as it grows. */
export class OutputFollower implements Follower {
	readonly source: OutputSource;
	readonly #options: FollowerOptions;
	#cutter: LineCutter;
	#handle: FileHandle | null = null;
	#watcher: FSWatcher | null = null;
	readonly #stopPolling: () => void;
	/** Reads are one after the other. */
	#turn: Promise<unknown> = Promise.resolve();
	#queued = false;
	#closed = false;
	#closing: Promise<void> | null = null;
	#freed = 0;
	#punches: boolean | undefined;
	#freeing: Promise<void> | null = null;
	/** After a power cut the records may be older than the holes: then zeros are read that no program wrote. */
	#maybeHole: boolean;

	constructor(options: FollowerOptions) {
		this.#options = options;
		this.source = options.source;
		this.#cutter = new LineCutter(options.start);
		this.#maybeHole = options.start > 0;
		this.#stopPolling = options.poll.add(() => this.#wake());
		this.#wake();
	}

	async flush(): Promise<void> {
		await this.#inTurn(() => this.#read());
	}

	close(final: boolean): Promise<void> {
		this.#closing ??= this.#close(final);
		return this.#closing;
	}

	async #close(final: boolean): Promise<void> {
		this.#stopPolling();
		if (!final) this.#closed = true;
		try {
			await this.#inTurn(async () => {
				if (!final) return;
				await this.#read();
				const last = this.#cutter.finish();
				if (last !== null) this.#options.append(this.source, [last]);
			});
		} finally {
			this.#closed = true;
			this.#watcher?.close();
			await this.#freeing;
			await this.#handle?.close();
			this.#handle = null;
			this.#options.closed(this);
		}
	}

	#inTurn(work: () => Promise<void>): Promise<void> {
		const result = this.#turn.then(work);
		this.#turn = result.then(undefined, () => undefined);
		return result;
	}

	#wake(): void {
		if (this.#closed || this.#queued) return;
		if (this.#handle !== null && fstatSync(this.#handle.fd).size === this.#cutter.position) return;
		this.#queued = true;
		const read = this.#inTurn(() => {
			this.#queued = false;
			return this.#read();
		});
		// The disk did not take it, or the file cannot be read: nothing is consumed then, and the next poll tries again.
		read.catch(() => undefined);
	}

	/** Reads to the end that the file has now. */
	async #read(): Promise<void> {
		const handle = await this.#open();
		if (handle === null || this.#closed) return;
		const { size } = fstatSync(handle.fd);
		if (size < this.#cutter.position) {
			this.#cutter = new LineCutter(0);
			this.#freed = 0;
			this.#options.restarted(this.source);
		}
		const goal = size - this.#cutter.position;
		if (goal === 0) return;
		const buffer = Buffer.allocUnsafe(Math.min(PIECE, goal));
		for (let done = 0; done < goal && !this.#closed; ) {
			const { bytesRead } = await handle.read(buffer, 0, buffer.length, this.#cutter.position);
			if (bytesRead === 0) return;
			done += bytesRead;
			await this.#take(buffer.subarray(0, bytesRead));
			await this.#free();
		}
	}

	async #take(piece: Buffer): Promise<void> {
		let bytes = piece;
		if (this.#maybeHole) {
			let zeros = 0;
			while (zeros < piece.length && piece[zeros] === 0) zeros++;
			if (zeros > 0) this.#cutter = new LineCutter(this.#cutter.position + zeros);
			if (zeros === piece.length) return;
			this.#maybeHole = false;
			bytes = piece.subarray(zeros);
		}
		let stored = Math.max(0, this.#cutter.position - this.#cutter.pendingBytes);
		const lines = this.#cutter.push(bytes);
		try {
			for (let from = 0; from < lines.length; from += BATCH) {
				if (from > 0) await immediate();
				const batch = lines.slice(from, from + BATCH);
				this.#options.append(this.source, batch);
				stored = batch.at(-1)?.end ?? stored;
			}
		} catch (error) {
			// Read again from what is stored.
			const partly = error instanceof PartlyStored && typeof error.end === "number" ? error.end : null;
			this.#cutter = new LineCutter(partly ?? stored);
			throw error;
		}
	}

	async #open(): Promise<FileHandle | null> {
		if (this.#handle !== null) return this.#handle;
		try {
			this.#handle = await open(this.source.file, "r");
		} catch (error) {
			if (systemCode(error) === "ENOENT") return null;
			throw error;
		}
		try {
			this.#watcher = watch(this.source.file, { persistent: false }, () => this.#wake());
			// A watch that breaks is made up for by the poll.
			this.#watcher.on("error", () => this.#watcher?.close());
		} catch (error) {
			if (!isWithoutWatch(error)) throw error;
			this.#watcher = null;
		}
		return this.#handle;
	}

	/** Gives the disk back what is stored elsewhere by now. */
	async #free(): Promise<void> {
		const stored = this.#cutter.position - this.#cutter.pendingBytes;
		if (this.#freeing !== null || stored - this.#freed < FREE_EVERY) return;
		if (this.#punches !== false) {
			const from = this.#freed - (this.#freed % BLOCK);
			const to = stored - (stored % BLOCK);
			failpoint("output.before_punch");
			this.#freeing = this.#options.punchHole(this.source.file, from, to - from).then((punched) => {
				this.#punches = punched;
				if (punched) this.#freed = to;
				this.#freeing = null;
			});
			return;
		}
		if (this.#cutter.pendingBytes > 0 && stored - this.#freed < TRUNCATE_ANYWAY) return;
		if (this.#handle === null || fstatSync(this.#handle.fd).size !== this.#cutter.position) return;
		// What the program writes between the look at the size and the cut is lost: microseconds, once in 4 MiB, and only
		// where holes cannot be punched. A crash between the cut and the note is seen at the next start by the smaller size.
		failpoint("output.before_truncate");
		truncateSync(this.source.file, 0);
		this.#cutter.restart();
		this.#freed = 0;
		this.#options.restarted(this.source);
	}
}

/** Thrown by `append` where some of the lines were stored before the disk was full. */
export class PartlyStored extends Error {
	/** `end` of the last line that is stored. */
	readonly end: Cursor;

	constructor(end: Cursor, cause: unknown) {
		super("only some of the lines were stored", { cause });
		this.end = end;
	}
}

/** By the `fallocate` of util-linux. Where there is none, or the file system has no holes, it is false. */
export const punchHole: PunchHole = (file, offset, length) =>
	new Promise((resolve) => {
		const args = ["--punch-hole", "--keep-size", "--offset", String(offset), "--length", String(length), file];
		const child = spawn("fallocate", args, { stdio: "ignore" });
		child.on("error", () => resolve(false));
		child.on("close", (code) => resolve(code === 0));
	});
