import { cancelled } from "./errors.ts";

/** At most `limit` holders at a time; first come, first served. */
export class Semaphore {
	#free: number;
	readonly #waiting: (() => void)[] = [];

	constructor(limit: number) {
		this.#free = limit;
	}

	/** Resolves to the release; what it gives back, it gives back once. Rejects with `cancelled` when aborted while waiting. */
	async acquire(signal: AbortSignal): Promise<() => void> {
		if (signal.aborted) throw cancelled(signal);
		if (this.#free > 0) this.#free--;
		else {
			await new Promise<void>((resolve, reject) => {
				const enter = () => {
					signal.removeEventListener("abort", leave);
					resolve();
				};
				const leave = () => {
					this.#waiting.splice(this.#waiting.indexOf(enter), 1);
					reject(cancelled(signal));
				};
				this.#waiting.push(enter);
				signal.addEventListener("abort", leave, { once: true });
			});
		}
		let released = false;
		return () => {
			if (released) return;
			released = true;
			const next = this.#waiting.shift();
			if (next === undefined) this.#free++;
			else next();
		};
	}
}
