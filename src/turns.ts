/** Runs actions one at a time for each key, in the order of the calls; different keys do not wait for each other. */
export class Turns {
	readonly #last = new Map<string, Promise<void>>();

	/** Whether nothing runs or waits. */
	get idle(): boolean {
		return this.#last.size === 0;
	}

	/** Settles as `action` does. One that fails holds nobody up. */
	inTurn<T>(key: string, action: () => Promise<T>): Promise<T> {
		const turn = (this.#last.get(key) ?? Promise.resolve()).then(action);
		const forget = () => {
			if (this.#last.get(key) === settled) this.#last.delete(key);
		};
		const settled: Promise<void> = turn.then(forget, forget);
		this.#last.set(key, settled);
		return turn;
	}

	/** Resolves when nothing runs or waits, what was added meanwhile included. */
	async settled(): Promise<void> {
		while (this.#last.size > 0) await Promise.all(this.#last.values());
	}
}
