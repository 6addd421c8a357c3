import type { Call } from "../blob/store.ts";
import { AppError, cancelled } from "../errors.ts";
import type { Bulletin } from "./bulletin.ts";
import type { Changed, ChangeOptions, Changes } from "./changes.ts";
import type { Manager } from "./manager.ts";
import { type RevisionError, revisionError, revisionOf, type ServiceName, type ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";
import { isSettled } from "./transitions.ts";
import type { CreateRequest, UpdateRequest } from "./wish.ts";

/** A change that was made and came to nothing; `error` says why, as the revision does. */
export class RevisionFailed extends AppError {
	readonly error: RevisionError;

	constructor(error: RevisionError) {
		const code = error.code === "internal" ? "internal" : error.code === "unavailable" ? "unavailable" : "build_failed";
		super(code, error.message);
		this.error = error;
	}
}

export type SynchronousDeps = {
	readonly manager: Manager;
	readonly store: ServiceStore;
	readonly bulletin: Bulletin;
	/** Milliseconds that a change may take until its verdict. */
	readonly timeoutMs: number;
};

/** Looked again after this long even if no news came. */
const LOOK_MS = 1000;
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
		const { manager } = this.#deps;
		const made = await manager.create(namespace, request, { ...options, hidden: true }, call);
		// It was remembered when it ran.
		if (made.replayed) return { ...made, settled: true };
		try {
			await this.#verdict(made, call.signal);
			return { ...made, service: await manager.reveal(made.service.id, options.once), settled: true };
		} catch (error) {
			await manager.discard(made.service.id);
			// Whoever hears of it may try again at once.
			if (!call.signal.aborted) await this.#removed(made.service.id, call.signal);
			throw error;
		}
	}

	/** Waits until nothing is left of a service, but not for ever. */
	async #removed(id: string, gone: AbortSignal): Promise<void> {
		const { store, bulletin } = this.#deps;
		const signal = AbortSignal.any([gone, AbortSignal.timeout(REMOVAL_MS)]);
		using news = bulletin.subscribe(id);
		while (!signal.aborted && (await store.getById(id)) !== undefined) await news.next(signal, LOOK_MS);
	}

	async put(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed> {
		const { manager, store } = this.#deps;
		const existing = await store.get(name);
		// One that nobody sees yet is in the way of a create, and says so.
		if (existing !== undefined && existing.hidden !== true) return this.update(name, request, options, call);
		return this.create(name.namespace, manager.createRequest(name, request, options), options, call);
	}

	async update(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed> {
		return this.#settled(await this.#deps.manager.update(name, request, options, call), call);
	}

	async rollback(name: ServiceName, revision: number, options: ChangeOptions, call: Call): Promise<Changed> {
		return this.#settled(await this.#deps.manager.rollback(name, revision, options), call);
	}

	/** A failed update is on its revision, and the one before it serves on; a caller that went away cancels it. */
	async #settled(made: Changed, call: Call): Promise<Changed> {
		if (!made.revised) return made;
		try {
			return { ...made, service: await this.#verdict(made, call.signal), settled: true };
		} catch (error) {
			// Whoever asked a second time did not ask for anything new.
			if (!(error instanceof RevisionFailed) && !made.replayed)
				await this.#deps.manager.abandon(made.service.id, made.revision);
			throw error;
		}
	}

	/** Waits until the revision is Running or has ended well. Rejects with RevisionFailed, `deadline` or `cancelled`. */
	async #verdict({ service, revision }: Changed, gone: AbortSignal): Promise<ServiceRecord> {
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
				if (record.status === "Error" && record.error !== null) throw new RevisionFailed(record.error);
				if (isSettled(record.status)) return current;
				if (signal.aborted) throw cancelled(signal);
				await news.next(signal, LOOK_MS);
			}
		} finally {
			clearTimeout(timer);
		}
	}
}
