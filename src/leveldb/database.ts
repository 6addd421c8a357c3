import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Level } from "level";
import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { type Commit, CommitQueue } from "./commit-queue.ts";
import { type Entry, type Operation, unseal } from "./entries.ts";
import { failure, isNoSpace, writeFailure } from "./failures.ts";
import { claimFolder, makeFolder, syncFolder } from "./folders.ts";
import { CommitLedger, FIRST_KEY, WRITE_BUFFER } from "./ledger.ts";
import type { Readings } from "./readings.ts";
import { Room } from "./room.ts";

export type { Operation } from "./entries.ts";

/** Keys in UTF-8 byte order. */
export type Bounds = {
	readonly gte?: string;
	readonly gt?: string;
	readonly lt?: string;
	readonly lte?: string;
	readonly limit?: number;
	readonly reverse?: boolean;
};

export type DatabaseOptions = {
	/** Open although acknowledged commits are missing, and go on with what is left. */
	readonly acceptLoss?: boolean;
	/** Wraps each synced write, so that a test can fail it before or after it was done. */
	readonly write?: (write: () => Promise<void>) => Promise<void>;
	/**
	 * Bytes that must stay free on the disk; commits that are not urgent reject with `no_space` before. Default 16 MiB. Beside
	 * it up to 4 MiB are really taken, by the file `ballast`, for opening and for urgent commits on a full disk. 0: neither.
	 */
	readonly reserve?: number;
	/** Milliseconds before the second attempt to reopen after a write error; doubles up to `maxBackoff`. Default 100 and 5,000. */
	readonly backoff?: number;
	readonly maxBackoff?: number;
};

type State =
	| { readonly kind: "open"; readonly level: Level }
	| {
			readonly kind: "poisoned";
			readonly level: Level | undefined;
			readonly attempts: number;
			readonly retryAt: number;
	  }
	| { readonly kind: "closed" };

const DEFAULT_RESERVE = 16 * 1024 * 1024;

/** What an iterator fetches at a time: each fetch is a trip to another thread, and a page of a list has about so much. */
const READ_AHEAD = 128 * 1024;

/** What lies below belongs to the ledger. */
function ours(bounds: Bounds): Bounds {
	const { gt, ...others } = bounds;
	return (gt ?? bounds.gte ?? "") < FIRST_KEY ? { ...others, gte: FIRST_KEY } : bounds;
}

/**
 * A folder of string keys and values with atomic, durable commits, over LevelDB. One handle for a folder, in one process.
 *
 * After an I/O error LevelDB goes on to acknowledge writes that it then loses (google/leveldb#578). So any write error poisons
 * the handle: nothing is read or acknowledged until the database was closed, opened again and compared with its ledger.
 */
export class Database implements AsyncDisposable {
	readonly #folder: string;
	readonly #options: DatabaseOptions;
	readonly #ledger: CommitLedger;
	readonly #release: () => void;
	readonly #room: Room;
	readonly #closing = new AbortController();
	readonly #queue = new CommitQueue();
	#state: State = { kind: "closed" };
	/** The number of the newest commit in the database, and of the newest that was tried. */
	#latest = 0;
	#attempted = 0;
	#writing: Promise<void> | undefined;
	#reopening: Promise<Level> | undefined;
	#closed: Promise<void> | undefined;

	private constructor(folder: string, options: DatabaseOptions, room: Room, ledger: CommitLedger, release: () => void) {
		this.#folder = folder;
		this.#options = options;
		this.#room = room;
		this.#ledger = ledger;
		this.#release = release;
	}

