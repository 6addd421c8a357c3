import type { Call } from "../blob/store.ts";
import { AppError } from "../errors.ts";
import { KEY_KEPT_MS, type RevisionRecord, revisionOf, type ServiceName, type ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";
import type { CreateRequest, UpdateRequest } from "./wish.ts";

/** How a change may be made. */
export type ChangeOptions = {
	/** Throws where the service is not in the state that the caller knows. */
	readonly guard?: (service: ServiceRecord) => void;
	/** The same key with the same hash, within a day, makes nothing new: it answers what the first one made. */
	readonly once?: { readonly key: string; readonly hash: string };
	/** For a create: the id of a service that nobody sees before it is revealed. */
	readonly hidden?: string;
};

/** The changes that make revisions: as they are made here, or answered when they are settled (see synchronous.ts). */
export interface Changes {
	create(namespace: string, request: CreateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	put(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	update(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	rollback(name: ServiceName, revision: number, options: ChangeOptions, call: Call): Promise<Changed>;
}

/** A service after a change. `revised`: it has a new revision. `replayed`: the change had been made before. */
export type Changed = {
	readonly service: ServiceRecord;
	/** The newest revision when it was made. */
	readonly revision: number;
	readonly revised: boolean;
	readonly replayed: boolean;
	/** The new revision runs already, or has ended well. */
	readonly settled?: boolean;
};

/** Answers a change that was made before under the same idempotency key. */
export class Replays {
	readonly #store: ServiceStore;
	readonly #now: () => Date;
	readonly #verdicts: boolean;

	/** `verdicts`: changes are answered when they are settled, so that one that failed for a passing reason is made anew. */
	constructor(store: ServiceStore, now: () => Date, verdicts: boolean) {
		this.#store = store;
		this.#now = now;
		this.#verdicts = verdicts;
	}

	/** Whether what is remembered from then counts no more, collected or not. */
	#isPast(time: string): boolean {
		return this.#now().getTime() - Date.parse(time) >= KEY_KEPT_MS;
	}

	/** What was made under this key before. Rejects with `key_reused` where it was another request. */
	async recalled(namespace: string, once: ChangeOptions["once"], revised = true): Promise<Changed | undefined> {
		if (once === undefined) return undefined;
		const done = await this.#store.recall(namespace, once.key);
		if (done === undefined || this.#isPast(done.time)) return undefined;
		if (done.hash !== once.hash)
			throw new AppError("key_reused", "this Idempotency-Key was used for another request", {
				field: "Idempotency-Key",
				hint: "Use a new key for each new request.",
			});
		const service = await this.#store.getById(done.serviceId);
		if (service === undefined)
			throw new AppError("gone", "what was made with this Idempotency-Key has been removed since", {
				field: "Idempotency-Key",
				hint: "Use a new key to create it again.",
			});
		const { revision } = done;
		if (this.#verdicts) {
			const record = revisionOf(service, revision) ?? (await this.#store.revision(service.id, revision));
			if (record?.error?.retryable === true && record.status === "Error" && !hasRun(service, record)) return undefined;
		}
		return { service, revision, revised, replayed: true };
	}
}

/** Whether a revision that is in Error came to run before. */
export function hasRun(service: ServiceRecord, record: RevisionRecord): boolean {
	return service.live === record.revision || record.error?.code === "crash_loop";
}
