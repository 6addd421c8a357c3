import { isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { Address } from "./address.ts";
import type { Run } from "./run.ts";
import type { CompanionSettings } from "./settings.ts";

export type RetirementsHost = {
	readonly settings: () => CompanionSettings;
	report(message: string, error: unknown): void;
};

type Retirement = { readonly done: Promise<void>; readonly hurry: AbortController };

/** The runs of a service that are on their way out: drained, then stopped. */
export class Retirements {
	readonly #host: RetirementsHost;
	readonly #address: Address;
	readonly #ended: () => Promise<void>;
	readonly #all = new Map<Run, Retirement>();

	/** `ended` is called after each, when it is none of them any more. */
	constructor(host: RetirementsHost, address: Address, ended: () => Promise<void>) {
		this.#host = host;
		this.#address = address;
		this.#ended = ended;
	}

	get runs(): Run[] {
		return [...this.#all.keys()];
	}

	/** `drain`: requests that it has may end first. Resolves when nothing of it runs; never rejects. */
	add(run: Run, drain: boolean): Promise<void> {
		const hurry = new AbortController();
		const upstreams = run.upstreams;
		run.retire();
		const work = async () => {
			if (drain) {
				const options = { timeoutMs: this.#host.settings().drainMs, signal: hurry.signal };
				const draining = upstreams.map(({ id }) => this.#address.drain(id, options));
				for (const { reason } of (await Promise.allSettled(draining)).filter((one) => one.status === "rejected"))
					if (!isAppError(reason, "cancelled")) this.#host.report("a drain failed", reason);
			}
			failpoint("companion.before_stop");
			await run.stop();
			this.#all.delete(run);
			await this.#ended();
		};
		const done = work().catch((error) => {
			this.#all.delete(run);
			this.#host.report("a revision could not be stopped", error);
		});
		this.#all.set(run, { done, hurry });
		return done;
	}

	/** Nobody waits any longer for what drains. */
	hurry(): void {
		for (const { hurry } of this.#all.values()) hurry.abort();
	}

	/** Resolves when nothing runs of those that there are. */
	async over(): Promise<void> {
		await Promise.all([...this.#all.values()].map(({ done }) => done));
	}
}
