import { cancelled, isAppError, unlessAborted } from "../../errors.ts";

/** Work that is done once for all who ask. One whose call is cancelled leaves it to the others to do it again. */
export class Shared<T> {
	readonly #work: (signal: AbortSignal) => Promise<T>;
	#running: Promise<T> | undefined;

	constructor(work: (signal: AbortSignal) => Promise<T>) {
		this.#work = work;
	}

	async get(signal: AbortSignal): Promise<T> {
		for (;;) {
			if (signal.aborted) throw cancelled(signal);
			const isOwn = this.#running === undefined;
			this.#running ??= this.#work(signal).catch((error: unknown) => {
				this.#running = undefined;
				throw error;
			});
			try {
				// One's own work ends by itself when it is cancelled, and has cleaned up by then.
				return await (isOwn ? this.#running : unlessAborted(this.#running, signal));
			} catch (error) {
				if (!isAppError(error, "cancelled") || signal.aborted) throw error;
			}
		}
	}

	async settled(): Promise<void> {
		await this.#running;
	}
}
