import type { Logger } from "./logger.ts";

export type Chore = {
	readonly name: string;
	/** From the end of one run to the beginning of the next. */
	readonly everyMs: number;
	run(signal: AbortSignal): Promise<void>;
};

/** Longer than any timer of Node's can be. */
const MOST_MS = 2 ** 31 - 1;

/** What is done in the background again and again; never two runs of one chore at a time. */
export class Upkeep {
	readonly #log: Logger;
	readonly #chores: readonly Chore[];
	readonly #stop = new AbortController();
	readonly #timers = new Map<Chore, NodeJS.Timeout>();
	readonly #running = new Set<Promise<void>>();

	constructor(log: Logger, chores: readonly Chore[]) {
		this.#log = log;
		this.#chores = chores;
	}

	start(): void {
		for (const chore of this.#chores) this.#schedule(chore);
	}

	/** Ends the runs that are under way. */
	async stop(): Promise<void> {
		this.#stop.abort();
		for (const timer of this.#timers.values()) clearTimeout(timer);
		await Promise.all(this.#running);
	}

	#schedule(chore: Chore): void {
		if (this.#stop.signal.aborted) return;
		const timer = setTimeout(
			() => {
				const run = this.#run(chore).finally(() => {
					this.#running.delete(run);
					this.#schedule(chore);
				});
				this.#running.add(run);
			},
			Math.min(chore.everyMs, MOST_MS),
		).unref();
		this.#timers.set(chore, timer);
	}

	async #run(chore: Chore): Promise<void> {
		try {
			await chore.run(this.#stop.signal);
		} catch (error) {
			if (!this.#stop.signal.aborted) this.#log.warn({ err: error, chore: chore.name }, "a chore failed");
		}
	}
}
