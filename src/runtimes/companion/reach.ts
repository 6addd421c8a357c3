import { type AppError, isAppError } from "../../errors.ts";
import type { Clock } from "./clock.ts";
import type { Engine } from "./engine.ts";
import type { CompanionSettings } from "./settings.ts";

export type ReachHost = {
	readonly engine: Engine;
	readonly clock: Clock;
	readonly settings: () => CompanionSettings;
};

/** For who does not want to be told why. */
export function isReachable(engine: Pick<Engine, "mustBeReachable">): boolean {
	try {
		engine.mustBeReachable();
		return true;
	} catch (error) {
		if (!isAppError(error, "unavailable")) throw error;
		return false;
	}
}

/**
 * Does it again, with back-off, for as long as the engine cannot be reached, and at once when that changes. Rejects as `work` does,
 * with `unavailable` only when aborted. `waits` is told each time why it is to be done again.
 */
export async function untilReached<T>(
	host: Omit<ReachHost, "engine"> & { readonly engine: Pick<Engine, "onReachable"> },
	work: () => Promise<T>,
	signal?: AbortSignal,
	waits?: (why: AppError) => void,
): Promise<T> {
	const { engine, clock, settings } = host;
	const { backoffFirstMs, backoffMostMs } = settings();
	for (let delay = backoffFirstMs; ; delay = Math.min(backoffMostMs, delay * 2)) {
		const changed = new AbortController();
		const stopListening = engine.onReachable(() => changed.abort());
		try {
			return await work();
		} catch (error) {
			if (!isAppError(error, "unavailable") || signal?.aborted) throw error;
			waits?.(error);
			const either = signal === undefined ? changed.signal : AbortSignal.any([signal, changed.signal]);
			if (!either.aborted) await clock.sleep(delay, either);
			if (signal?.aborted) throw error;
		} finally {
			stopListening();
		}
	}
}
