import { Semaphore } from "../semaphore.ts";
import type { Logger } from "./logger.ts";

/** Milliseconds before what failed is tried again. It doubles from `first` to `most`. */
export type RetryTimes = { readonly first: number; readonly most: number };
export const DEFAULT_RETRY: RetryTimes = { first: 100, most: 10_000 };

/** Services looked after at the same time; the rest wait for their turn. */
const PARALLEL_STEPS = 16;

/**
 * One step of a service. Answers after how many milliseconds to look again. `leave` gives the slot back: before whatever
 * waits for processes to end, which may take as long as they like.
 */
export type Step = (id: string, signal: AbortSignal, leave: () => void) => Promise<number | undefined>;

/**
 * When each service has its step: one at a time for a service, and another one after it where something changed meanwhile; a
 * few services at the same time; what failed again, later each time.
 */
export class Schedule {
	readonly #step: Step;
	readonly #log: Logger;
	readonly #retryMs: RetryTimes;
	readonly #slots = new Semaphore(PARALLEL_STEPS);
	/** Services with a step under way; `true`: another one is due after it. */
	readonly #running = new Map<string, boolean>();
	readonly #timers = new Map<string, NodeJS.Timeout>();
	readonly #failures = new Map<string, number>();
	readonly #stop = new AbortController();
	readonly #loops = new Set<Promise<void>>();

	constructor(step: Step, { log, retryMs }: { readonly log: Logger; readonly retryMs: RetryTimes }) {
		this.#step = step;
		this.#log = log;
		this.#retryMs = retryMs;
	}

	/** Aborted when there are no more turns. */
	get signal(): AbortSignal {
		return this.#stop.signal;
	}

	/** No further step begins; those under way are aborted. */
	stop(): void {
		this.#stop.abort();
		for (const timer of this.#timers.values()) clearTimeout(timer);
	}

	/** Resolves when all steps, and all else that is tracked, have ended. */
	async ended(): Promise<void> {
		// A step that was under way may still have begun something.
		while (this.#loops.size > 0) await Promise.all(this.#loops);
	}

	/** Something about this service may have changed. */
	wake(id: string): void {
		if (this.#stop.signal.aborted) return;
		if (this.#running.has(id)) {
			this.#running.set(id, true);
			return;
		}
		clearTimeout(this.#timers.get(id));
		this.#timers.delete(id);
		this.#running.set(id, false);
		this.track(this.#loop(id));
	}

	/** Another step after a while, unless one comes earlier. */
	wakeLater(id: string, ms: number): void {
		if (this.#stop.signal.aborted) return;
		clearTimeout(this.#timers.get(id));
		const timer = setTimeout(() => {
			// One that has fired is none: a step under way sets the next by what is here.
			this.#timers.delete(id);
			this.wake(id);
		}, ms);
		this.#timers.set(id, timer.unref());
	}

	/** Answers after how many milliseconds to try again. */
	failed(id: string, error: unknown): number {
		const failures = this.#failures.get(id) ?? 0;
		this.#failures.set(id, failures + 1);
		this.#log.warn({ err: error, service: id }, "a step failed and is tried again");
		return Math.min(this.#retryMs.most, this.#retryMs.first * 2 ** failures);
	}

	/** What fails next is the first again. */
	succeeded(id: string): void {
		this.#failures.delete(id);
	}

	/** Something that the end waits for. It must not reject. */
	track(work: Promise<void>): void {
		const tracked: Promise<void> = work.finally(() => this.#loops.delete(tracked));
		this.#loops.add(tracked);
	}

	async #loop(id: string): Promise<void> {
		let next: number | undefined;
		do {
			this.#running.set(id, false);
			next = await this.#guarded(id);
		} while (this.#running.get(id) === true && !this.#stop.signal.aborted);
		this.#running.delete(id);
		// A timer that was set meanwhile is for a build, and is the earlier one.
		if (next === undefined || this.#timers.has(id)) return;
		this.wakeLater(id, next);
	}

	/** One step; its errors mean another try later. Answers after how many milliseconds to look again. */
	async #guarded(id: string): Promise<number | undefined> {
		const { signal } = this.#stop;
		let release: (() => void) | undefined;
		try {
			release = await this.#slots.acquire(signal);
			return await this.#step(id, signal, release);
		} catch (error) {
			if (signal.aborted) return undefined;
			return this.failed(id, error);
		} finally {
			release?.();
		}
	}
}
