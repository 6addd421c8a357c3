import { join } from "node:path";
import { Ballast } from "../ballast.ts";
import type { Commit } from "./commit-queue.ts";
import { failure, isNoSpace } from "./failures.ts";
import { Reserve } from "./reserve.ts";

/** LevelDB writes up to two memtables when it opens. */
const BALLAST = 4 * 1024 * 1024;
/** Free bytes without which an urgent commit is not tried: one that fails costs a reopening. */
const HEADROOM = 256 * 1024;

/** A database's room on the disk: what it leaves free in good time, and what it has in store for when the disk is full after all. */
export class Room {
	readonly #folder: string;
	readonly #reserve: Reserve;
	readonly #ballast: Ballast;

	/** `reserve` as in DatabaseOptions. */
	constructor(folder: string, reserve: number) {
		this.#folder = folder;
		this.#reserve = new Reserve(folder, reserve);
		this.#ballast = new Ballast(join(folder, "ballast"), Math.min(BALLAST, reserve));
	}

	/** Lays by what a full disk will need, where it is missing and there is space. */
	layBy(): Promise<void> {
		return this.#ballast.fill();
	}

	/** What there is room for; the others are rejected. What is urgent is always let through. */
	async admit(group: readonly Commit[]): Promise<readonly Commit[]> {
		const bytes = group.reduce((sum, commit) => sum + commit.bytes, 0);
		try {
			await this.#reserve.take(bytes);
		} catch (cause) {
			const error = failure(cause, `cannot write to the database in ${this.#folder}`);
			for (const commit of group) if (!commit.urgent) commit.reject(error);
			const urgent = group.filter((commit) => commit.urgent);
			if (urgent.length > 0) await this.#ballast.ease(HEADROOM + 2 * bytes);
			return urgent;
		}
		await this.#ballast.fill();
		return group;
	}

	/** Gives up some of what was laid by; false where nothing is left. */
	giveUp(): Promise<boolean> {
		return this.#ballast.release();
	}

	/** Runs `action` with what was laid by, where the disk is too full without. */
	anyhow<T>(action: () => Promise<T>): Promise<T> {
		return this.#ballast.spend(action, isNoSpace);
	}
}
