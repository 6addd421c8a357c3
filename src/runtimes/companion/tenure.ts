import type { AppError } from "../../errors.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import type { RuntimeFailure } from "../runtime.ts";
import { fromWall, toWall } from "./clock.ts";
import type { Exit, Folders, Gone, InstancePlan, Running } from "./engine.ts";
import { notListening } from "./failures.ts";
import { type ReachHost, untilReached } from "./reach.ts";
import { untilReady } from "./readiness.ts";
import type { InstanceRecord, SpecRecord } from "./state-file.ts";

/** So many lines of its output say why a program failed. */
export const LAST_LINES = 20;

/** How a program ended, or that it was not ready in time. */
export type Lived = Exit & { readonly late: RuntimeFailure | null; readonly upMs: number };

export type TenureHost = ReachHost & {
	readonly bootId: string;
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
	/** How it ended, where no companion watched. */
	readonly gone: Exit | null;
	#running: Running | null;
	#followers: readonly Follower[] = [];
	#verified: Promise<string> | undefined;

	private constructor(
		host: TenureHost,
		spec: SpecRecord,
		record: InstanceRecord,
		running: Running | null,
		gone: Exit | null,
	) {
		this.#host = host;
		this.#spec = spec;
		this.record = record;
		this.startedAt = fromWall(host.clock, record.startedAt);
		this.#running = running;
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
	static async adopt(host: TenureHost, spec: SpecRecord, record: InstanceRecord): Promise<Tenure | null> {
		const plan = planOf(host, spec, record);
		// Not given up when the run is to stop: only one that was found can be ended.
		const found = await untilReached(host, () => host.engine.adopt(plan));
		if (found === null) {
			await untilReached(host, () => host.engine.discard(plan));
			return null;
		}
		const tenure =
			"gone" in found
				? new Tenure(host, spec, { ...record, ready: false }, null, found.gone)
				: new Tenure(host, spec, { ...record, pid: found.pid, startTime: found.startTime }, found, null);
		tenure.#follow(found);
		return tenure;
	}

	/** Null before the start, and of one that was gone already. */
	get running(): Running | null {
		return this.#running;
	}

	/** Begins to read what is to be started, beside whatever must come first. */
	verify(): void {
		this.#verified = this.#host.engine.verify?.(this.#plan);
		// Thrown where it is awaited: by the start.
		this.#verified?.catch(() => undefined);
	}

	/** Rejects with `unavailable` only when aborted before it could be started. `waits` is told why it is tried again. */
	async start(proven: boolean, signal: AbortSignal, waits: (why: AppError) => void): Promise<void> {
		const { engine, clock } = this.#host;
		const begin = () => {
			const verified = this.#verified;
			this.#verified = undefined;
			return engine.start({ ...this.#plan, proven, ...(verified === undefined ? {} : { verified }) });
		};
		const running = await untilReached(this.#host, begin, signal, waits);
		const { pid, startTime, host } = running;
		this.#running = running;
		this.startedAt = clock.now();
		this.record = { ...this.record, pid, startTime, host, startedAt: toWall(clock, this.startedAt) };
		this.#follow(running);
	}

	/** Resolves when it is ready, or with how it ended before; null when aborted. */
	async untilReady(
		running: Running,
		exit: Promise<Lived>,
		aborted: Promise<null>,
		stop: AbortSignal,
	): Promise<"ready" | Lived | null> {
		const { clock, settings } = this.#host;
		const { health } = this.#spec;
		const { port } = this.record;
		const watched = {
			...{ port, host: running.host, startedAt: this.startedAt },
			listeningAt: () => running.listeningAt(),
			elsewhere: () => running.elsewhere(),
		};
		const waiting = new AbortController();
		const signal = AbortSignal.any([waiting.signal, stop]);
		const readiness = untilReady(watched, health, { clock, aliveMs: settings().aliveMs, signal }).catch((error) => {
			if (signal.aborted) return null;
			throw error;
		});
		const first = await Promise.race([exit, readiness, aborted]);
		waiting.abort();
		if (first === null || "exitCode" in first) return first;
		if (first.ready) {
			this.record = { ...this.record, ready: true, host: first.host };
			return "ready";
		}
		const lines = await this.lastLines(false);
		const late = notListening(port, health.timeout, first.elsewhere, first.answer, lines);
		return { exitCode: null, late, upMs: 0 };
	}

	/** `final`: its program has ended, so a line without an end counts too. */
	async lastLines(final: boolean): Promise<readonly string[]> {
		await this.#heard(this.#followers.map((follower) => (final ? follower.close(true) : follower.flush())));
		return this.#host.log.lastLines(this.record.instance, LAST_LINES);
	}

	/** Ends what is left of it, and keeps its output. */
	async end(): Promise<void> {
		const { engine, settings } = this.#host;
		const { graceMs } = settings();
		const running = this.#running;
		await untilReached(this.#host, () =>
			running === null ? engine.clear(this.#plan, graceMs) : running.stop(graceMs),
		);
		await this.#heard(this.#followers.map((follower) => follower.close(true)));
	}

	/** Removes what it leaves, once it has ended and nobody has it in mind. */
	discard(): Promise<void> {
		return untilReached(this.#host, () => this.#host.engine.discard(this.#plan));
	}

	get #plan(): InstancePlan {
		return planOf(this.#host, this.#spec, this.record);
	}

	#follow(heard: Running | Gone): void {
		this.#followers = heard.follow(this.#host.log);
	}

	/** Output that the disk refuses is lost; the program is not ended for it. */
	async #heard(reads: readonly Promise<void>[]): Promise<void> {
		for (const read of await Promise.allSettled(reads))
			if (read.status === "rejected") this.#host.report(`output of ${this.#spec.id} could not be kept`, read.reason);
	}
}

function planOf(host: TenureHost, spec: SpecRecord, record: InstanceRecord): InstancePlan {
	return { spec, record, folders: host.folders(record.instance) };
}
