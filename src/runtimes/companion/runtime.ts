import { mkdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import { cancelled, isAppError } from "../../errors.ts";
import { Turns } from "../../turns.ts";
import { readLog } from "../output/reader.ts";
import type { Call, LogItem, LogQuery, Observed, Runtime, ServiceRef, ServiceSpec } from "../runtime.ts";
import { CompanionClient } from "./client.ts";
import { checkRange } from "./ports.ts";
import { type CompanionSettings, DEFAULT_SETTINGS } from "./settings.ts";
import type { SpecRecord } from "./state-file.ts";

const APPLY_ATTEMPTS = 3;

export type CompanionOptions = Partial<Omit<CompanionSettings, "engine">> & {
	/** Data folder of the runtime, its own. Made where there is none, readable by this user alone. */
	readonly folder: string;
	/** How long a call looks for the companion before it rejects with `unavailable`. Milliseconds, default 5000. */
	readonly unavailableMs?: number;
};

/** What the adapters differ in. */
export type RuntimeKind = Pick<Runtime, "name" | "trust" | "target"> & {
	/**
	 * Before each attempt at an apply: puts the bytes in place where the engine needs them (`programs` is the service's folder
	 * for them) and gives what the record has besides. Rejects as `apply` does.
	 */
	prepare(spec: ServiceSpec, programs: string, call: Call): Promise<Pick<SpecRecord, "loader" | "image">>;
};

/** A runtime whose services belong to the companion of a data folder. Disposing it leaves them running. */
export class CompanionRuntime implements Runtime {
	readonly name: string;
	readonly trust: Runtime["trust"];
	readonly target: Runtime["target"];
	readonly #prepare: RuntimeKind["prepare"];
	readonly #folder: string;
	readonly #client: CompanionClient;
	/** What is being put in place for a service is not cleared away meanwhile. */
	readonly #turns = new Turns();

	private constructor({ name, trust, target, prepare }: RuntimeKind, folder: string, client: CompanionClient) {
		this.name = name;
		this.trust = trust;
		this.target = target;
		this.#prepare = (spec, programs, call) => prepare(spec, programs, call);
		this.#folder = folder;
		this.#client = client;
	}

	/** Rejects with `invalid_argument` for a range of ports without a port, with `unavailable` where no companion comes up. */
	static async open(
		kind: RuntimeKind,
		options: CompanionOptions,
		fixed: Pick<CompanionSettings, "engine" | "path">,
	): Promise<CompanionRuntime> {
		const { folder: given, unavailableMs = 5_000, ...settings } = options;
		if (settings.ports !== undefined && settings.ports !== null) checkRange(settings.ports);
		await mkdir(given, { recursive: true, mode: 0o700 });
		const folder = await realpath(given);
		const all = { ...DEFAULT_SETTINGS, ...settings, ...fixed };
		return new CompanionRuntime(kind, folder, await CompanionClient.open({ folder, unavailableMs, settings: all }));
	}

	apply(spec: ServiceSpec, call: Call): Promise<void> {
		return this.#turns.inTurn(spec.id, async () => {
			const { program } = spec;
			const kept =
				program.kind === "build" ? { kind: program.kind, sha256: program.sha256, size: program.size } : program;
			for (let attempt = 1; ; attempt++) {
				if (call.signal.aborted) throw cancelled(call.signal);
				const more = await this.#prepare(spec, join(this.#serviceFolder(spec), "programs"), call);
				try {
					return void (await this.#client.call("apply", { ...spec, ...more, program: kept }, call));
				} catch (error) {
					// The companion cleared the file away with an older revision that had the same bytes.
					if (!isAppError(error, "not_found") || attempt >= APPLY_ATTEMPTS) throw error;
				}
			}
		});
	}

	async abandon({ id }: ServiceRef, revision: number, call: Call): Promise<void> {
		await this.#client.call("abandon", { id, revision }, call);
	}

	observe({ id }: ServiceRef, call: Call): Promise<Observed> {
		return this.#client.call("observe", { id }, call);
	}

	async *changes({ signal }: Call): AsyncGenerator<ServiceRef> {
		const waiting = new Map<string, ServiceRef>();
		let wake = Promise.withResolvers<void>();
		const stop = this.#client.listen((service) => {
			waiting.set(service.id, service);
			wake.resolve();
		});
		const aborted = () => wake.resolve();
		signal.addEventListener("abort", aborted);
		try {
			for (;;) {
				if (signal.aborted) throw cancelled(signal);
				await wake.promise;
				wake = Promise.withResolvers<void>();
				const services = [...waiting.values()];
				waiting.clear();
				yield* services;
			}
		} finally {
			signal.removeEventListener("abort", aborted);
			stop();
		}
	}

	async *list(call: Call): AsyncGenerator<ServiceRef> {
		yield* this.#client.services(call);
	}

	logs(service: ServiceRef, query: LogQuery, call: Call): AsyncIterable<LogItem> {
		return readLog(join(this.#serviceFolder(service), "log"), query, call);
	}

	async stop({ id }: ServiceRef, call: Call): Promise<void> {
		await this.#client.call("stop", { id }, call);
	}

	remove(service: ServiceRef, call: Call): Promise<void> {
		return this.#turns.inTurn(service.id, async () => {
			await this.#client.call("remove", { id: service.id }, call);
		});
	}

	/** Ends every program of every service. Addresses and logs are kept. */
	async stopAll(call: Call): Promise<void> {
		await this.#client.call("stopAll", null, call);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#client.close();
	}

	#serviceFolder({ id }: ServiceRef): string {
		return join(this.#folder, "services", id);
	}
}
