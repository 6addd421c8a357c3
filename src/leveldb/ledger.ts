import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { AppError } from "../errors.ts";

/** What a ledger needs of a LevelDB handle. */
type Level = {
	iterator(bounds: { gte: string; lt: string }): AsyncIterable<[string, string]>;
	batch(operations: { type: "put"; key: string; value: string }[], options: { sync: boolean }): Promise<void>;
};

/** Keys below this one belong to the ledger; LevelDB sorts them before every other. */
export const FIRST_KEY = "\x01";

/**
 * How many of the newest commits leave a marker of their own. Damage in LevelDB's log silently drops commits from its
 * middle, so the markers must span all that the log can hold: two memtables of WRITE_BUFFER bytes at 76 bytes or more a commit.
 */
const MARKERS = 32_768;
export const WRITE_BUFFER = 1024 * 1024;

/**
 * Notices when LevelDB has lost commits that were acknowledged, which it does not by itself: it opens happily after one flipped
 * byte in its log. Every batch carries a marker with the commit's number, and after the synced batch the number goes
 * to a side file that is not synced: it can lag behind the database, never run ahead of it.
 */
export class CommitLedger {
	readonly #file: FileHandle;
	#acknowledged: number;

	private constructor(file: FileHandle, acknowledged: number) {
		this.#file = file;
		this.#acknowledged = acknowledged;
	}

	static async open(path: string): Promise<CommitLedger> {
		const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
		try {
			// A side file that a power cut left empty or zeroed knows nothing, which is no evidence of a loss.
			const text = /^(\d{20})\n$/.exec(await file.readFile("latin1"))?.[1];
			const ledger = new CommitLedger(file, text === undefined ? 0 : Number(text));
			await ledger.acknowledge(ledger.acknowledged);
			return ledger;
		} catch (error) {
			await file.close();
			throw error;
		}
	}

	/** The number of the newest commit that a caller was told of. */
	get acknowledged(): number {
		return this.#acknowledged;
	}

	async acknowledge(commit: number): Promise<void> {
		await this.#file.write(`${String(commit).padStart(20, "0")}\n`, 0, "latin1");
		this.#acknowledged = commit;
	}

	marker(commit: number): { type: "put"; key: string; value: string } {
		return { type: "put", key: `\0${String(commit % MARKERS).padStart(5, "0")}`, value: String(commit) };
	}

	/**
	 * Compares the database with what was acknowledged and returns the number of its newest commit.
	 * Rejects with `internal` if commits are missing, unless the loss is accepted; then the ledger starts from what is left.
	 */
	async check(level: Level, folder: string, acceptLoss: boolean): Promise<number> {
		const found = new Float64Array(MARKERS);
		let latest = 0;
		for await (const [key, value] of level.iterator({ gte: "\0", lt: FIRST_KEY })) {
			const commit = Number(value);
			// A damaged marker is a missing one.
			if (!Number.isSafeInteger(commit)) continue;
			found[Number(key.slice(1))] = commit;
			latest = Math.max(latest, commit);
		}
		const gaps: number[] = [];
		for (let commit = Math.max(1, latest - MARKERS + 1); commit <= latest; commit++) {
			if (found[commit % MARKERS] !== commit) gaps.push(commit);
		}
		const missing = gaps.length + Math.max(0, this.#acknowledged - latest);
		if (missing === 0) return latest;
		if (!acceptLoss) {
			throw new AppError(
				"internal",
				`the database in ${folder} has lost ${missing} acknowledged commits: its files are damaged`,
				{
					hint: "restore the folder from a backup, or open it once with acceptLoss to go on with what is left",
				},
			);
		}
		if (gaps.length > 0) {
			await level.batch(
				gaps.map((commit) => this.marker(commit)),
				{ sync: true },
			);
		}
		await this.acknowledge(latest);
		return latest;
	}

	async close(): Promise<void> {
		await this.#file.close();
	}
}
