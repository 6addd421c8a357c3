import { AppError, isAppError } from "../errors.ts";
import type { Bulletin } from "./bulletin.ts";
import { Draft } from "./draft.ts";
import type { ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";

/** Changes are decided again when somebody else's came first; more often than this is a fault. */
const ATTEMPTS = 50;

/** The one way to change a stored service: read, decide on a draft, commit on condition that nobody else did. */
export class Editor {
	readonly #store: ServiceStore;
	readonly #bulletin: Bulletin;
	readonly #now: () => Date;
	readonly #keepSources: number;

	/** `keepSources`: as for a draft. */
	constructor(store: ServiceStore, bulletin: Bulletin, now: () => Date, keepSources: number) {
		this.#store = store;
		this.#bulletin = bulletin;
		this.#now = now;
		this.#keepSources = keepSources;
	}

	timestamp(): string {
		return this.#now().toISOString();
	}

	/**
	 * Applies `decide` to the service with this id and commits what it did to the draft. Answers the service as it is then,
	 * or undefined where it does not exist (any more). `decide` may run several times; what it throws, edit rejects with.
	 */
	async edit(id: string, decide: (draft: Draft) => void | Promise<void>): Promise<ServiceRecord | undefined> {
		for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
			const service = await this.#store.getById(id);
			if (service === undefined) return undefined;
			const draft = Draft.of(service, this.timestamp(), this.#keepSources);
			await decide(draft);
			if (!draft.touched) return service;
			const done = await this.commit(draft);
			if (done !== undefined) return done;
		}
		throw new AppError("unavailable", "the service is being changed too fast", { hint: "Try again." });
	}

	/** Wakes whoever follows a service that was changed in another way than by a draft: removed. */
	announce(id: string): void {
		this.#bulletin.publish(id);
	}

	/** Commits a draft; undefined where somebody else's change came first. */
	async commit(draft: Draft): Promise<ServiceRecord | undefined> {
		const commit = draft.commit();
		try {
			await this.#store.commit(commit);
		} catch (error) {
			if (isAppError(error, "conflict")) return undefined;
			// It may have been made all the same; who follows looks at the store.
			this.#bulletin.publish(commit.service.id);
			throw error;
		}
		this.#bulletin.publish(commit.service.id);
		return commit.service;
	}
}
