import type { Call } from "../blob/store.ts";
import { AppError, cancelled } from "../errors.ts";
import type { Bulletin } from "./bulletin.ts";
import { type Changed, type ChangeOptions, type Changes, hasRun } from "./changes.ts";
import type { Driver } from "./driver.ts";
import type { Manager } from "./manager.ts";
import { type RevisionError, revisionError, revisionOf, type ServiceName, type ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";
import { isSettled } from "./transitions.ts";
import type { Waiters } from "./waiters.ts";
import { type CreateRequest, createRequest, type UpdateRequest } from "./wish.ts";

/** A change that was made and came to nothing; `error` says why, as the revision does. */
export class RevisionFailed extends AppError {
	readonly error: RevisionError;

	constructor(error: RevisionError) {
		const code = error.code === "internal" ? "internal" : error.code === "unavailable" ? "unavailable" : "build_failed";
		super(code, error.message);
		// The words of an internal error are for the log, which has them as this error's message.
		this.error =
			code === "internal" ? { ...error, message: "something went wrong in the server; its log says what" } : error;
	}
}

export type SynchronousDeps = {
	readonly manager: Manager;
	readonly driver: Driver;
	readonly store: ServiceStore;
	readonly bulletin: Bulletin;
	readonly waiters: Waiters;
	readonly newId: () => string;
	/** Milliseconds that a change may take until its verdict. */
	readonly timeoutMs: number;
};

/** Looked again after this long even if no news came. */
const LOOK_MS = 1000;
/** The revision of a create. */
const FIRST = 1;
/** What failed is answered after this long even if its end is not over. */
const REMOVAL_MS = 15_000;
const TIMEOUT = new AppError("deadline", "it took longer than the server allows");

/**
 * The synchronous flow (no builder is configured): a change is answered when its program runs, or with what went wrong. The
 * work is the driver's as ever; this waits for its verdict. A service that is being created is hidden until then, and
 * nothing is left of one that failed, whose caller went away, or in which the server crashed.
 */
export class Synchronous implements Changes {
	readonly #deps: SynchronousDeps;

	constructor(deps: SynchronousDeps) {
		this.#deps = deps;
	}

	async create(namespace: string, request: CreateRequest, options: ChangeOptions, call: Call): Promise<Changed> {
		const { manager, driver, waiters, newId } = this.#deps;
		const hidden = newId();
		try {
			return await waiters.during(hidden, FIRST, async () => {
				const made = await manager.create(namespace, request, { ...options, hidden }, call);
				// It was remembered when it ran.
				if (made.replayed) return { ...made, settled: true };
				await this.#verdict(made, call.signal);
				return { ...made, service: await manager.reveal(hidden, options.once), settled: true };
			});
		} catch (error) {
			// Whatever of it was made, and stays hidden: nobody waits for it any more, and the driver removes it.
			driver.wake(hidden);
			// Whoever hears of it may try again at once. Where its end cannot be seen, the first error is the one to tell.
			if (!call.signal.aborted) await Promise.allSettled([this.#removed(hidden, call.signal)]);
			throw error;
		}
	}

	/** Waits until nothing is left of a hidden service, but not for ever. */
	async #removed(id: string, gone: AbortSignal): Promise<void> {
		const { store, bulletin } = this.#deps;
		const signal = AbortSignal.any([gone, AbortSignal.timeout(REMOVAL_MS)]);
		using news = bulletin.subscribe(id);
		while (!signal.aborted && (await store.getById(id))?.hidden === true) await news.next(signal, LOOK_MS);
	}

	async put(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed> {
		const existing = await this.#deps.store.get(name);
		// One that nobody sees yet is in the way of a create, and says so.
		if (existing !== undefined && existing.hidden !== true) return this.update(name, request, options, call);
		return this.create(name.namespace, createRequest(name, request, options), options, call);
	}

	async update(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed> {
		return this.#settled(() => this.#deps.manager.update(name, request, options, call), call);
	}

	async rollback(name: ServiceName, revision: number, options: ChangeOptions, call: Call): Promise<Changed> {
		return this.#settled(() => this.#deps.manager.rollback(name, revision, options), call);
	}

	/**
	 * A failed update is on its revision, and the one before it serves on. It is cancelled when the last of those who asked for
	 * it (with one idempotency key) has gone away.
	 */
	async #settled(change: () => Promise<Changed>, call: Call): Promise<Changed> {
		const { manager, waiters } = this.#deps;
		for (let again = false; ; again = true) {
			const made = await change();
			if (!made.revised) return made;
			const { id } = made.service;
			try {
				const service = await waiters.during(id, made.revision, () => this.#verdict(made, call.signal));
				return { ...made, service, settled: true };
			} catch (error) {
				if (!(error instanceof RevisionFailed)) {
					if (!waiters.has(id, made.revision)) await manager.abandon(id, made.revision);
					throw error;
				}
				// Whoever asked first had gone away, and that was only seen after this one had come: then it is made anew.
				const forsaken = made.replayed && error.error.code === "cancelled" && error.error.retryable;
				if (again || !forsaken) throw error;
			}
		}
	}

	/** Waits until the revision is Running or has ended well. Rejects with RevisionFailed, `deadline` or `cancelled`. */
	async #verdict({ service, revision, replayed }: Changed, gone: AbortSignal): Promise<ServiceRecord> {
		const { store, bulletin, timeoutMs } = this.#deps;
		const limit = new AbortController();
		const timer = setTimeout(() => limit.abort(TIMEOUT), timeoutMs);
		const signal = AbortSignal.any([gone, limit.signal]);
		using news = bulletin.subscribe(service.id);
		try {
			for (;;) {
				const current = await store.getById(service.id);
				const record =
					current === undefined
						? undefined
						: (revisionOf(current, revision) ?? (await store.revision(service.id, revision)));
				if (current === undefined || record === undefined)
					throw new RevisionFailed(revisionError("cancelled", "start", "the service was removed meanwhile"));
				// What ran was answered so, whatever became of it since.
				const answered = replayed && hasRun(current, record);
				if (record.status === "Error" && record.error !== null && !answered) throw new RevisionFailed(record.error);
				if (isSettled(record.status)) return current;
				if (signal.aborted) throw cancelled(signal);
				await news.next(signal, LOOK_MS);
			}
		} finally {
			clearTimeout(timer);
		}
	}
}
