import { AppError } from "../errors.ts";
import { type Entry, entryOf, type Operation } from "./entries.ts";
import { writeFailure } from "./failures.ts";

const MAX_QUEUED = 20_000;
const MAX_BATCH_ENTRIES = 5_000;
const MAX_BATCH_BYTES = 4 * 1024 * 1024;
const UNKNOWN = "the write failed: it is unknown whether the change is stored; look before trying again";

/** A commit that waits for the disk. */
export type Commit = {
	readonly entries: readonly Entry[];
	readonly bytes: number;
	/** May use what is kept back for a full disk. */
	readonly urgent: boolean;
	readonly resolve: () => void;
	readonly reject: (error: unknown) => void;
	/** The number of the batch in which it was tried, while it is not known whether that is stored. */
	tried: number | null;
};

/** Commits in the order of the calls, and how many of them fit into one batch. */
export class CommitQueue {
	readonly #waiting: Commit[] = [];

	get empty(): boolean {
		return this.#waiting.length === 0;
	}

	/** Whether one of these, or one that waits, is urgent. */
	anyUrgent(group: readonly Commit[]): boolean {
		return [...group, ...this.#waiting].some((commit) => commit.urgent);
	}

	/** Settles when the commit is resolved or rejected. Rejects with `unavailable` where too many wait. */
	add(operations: readonly Operation[], urgent: boolean): Promise<void> {
		return new Promise((resolve, reject) => {
			if (this.#waiting.length >= MAX_QUEUED)
				throw new AppError("unavailable", "too many commits are waiting for the disk");
			const entries = operations.map(entryOf);
			const bytes = entries.reduce(
				(sum, entry) => sum + entry.key.length + (entry.type === "put" ? entry.value.length : 0),
				0,
			);
			this.#waiting.push({ entries, bytes, urgent, resolve, reject, tried: null });
		});
	}

	/** The next batch. What was tried and turned out to be stored, by the number of the database's newest batch, is resolved. */
	takeGroup(latest: number): readonly Commit[] {
		let entries = 0;
		let bytes = 0;
		let count = 0;
		for (const commit of this.#waiting) {
			entries += commit.entries.length;
			bytes += commit.bytes;
			if (count > 0 && (entries > MAX_BATCH_ENTRIES || bytes > MAX_BATCH_BYTES)) break;
			count++;
		}
		return this.#waiting.splice(0, count).filter((commit) => {
			const stored = commit.tried !== null && commit.tried <= latest;
			commit.tried = null;
			if (stored) commit.resolve();
			return !stored;
		});
	}

	/** Rejects all, with `error` what was not tried. */
	rejectAll(error: unknown): void {
		for (const commit of this.#waiting.splice(0))
			commit.reject(commit.tried === null ? error : writeFailure(error, UNKNOWN));
	}

	/** Batch `number` failed: rejects what was in it and what waits behind it, or, with `again`, all but what is urgent. */
	failed(group: readonly Commit[], number: number, cause: unknown, again: boolean): void {
		const unknown = writeFailure(cause, UNKNOWN);
		const untried = writeFailure(cause, "an earlier write failed: this change was not stored; try again");
		const waiting = this.#waiting.splice(0);
		for (const commit of group) commit.tried = number;
		for (const commit of [...group, ...waiting]) {
			if (again && commit.urgent) this.#waiting.push(commit);
			else commit.reject(commit.tried === null ? untried : unknown);
		}
	}
}