	/**
	 * Opens or creates the database in `folder`. Rejects with `conflict` if this or another process has it open, with `internal`
	 * if acknowledged commits are missing (see `acceptLoss`), with `no_space`, `permission_denied` or `unavailable`.
	 */
	static async open(folder: string, options: DatabaseOptions = {}): Promise<Database> {
		let release: (() => void) | undefined;
		let ledger: CommitLedger | undefined;
		try {
			await makeFolder(join(folder, "level"));
			release = await claimFolder(folder);
			const room = new Room(folder, options.reserve ?? DEFAULT_RESERVE);
			ledger = await room.anyhow(() => CommitLedger.open(join(folder, "commits")));
			const database = new Database(folder, options, room, ledger, release);
			await room.anyhow(() => database.#open(options.acceptLoss ?? false));
			await room.layBy();
			return database;
		} catch (error) {
			await ledger?.close();
			release?.();
			throw failure(error, `cannot open the database in ${folder}`);
		}
	}

	/** Rejects with `internal` if the value's checksum does not match. */
	async get(key: string): Promise<string | undefined> {
		for (;;) {
			const level = await this.#ready();
			try {
				const stored = await level.get(key);
				return stored === undefined ? undefined : unseal(key, stored);
			} catch (error) {
				if (this.#isCurrent(level)) throw failure(error, `cannot read from the database in ${this.#folder}`);
			}
		}
	}

	/**
	 * Atomic, and durable over a power cut when resolved. Concurrent commits share one synced batch, in the order of the calls.
	 * Rejects with `no_space` or `unavailable` after a write error; the message says whether the outcome is unknown.
	 * One that is `urgent` (default: one that only deletes) may use what is kept back for a full disk: for what stops things,
	 * or makes room.
	 */
	commit(operations: readonly Operation[], options: { readonly urgent?: boolean } = {}): Promise<void> {
		if (this.#closing.signal.aborted) return Promise.reject(this.#closedError());
		if (operations.length === 0) return Promise.resolve();
		const urgent = options.urgent ?? operations.every((operation) => "delete" in operation);
		const done = this.#queue.add(operations, urgent);
		this.#writing ??= this.#writeAll();
		return done;
	}

	/** A consistent snapshot as of the first pull, streamed. Rejects with `unavailable` if a write error ends it early. */
	async *range(bounds: Bounds): AsyncGenerator<readonly [string, string], void, undefined> {
		const level = await this.#ready();
		try {
			for await (const [key, stored] of level.iterator({ ...ours(bounds), highWaterMarkBytes: READ_AHEAD })) {
				yield [key, unseal(key, stored)];
			}
		} catch (error) {
			throw failure(error, `cannot read from the database in ${this.#folder}`);
		}
	}

	/** As `range`, what the values mean, up to `atOnce` together: one trip to another thread, where they are not too long. */
	async *readings<T>(bounds: Bounds, readings: Readings<T>, atOnce: number): AsyncGenerator<readonly T[]> {
		const level = await this.#ready();
		try {
			await using entries = level.iterator({ ...ours(bounds), highWaterMarkBytes: READ_AHEAD });
			for (;;) {
				const found = await entries.nextv(atOnce);
				if (found.length === 0) return;
				yield found.map(([key, stored]) => readings.of(key, stored));
			}
		} catch (error) {
			throw failure(error, `cannot read from the database in ${this.#folder}`);
		}
	}

	/** Commits that were called before are finished; later calls reject with `unavailable`. */
	[Symbol.asyncDispose](): Promise<void> {
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async #close(): Promise<void> {
		this.#closing.abort(this.#closedError());
		try {
			await this.#writing;
			await Promise.allSettled([this.#reopening]);
			if (this.#state.kind !== "closed") await this.#state.level?.close();
		} finally {
			this.#state = { kind: "closed" };
			await this.#ledger.close();
			this.#release();
		}
	}

	async #writeAll(): Promise<void> {
		// Commits of the same turn of the event loop belong in the first batch already.
		await Promise.resolve();
		while (!this.#queue.empty) {
			let level: Level;
			try {
				level = await this.#ready();
			} catch (error) {
				this.#queue.rejectAll(error);
				continue;
			}
			const group = await this.#room.admit(this.#queue.takeGroup(this.#latest));
			if (group.length > 0) await this.#writeGroup(level, group);
		}
		this.#writing = undefined;
	}

	async #writeGroup(level: Level, group: readonly Commit[]): Promise<void> {
		const number = this.#latest + 1;
		this.#attempted = number;
		const entries: Entry[] = group.flatMap((commit) => commit.entries);
		entries.push(this.#ledger.marker(number));
		const write = () => level.batch(entries, { sync: true });
		try {
			failpoint("database.before_write");
			await (this.#options.write === undefined ? write() : this.#options.write(write));
			failpoint("database.after_write");
			await this.#ledger.acknowledge(number);
			this.#latest = number;
		} catch (cause) {
			this.#state = { kind: "poisoned", level, attempts: 0, retryAt: 0 };
			const again = isNoSpace(cause) && this.#queue.anyUrgent(group) && (await this.#room.giveUp());
			this.#queue.failed(group, number, cause, again);
			return;
		}
		for (const commit of group) commit.resolve();
	}

	async #ready(): Promise<Level> {
		if (this.#state.kind === "open" && !(this.#closing.signal.aborted && this.#writing === undefined))
			return this.#state.level;
		if (this.#state.kind !== "poisoned" || this.#closing.signal.aborted) throw this.#closedError();
		this.#reopening ??= this.#reopen(this.#state).finally(() => {
			this.#reopening = undefined;
		});
		return this.#reopening;
	}

	async #reopen({ level, attempts, retryAt }: Extract<State, { kind: "poisoned" }>): Promise<Level> {
		try {
			const wait = retryAt - performance.now();
			if (wait > 0) await delay(wait, undefined, { signal: this.#closing.signal });
			await level?.close();
			return await this.#room.anyhow(() => this.#open(false));
		} catch (error) {
			if (this.#closing.signal.aborted) throw this.#closedError();
			const backoff = Math.min((this.#options.backoff ?? 100) * 2 ** attempts, this.#options.maxBackoff ?? 5_000);
			this.#state = {
				kind: "poisoned",
				level: undefined,
				attempts: attempts + 1,
				retryAt: performance.now() + backoff,
			};
			throw isAppError(error)
				? error
				: writeFailure(error, "the database cannot be reopened after a write error; nothing was stored");
		}
	}

	async #open(acceptLoss: boolean): Promise<Level> {
		const path = join(this.#folder, "level");
		const level = new Level<string, string>(path, { writeBufferSize: WRITE_BUFFER });
		try {
			await level.open();
			await syncFolder(path);
			await syncFolder(this.#folder);
			const latest = await this.#ledger.check(level, this.#folder, acceptLoss);
			// The lock is free for a moment while a poisoned handle is reopened.
			if (this.#attempted > 0 && latest > this.#attempted) {
				throw new AppError("conflict", `another server has written to the data folder ${this.#folder}`, {
					hint: "restart this one",
				});
			}
			this.#latest = latest;
		} catch (error) {
			await level.close();
			throw failure(error, `cannot open the database in ${this.#folder}`);
		}
		this.#state = { kind: "open", level };
		return level;
	}

	#isCurrent(level: Level): boolean {
		return this.#closing.signal.aborted || (this.#state.kind === "open" && this.#state.level === level);
	}

	#closedError(): AppError {
		return new AppError("unavailable", `the database in ${this.#folder} is closed`);
	}
}
