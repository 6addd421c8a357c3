import { mkdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import { cancelled, isAppError } from "../../errors.ts";
import { Turns } from "../../turns.ts";
import { readLog } from "../output/reader.ts";
import type { Call, LogItem, LogQuery, Observed, Runtime, ServiceRef, ServiceSpec } from "../runtime.ts";
import { CompanionClient } from "./client.ts";
import { checkRange } from "./ports.ts";
import { materialise } from "./programs.ts";
import { DEFAULT_SETTINGS, type ProcessSettings } from "./settings.ts";

const APPLY_ATTEMPTS = 3;

export type ProcessRuntimeOptions = Partial<ProcessSettings> & {
	/** Data folder of the runtime, its own. Made where there is none, readable by this user alone. */
	readonly folder: string;
	/** How long a call looks for the companion before it rejects with `unavailable`. Milliseconds, default 5000. */
	readonly unavailableMs?: number;
};

export type ProcessRuntime = Runtime & {
	/** Ends every program of every service. Addresses and logs are kept. */
	stopAll(call: Call): Promise<void>;
};

/**
 * Runs services as processes of this machine, as this user: for programs that trust one another. They belong to a
 * companion process of the data folder; disposing the runtime, or the end of this process, leaves them running.
 * Rejects with `invalid_argument` for a range of ports without a port.
 */
export async function createProcessRuntime(options: ProcessRuntimeOptions): Promise<ProcessRuntime> {
	const { folder: given, unavailableMs = 5_000, ...settings } = options;
	if (settings.ports !== undefined && settings.ports !== null) checkRange(settings.ports);
	await mkdir(given, { recursive: true, mode: 0o700 });
	const folder = await realpath(given);
	const path = settings.path ?? process.env.PATH ?? DEFAULT_SETTINGS.path;
	const client = await CompanionClient.open({
		folder,
		unavailableMs,
		settings: { ...DEFAULT_SETTINGS, ...settings, path },
	});
	return new CompanionRuntime(folder, client);
}

class CompanionRuntime implements ProcessRuntime {
	readonly name = "process";
	readonly trust = "one_namespace";
	readonly target = { os: process.platform, arch: process.arch === "x64" ? "amd64" : process.arch };
	readonly #folder: string;
	readonly #client: CompanionClient;
	/** What is being put in place for a service is not cleared away meanwhile. */
	readonly #turns = new Turns();

	constructor(folder: string, client: CompanionClient) {
		this.#folder = folder;
		this.#client = client;
	}

	apply(spec: ServiceSpec, call: Call): Promise<void> {
		return this.#turns.inTurn(spec.id, async () => {
			const { program } = spec;
			const record = {
				...spec,
				program:
					program.kind === "build" ? { kind: program.kind, sha256: program.sha256, size: program.size } : program,
			};
			for (let attempt = 1; ; attempt++) {
				if (call.signal.aborted) throw cancelled(call.signal);
				if (program.kind === "build") await materialise(join(this.#serviceFolder(spec), "programs"), program, call);
				try {
					return void (await this.#client.call("apply", record, call));
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
