import type { ProcessSeen } from "../../platform/platform.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import type { RuntimeFailure } from "../runtime.ts";
import { fromWall, toWall } from "./clock.ts";
import { notListening } from "./failures.ts";
import { endMarked, type Folders, Instance, type InstanceHost } from "./instance.ts";
import { untilReady, type Watched } from "./readiness.ts";
import type { InstanceRecord, SpecRecord } from "./state-file.ts";

/** So many lines of its output say why a program failed. */
export const LAST_LINES = 20;

/** How a program ended, or that it was not ready in time. */
export type Lived = { readonly exitCode: number | null; readonly late: RuntimeFailure | null; readonly upMs: number };

export type TenureHost = InstanceHost & {
	readonly log: ServiceLog;
	folders(instance: string): Folders;
	report(message: string, error: unknown): void;
};

/** One program of a slot, from before its start to when nothing of it is left. */
export class Tenure {
	record: InstanceRecord;
	/** When it was started. */
	startedAt: number;
	readonly #host: TenureHost;
	readonly #spec: SpecRecord;
	/** Its exit code, where it ended while no companion watched. */
	readonly gone: number | null;
	#instance: Instance | null;
	#followers: readonly Follower[] = [];

	private constructor(
		host: TenureHost,
		spec: SpecRecord,
		record: InstanceRecord,
		instance: Instance | null,
		gone: number | null,
	) {
		this.#host = host;
		this.#spec = spec;
		this.record = record;
		this.startedAt = fromWall(host.clock, record.startedAt);
		this.#instance = instance;
		this.gone = gone;
	}

	/** One that is to be started. */
	static fresh(host: TenureHost, spec: SpecRecord, slot: number, port: number, instance: string): Tenure {
		const { bootId, clock } = host;
		const nothing = { pid: null, startTime: null, ready: false, lapsed: false, host: "127.0.0.1" };
		const record = { ...nothing, instance, slot, port, bootId, startedAt: toWall(clock, clock.now()) };
		return new Tenure(host, spec, record, null, null);
	}

	/** One that an earlier companion started; null where it never did. */
	static async adopt(
		host: TenureHost,
		spec: SpecRecord,
		record: InstanceRecord,
		processes: readonly ProcessSeen[],
	): Promise<Tenure | null> {
		const found = await Instance.adopt(host, record, processes, host.folders(record.instance).instance);
		if (found === null) return null;
		const instance = found instanceof Instance ? found : null;
		const held = instance === null ? { ready: false } : { pid: instance.pid, startTime: instance.startTime };
		const gone = found instanceof Instance ? null : found.gone;
		const tenure = new Tenure(host, spec, { ...record, ...held }, instance, gone);
		tenure.#follow();
		return tenure;
	}

	/** Null before the start, and of one that was gone already. */
	get instance(): Instance | null {
		return this.#instance;
	}

	async start(): Promise<void> {
		const { clock, folders } = this.#host;
		const instance = await Instance.spawn(this.#host, this.record, this.#spec, folders(this.record.instance));
		const { pid, startTime } = instance;
		this.#instance = instance;
		this.startedAt = clock.now();
		this.record = { ...this.record, pid, startTime, startedAt: toWall(clock, this.startedAt) };
		this.#follow();
	}

	/** Resolves when it is ready, or with how it ended before; null when aborted. */
	async untilReady(
		watched: Watched,
		exit: Promise<Lived>,
		aborted: Promise<null>,
		stop: AbortSignal,
	): Promise<"ready" | Lived | null> {
		const { platform, clock, settings } = this.#host;
		const { health } = this.#spec;
		const waiting = new AbortController();
		const signal = AbortSignal.any([waiting.signal, stop]);
		const readiness = untilReady(watched, health, { platform, clock, aliveMs: settings().aliveMs, signal }).catch(
			(error) => {
				if (signal.aborted) return null;
				throw error;
			},
		);
		const first = await Promise.race([exit, readiness, aborted]);
		waiting.abort();
		if (first === null || "exitCode" in first) return first;
		if (first.ready) {
			this.record = { ...this.record, ready: true, host: first.host };
			return "ready";
		}
		const lines = await this.lastLines(false);
		const late = notListening(watched.port, health.timeout, first.elsewhere, first.answer, lines);
		return { exitCode: null, late, upMs: 0 };
	}

	/** `final`: its program has ended, so a line without an end counts too. */
	async lastLines(final: boolean): Promise<readonly string[]> {
		await this.#heard(this.#followers.map((follower) => (final ? follower.close(true) : follower.flush())));
		return this.#host.log.lastLines(this.record.instance, LAST_LINES);
	}

	/** Ends what is left of it, and keeps its output. */
	async end(): Promise<void> {
		const { graceMs } = this.#host.settings();
		await (this.#instance === null
			? endMarked(this.#host, this.record.instance, graceMs)
			: this.#instance.stop(graceMs));
		await this.#heard(this.#followers.map((follower) => follower.close(true)));
	}

	#follow(): void {
		const { revision } = this.#spec;
		const { instance } = this.record;
		const folder = this.#host.folders(instance).instance;
		this.#followers = (["stdout", "stderr"] as const).map((stream) =>
			this.#host.log.follow({ file: `${folder}/${stream}`, revision, instance, stream }),
		);
	}

	/** Output that the disk refuses is lost; the program is not ended for it. */
	async #heard(reads: readonly Promise<void>[]): Promise<void> {
		for (const read of await Promise.allSettled(reads))
			if (read.status === "rejected") this.#host.report(`output of ${this.#spec.id} could not be kept`, read.reason);
	}
}
