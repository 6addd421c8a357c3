import { setTimeout } from "node:timers/promises";

/** Time, so that a test can hold it. */
export type Clock = {
	/** Milliseconds that nobody sets back or forward: for everything that is measured. Means nothing to another process. */
	now(): number;
	/** Milliseconds since the epoch: for what is shown, and for what another process reads. */
	wall(): number;
	/** Resolves after `ms`, or at once when aborted. */
	sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
	now: () => performance.now(),
	wall: () => Date.now(),
	sleep: async (ms, signal) => {
		try {
			await setTimeout(ms, undefined, signal === undefined ? {} : { signal });
		} catch (error) {
			if (!signal?.aborted) throw error;
		}
	},
};

/** A wall time of an earlier process as a time of this one; a clock that was set back since counts as no time gone by. */
export function fromWall(clock: Clock, wall: number): number {
	return clock.now() - Math.max(0, clock.wall() - wall);
}

export function toWall(clock: Clock, time: number): number {
	return Math.round(clock.wall() - (clock.now() - time));
}
