/**
 * Who waits in this process, and for what: a service that is being created, or a revision. What somebody waits for lives as
 * long as that; a crash takes all of them.
 */
export class Waiters {
	readonly #counts = new Map<string, number>();

	/** Does `work`, during which somebody waits for it. */
	async during<T>(id: string, revision: number, work: () => Promise<T>): Promise<T> {
		const key = `${id}/${revision}`;
		this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
		try {
			return await work();
		} finally {
			const left = (this.#counts.get(key) ?? 1) - 1;
			if (left > 0) this.#counts.set(key, left);
			else this.#counts.delete(key);
		}
	}

	has(id: string, revision: number): boolean {
		return this.#counts.has(`${id}/${revision}`);
	}
}
