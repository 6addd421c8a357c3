import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError, systemCode } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { ProcessSeen } from "../../platform/platform.ts";
import type { Engine, EngineHost, Gone, InstancePlan, Running, StartPlan } from "../companion/engine.ts";
import type { InstanceRecord, SpecRecord } from "../companion/state-file.ts";
import { endAll, endMarked, Instance, MARK, PROGRAM_HOST, rawOutput, verify } from "./instance.ts";

/** Programs as processes of this machine, as this user. */
export class ProcessEngine implements Engine {
	readonly kind = "process";
	readonly trust = "one_namespace";
	readonly programHost = PROGRAM_HOST;
	readonly #host: EngineHost;
	/** What ran when this companion came: one look for all that is adopted. Given up after the sweep. */
	#seen: readonly ProcessSeen[] | null;

	private constructor(host: EngineHost, seen: readonly ProcessSeen[]) {
		this.#host = host;
		this.#seen = seen;
	}

	static async open(host: EngineHost): Promise<ProcessEngine> {
		return new ProcessEngine(host, await host.platform.processes(MARK));
	}

	mustBeReachable(): void {
		// The system is always there.
	}

	onReachable(): () => void {
		return () => undefined;
	}

	async check({ program }: SpecRecord, programs: string): Promise<void> {
		if (program.kind === "directory") return;
		try {
			await stat(join(programs, program.sha256));
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
			throw new AppError("not_found", "the program's file is not there", { cause: error });
		}
	}

	verify({ spec, folders }: InstancePlan): Promise<string> {
		return verify(spec, folders.programs);
	}

	start(plan: StartPlan): Promise<Running> {
		return Instance.spawn(this.#host, plan);
	}

	async adopt(plan: InstancePlan): Promise<Running | Gone | null> {
		const found = await Instance.adopt(this.#host, plan, this.#seen ?? (await this.#host.platform.processes(MARK)));
		return found === null || found instanceof Instance ? found : { ...found, follow: (log) => rawOutput(log, plan) };
	}

	clear({ record }: InstancePlan, graceMs: number): Promise<void> {
		return endMarked(this.#host, record.instance, graceMs);
	}

	discard({ folders }: InstancePlan): Promise<void> {
		return rm(folders.instance, { recursive: true, force: true });
	}

	async sweep(isKnown: (instance: string) => boolean): Promise<void> {
		const { folderId, platform, settings } = this.#host;
		const seen = this.#seen ?? (await platform.processes(MARK));
		this.#seen = null;
		failpoint("companion.adopt_strays");
		const ours = `${folderId}.`;
		const marks = new Set(seen.flatMap(({ mark }) => (mark?.startsWith(ours) === true ? [mark] : [])));
		const strays = new Set([...marks].filter((mark) => !isKnown(mark.slice(ours.length))));
		if (strays.size === 0) return;
		const left = async () => (await platform.processes(MARK)).filter(({ mark }) => mark !== null && strays.has(mark));
		await endAll(this.#host, left, settings().graceMs);
	}

	async forgotten(): Promise<void> {
		// A service has nothing but its processes.
	}

	async listening(records: readonly InstanceRecord[]): Promise<ReadonlySet<string>> {
		const ports = new Set((await this.#host.platform.listeners()).map(({ port }) => port));
		return new Set(records.filter(({ port }) => ports.has(port)).map(({ instance }) => instance));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		// The programs go on.
	}
}
