import type { Runtime } from "../runtimes/runtime.ts";
import type { Logger } from "./logger.ts";
import type { ServiceStore } from "./store.ts";

export type RuntimeWatchDeps = {
	readonly runtime: Runtime;
	readonly store: ServiceStore;
	readonly log: Logger;
	/** Milliseconds before what broke off is tried again. */
	readonly pauseMs: number;
	/** Something about this service may have changed. */
	readonly wake: (id: string) => void;
};

/** Listens to the runtime for as long as the server lives. */
export class RuntimeWatch {
	readonly #deps: RuntimeWatchDeps;

	constructor(deps: RuntimeWatchDeps) {
		this.#deps = deps;
	}

	/** Wakes each service that the runtime reports; where its reports broke off, all of them. */
	async follow(signal: AbortSignal): Promise<void> {
		const { runtime, log, wake } = this.#deps;
		let woken = Promise.resolve();
		while (!signal.aborted) {
			try {
				for await (const { id } of runtime.changes({ signal })) wake(id);
			} catch (error) {
				if (signal.aborted) break;
				log.warn({ err: error }, "the runtime's changes broke off and are followed again");
				await this.#pause(signal);
				// What changed meanwhile, nobody said. Not waited for: what changes from now on must not be missed either.
				woken = this.#wakeAll(signal);
			}
		}
		await woken;
	}

	/** What the runtime runs without a record (a record is always there first) is nobody's. */
	async removeStrangers(signal: AbortSignal): Promise<void> {
		const { runtime, store, log } = this.#deps;
		while (!signal.aborted) {
			try {
				for await (const service of runtime.list({ signal })) {
					if ((await store.getById(service.id)) !== undefined) continue;
					log.warn({ service: service.id, name: service.name }, "removing what runs without a record");
					await runtime.remove(service, { signal });
				}
				return;
			} catch (error) {
				if (signal.aborted) return;
				log.warn({ err: error }, "what runs without a record could not be looked for; trying again");
				await this.#pause(signal);
			}
		}
	}

	async #wakeAll(signal: AbortSignal): Promise<void> {
		try {
			for await (const { id } of this.#deps.store.all()) {
				if (signal.aborted) return;
				this.#deps.wake(id);
			}
		} catch (error) {
			this.#deps.log.warn({ err: error }, "services could not be looked at; the next look is by the clock");
		}
	}

	/** Waits a while, or until the end. */
	#pause(signal: AbortSignal): Promise<void> {
		return new Promise((resolve) => {
			const finish = () => {
				clearTimeout(timer);
				signal.removeEventListener("abort", finish);
				resolve();
			};
			const timer = setTimeout(finish, this.#deps.pauseMs);
			signal.addEventListener("abort", finish, { once: true });
			if (signal.aborted) finish();
		});
	}
}
