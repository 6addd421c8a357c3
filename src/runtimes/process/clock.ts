import { setTimeout } from "node:timers/promises";

/** Time, so that a test can hold it. */
export type Clock = {
	/** Milliseconds since the epoch. */
	now(): number;
	/** Resolves after `ms`, or at once when aborted. */
	sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
	now: () => Date.now(),
	sleep: async (ms, signal) => {
		try {
			await setTimeout(ms, undefined, signal === undefined ? {} : { signal });
		} catch (error) {
			if (!signal?.aborted) throw error;
		}
	},
};
