import type { BlobStore } from "../../src/blob/store.ts";
import type { Builder } from "../../src/builders/builder.ts";
import { AppError, cancelled } from "../../src/errors.ts";
import type { ServiceStore } from "../../src/manager/store.ts";
import type { Runtime } from "../../src/runtimes/runtime.ts";

/** What becomes of one call of a port: it fails before or after it was done, or the server dies before or after it. */
export type Fault = "none" | "fail_before" | "fail_after" | "die_before" | "die_after";

/**
 * One life of a server, seen from its ports. Once it has died no call comes through and none is answered: what is left of
 * the dead server can neither do nor learn anything, as after a kill -9. A call that was under way is done, unanswered.
 */
export class Life {
	/** Decides by the call's name (`store.commit`) what becomes of it. */
	fault: (name: string) => Fault;
	/** Awaited before and after each call of a port: what else may happen meanwhile. */
	pace: (name: string) => Promise<void> | undefined = () => undefined;
	#dead = false;
	readonly #storing = new Set<Promise<unknown>>();
	readonly #died = Promise.withResolvers<void>();

	constructor(fault: (name: string) => Fault = () => "none") {
		this.fault = fault;
	}

	get dead(): boolean {
		return this.#dead;
	}

	/** Resolves when it has died. */
	get died(): Promise<void> {
		return this.#died.promise;
	}

	/** Resolves when no write of its is under way: the dead write nothing after their successor has begun to read. */
	async quiet(): Promise<void> {
		await Promise.allSettled([...this.#storing]);
	}

	die(): void {
		this.#dead = true;
		this.#died.resolve();
	}

	async call<T>(name: string, action: () => Promise<T>, signal?: AbortSignal): Promise<T> {
		const fault = await this.#enter(name, signal);
		await this.pace(name);
		const work = action();
		if (!name.startsWith("runtime.") && !name.startsWith("builder.")) {
			this.#storing.add(work);
			void work.finally(() => this.#storing.delete(work)).catch(() => undefined);
		}
		const result = await work;
		await this.pace(name);
		await this.#leave(name, fault, signal);
		return result;
	}

	async *stream<T>(
		name: string,
		items: () => AsyncIterable<T>,
		signal?: AbortSignal,
	): AsyncGenerator<T, void, undefined> {
		const fault = await this.#enter(name, signal);
		for await (const item of items()) {
			if (this.#dead) await unanswered(signal);
			yield item;
		}
		await this.#leave(name, fault, signal);
	}

	async #enter(name: string, signal: AbortSignal | undefined): Promise<Fault> {
		if (this.#dead) await unanswered(signal);
		const fault = this.fault(name);
		if (fault === "die_before") {
			this.die();
			await unanswered(signal);
		}
		if (fault === "fail_before") throw new AppError("unavailable", `${name} failed before it was done`);
		return fault;
	}

	async #leave(name: string, fault: Fault, signal: AbortSignal | undefined): Promise<void> {
		if (fault === "die_after") this.die();
		if (this.#dead) await unanswered(signal);
		if (fault === "fail_after") throw new AppError("unavailable", `${name} failed after it was done`);
	}

	store(store: ServiceStore): ServiceStore {
		return this.#around("store", store, ["list", "all", "revisions", "events", "sources"]);
	}

	blobs(blobs: BlobStore): BlobStore {
		return this.#around("blobs", blobs, ["list"]);
	}

	runtime(runtime: Runtime): Runtime {
		return this.#around("runtime", runtime, ["changes", "list", "logs"]);
	}

	builder(builder: Builder): Builder {
		return this.#around("builder", builder, []);
	}

	#around<T extends object>(port: string, target: T, streams: readonly string[]): T {
		return new Proxy(target, {
			get: (_, property) => {
				const member: unknown = Reflect.get(target, property);
				if (typeof member !== "function" || typeof property === "symbol") return member;
				const name = `${port}.${property}`;
				return (...args: unknown[]) => {
					const action = () => Reflect.apply(member, target, args);
					const signal = signalOf(args.at(-1));
					return streams.includes(property) ? this.stream(name, action, signal) : this.call(name, action, signal);
				};
			},
		});
	}
}

function signalOf(call: unknown): AbortSignal | undefined {
	if (typeof call !== "object" || call === null || !("signal" in call)) return undefined;
	return call.signal instanceof AbortSignal ? call.signal : undefined;
}

/** No answer, ever. Who cleans up after the dead aborts its calls, so that timers and files are let go. */
function unanswered(signal: AbortSignal | undefined): Promise<never> {
	return new Promise((_, reject) => {
		if (signal === undefined) return;
		const leave = () => reject(cancelled(signal));
		signal.addEventListener("abort", leave, { once: true });
		if (signal.aborted) leave();
	});
}
