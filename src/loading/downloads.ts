import { AppError } from "../errors.ts";

/** Counts what is under way, and refuses what is too much: in all, and of one service, so that none keeps the others out. */
export class Downloads {
	readonly #most: number;
	readonly #mostOfOne: number;
	readonly #active = new Map<string, number>();
	readonly #running = new Set<Promise<unknown>>();

	constructor(most: number, mostOfOne: number) {
		this.#most = most;
		this.#mostOfOne = mostOfOne;
	}

	/** Settles as `download` does. Rejects with `exhausted` where there are too many already. */
	async during<T>(service: string, download: () => Promise<T>): Promise<T> {
		const ofThis = this.#active.get(service) ?? 0;
		if (this.#running.size >= this.#most || ofThis >= this.#mostOfOne)
			throw new AppError("exhausted", "too many builds are being loaded", { hint: "Try again in a moment." });
		this.#active.set(service, ofThis + 1);
		const running = download();
		this.#running.add(running);
		try {
			return await running;
		} finally {
			this.#running.delete(running);
			const left = (this.#active.get(service) ?? 1) - 1;
			if (left > 0) this.#active.set(service, left);
			else this.#active.delete(service);
		}
	}

	/** Resolves when none is under way. */
	async ended(): Promise<void> {
		await Promise.allSettled(this.#running);
	}
}
