/**
 * Tells whoever waits that something about a service changed. Carries no data: readers look at the store, so that a
 * missed call costs a look and never a fact. (With several servers the same role is PostgreSQL's LISTEN/NOTIFY.)
 */
export class Bulletin {
	readonly #listeners = new Map<string, Set<() => void>>();

	publish(id: string): void {
		for (const listener of this.#listeners.get(id) ?? []) listener();
	}

	/** From now on nothing is missed: `next` resolves at once if anything was published since the last `next`. */
	subscribe(id: string): Subscription {
		let pending = false;
		let wake: (() => void) | undefined;
		const listener = () => {
			pending = true;
			wake?.();
		};
		const listeners = this.#listeners.get(id) ?? new Set();
		this.#listeners.set(id, listeners.add(listener));
		return {
			next: (signal, timeoutMs) =>
				new Promise((resolve) => {
					const finish = () => {
						clearTimeout(timer);
						signal.removeEventListener("abort", finish);
						wake = undefined;
						pending = false;
						resolve();
					};
					const timer = setTimeout(finish, timeoutMs);
					if (pending || signal.aborted) return finish();
					wake = finish;
					signal.addEventListener("abort", finish, { once: true });
				}),
			[Symbol.dispose]: () => {
				listeners.delete(listener);
				if (listeners.size === 0 && this.#listeners.get(id) === listeners) this.#listeners.delete(id);
			},
		};
	}
}

export interface Subscription extends Disposable {
	/** Resolves at the next publication, after `timeoutMs`, or when aborted. */
	next(signal: AbortSignal, timeoutMs: number): Promise<void>;
}
