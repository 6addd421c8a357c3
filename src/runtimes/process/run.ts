import { rm } from "node:fs/promises";
import { messageOf } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { ProcessSeen } from "../../platform/platform.ts";
import type { Upstream } from "../forwarder/forwarder.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import type { RevisionObserved, RevisionPhase, RuntimeFailure } from "../runtime.ts";
import { failedStart, failure, howItEnded, lostItsPort, notListening } from "./failures.ts";
import { endMarked, type Folders, Instance, type InstanceHost } from "./instance.ts";
import type { Ports } from "./ports.ts";
import { untilReady } from "./readiness.ts";
import type { InstanceRecord, RunRecord, SpecRecord } from "./state-file.ts";

const LAST_LINES = 20;

export type RunHost = InstanceHost & {
	readonly ports: Ports;
	readonly log: ServiceLog;
	readonly newId: () => string;
	folders(instance: string): Folders;
	/** Resolves when the service's state is durable; tries again for as long as the disk refuses. */
	persist(): Promise<void>;
	report(message: string, error: unknown): void;
	/** Something about this run is different now. */
	changed(run: Run): void;
	/** Whether another revision has the requests. */
	anotherServes(run: Run): boolean;
};

/** One program of the run, from its start to when nothing of it is left. */
type Tenure = {
	record: InstanceRecord;
	readonly instance: Instance | null;
	/** Of one that ended while no companion watched. */
	readonly gone: number | null;
	readonly followers: readonly Follower[];
};

type Ending = { readonly exitCode: number | null; readonly late: RuntimeFailure | null; readonly upMs: number };

/** One generation of one revision: keeps its programs running as the spec says, and knows how it stands with them. */
export class Run {
	readonly spec: SpecRecord;
	readonly #host: RunHost;
	readonly #stop = new AbortController();
	readonly #tenures = new Map<number, Tenure>();
	readonly #endedSlots: Set<number>;
	#waiting: readonly InstanceRecord[];
	#work: Promise<unknown> = Promise.resolve();
	#phase: RevisionPhase;
	#failure: RuntimeFailure | null;
	#everReady: boolean;
	#failedStarts: number;
	#exits: readonly number[];

	constructor(host: RunHost, record: RunRecord) {
		this.#host = host;
		this.spec = record.spec;
		this.#phase = record.phase;
		this.#failure = record.failure;
		this.#everReady = record.everReady;
		this.#failedStarts = record.failedStarts;
		this.#exits = record.exits;
		this.#endedSlots = new Set(record.endedSlots);
		this.#waiting = record.instances;
		for (const { port } of record.instances) host.ports.hold(port);
	}

	static fresh(host: RunHost, spec: SpecRecord): Run {
		const record = { phase: "starting", failure: null, everReady: false, failedStarts: 0 } as const;
		return new Run(host, { ...record, spec, exits: [], endedSlots: [], instances: [] });
	}

	get phase(): RevisionPhase {
		return this.#phase;
	}

	/** It has been ready once, so it may have the requests. */
	get everReady(): boolean {
		return this.#everReady;
	}

	/** Nothing of it runs or will run again. */
	get isOver(): boolean {
		return this.#phase === "ended" || (this.#phase === "failed" && this.#failure?.code !== "crash_loop");
	}

	/** Whether it has processes, or will. */
	get busy(): boolean {
		return !this.isOver || this.#tenures.size > 0;
	}

	is(spec: Pick<SpecRecord, "revision" | "generation">): boolean {
		return this.spec.revision === spec.revision && this.spec.generation === spec.generation;
	}

	/** Starts the programs, or goes on with those that an earlier companion has started. */
	start(processes: readonly ProcessSeen[] = []): void {
		const records = this.#waiting;
		if (this.isOver) {
			for (const { port } of records) this.#host.ports.release(port);
			this.#waiting = [];
			return;
		}
		const slots = Array.from({ length: Math.max(1, this.spec.instances) }, (_, slot) => slot);
		this.#work = Promise.all(
			slots
				.filter((slot) => !this.#endedSlots.has(slot))
				.map((slot) =>
					this.#keep(
						slot,
						records.find((record) => record.slot === slot),
						processes,
					),
				),
		);
	}

	/** From now on what ends is not started again. */
	retire(): void {
		if (!this.isOver) this.#phase = "stopping";
	}

	/** Resolves when no process of it is left. */
	async stop(): Promise<void> {
		this.retire();
		this.#stop.abort();
		await this.#work;
	}

	/** Where requests can go now. */
	get upstreams(): Upstream[] {
		return [...this.#tenures.values()]
			.filter(({ record }) => record.ready)
			.map(({ record }) => ({ id: record.instance, host: record.host, port: record.port }));
	}

	get record(): RunRecord {
		const held = [...this.#tenures.values()].map(({ record }) => record);
		return {
			spec: this.spec,
			phase: this.#phase,
			failure: this.#failure,
			everReady: this.#everReady,
			failedStarts: this.#failedStarts,
			exits: this.#exits,
			endedSlots: [...this.#endedSlots],
			instances: [...held, ...this.#waiting.filter(({ slot }) => !this.#tenures.has(slot))],
		};
	}

	get observed(): RevisionObserved {
		const { revision, generation } = this.spec;
		const instances = this.record.instances.map(({ instance, pid, ready }) => ({ instance, pid, ready }));
		return { revision, generation, phase: this.#phase, failure: this.#failure, instances };
	}

	/** A slot's whole life. Never rejects: what goes wrong ends the run. */
	async #keep(slot: number, record: InstanceRecord | undefined, processes: readonly ProcessSeen[]): Promise<void> {
		const { signal } = this.#stop;
		let failures = 0;
		let waiting = record;
		try {
			while (!signal.aborted) {
				const adopted = waiting === undefined ? null : await this.#adopt(waiting, processes);
				waiting = undefined;
				this.#waiting = this.#waiting.filter((candidate) => candidate.slot !== slot);
				const tenure = adopted ?? (await this.#begin(slot));
				let again = false;
				try {
					const ending = await this.#watch(tenure);
					if (ending !== null && !signal.aborted) {
						// The world is told before what is left of it is ended: that may take the whole grace.
						const lines = await this.#lastLines(tenure, ending.late === null);
						failures = ending.upMs >= this.#host.settings().stableMs ? 1 : failures + 1;
						tenure.record = { ...tenure.record, ready: false };
						again = this.#judge(slot, ending, tenure.record, lines);
						this.#host.changed(this);
					}
				} finally {
					await this.#close(tenure);
				}
				await this.#host.persist();
				this.#host.changed(this);
				if (!again) break;
				const { backoffFirstMs, backoffMostMs } = this.#host.settings();
				await this.#host.clock.sleep(Math.min(backoffMostMs, backoffFirstMs * 2 ** (failures - 1)), signal);
			}
		} catch (error) {
			this.#end("failed", failure("internal", messageOf(error), null, this.#failure?.lastLines ?? []));
			await this.#host.persist();
			this.#host.changed(this);
		}
	}

	async #begin(slot: number): Promise<Tenure> {
		const { ports, bootId, clock, newId } = this.#host;
		const record: InstanceRecord = {
			instance: newId(),
			slot,
			port: await ports.take(),
			bootId,
			pid: null,
			startTime: null,
			ready: false,
			host: "127.0.0.1",
			startedAt: clock.now(),
		};
		const folders = this.#host.folders(record.instance);
		const starting: Tenure = { record, instance: null, gone: null, followers: [] };
		this.#tenures.set(slot, starting);
		try {
			await this.#host.persist();
			failpoint("companion.before_spawn");
			const instance = await Instance.spawn(this.#host, record, this.spec, folders);
			const { pid, startTime } = instance;
			const tenure: Tenure = {
				record: { ...record, pid, startTime, startedAt: clock.now() },
				instance,
				gone: null,
				followers: this.#follow(record),
			};
			this.#tenures.set(slot, tenure);
			await this.#host.persist();
			this.#host.changed(this);
			return tenure;
		} catch (error) {
			await this.#close(starting);
			throw error;
		}
	}

	async #adopt(record: InstanceRecord, processes: readonly ProcessSeen[]): Promise<Tenure | null> {
		const folder = this.#host.folders(record.instance).instance;
		const found = await Instance.adopt(this.#host, record, processes, folder);
		failpoint("companion.adopt");
		if (found === null) {
			this.#host.ports.release(record.port);
			await rm(folder, { recursive: true, force: true });
			return null;
		}
		const instance = found instanceof Instance ? found : null;
		const gone = found instanceof Instance ? null : found.gone;
		const held = instance === null ? {} : { pid: instance.pid, startTime: instance.startTime };
		const tenure: Tenure = {
			// Ready only once more when every slot that still lives was looked at.
			record: { ...record, ...held, ready: record.ready && instance !== null },
			instance,
			gone,
			followers: this.#follow(record),
		};
		this.#tenures.set(record.slot, tenure);
		this.#host.changed(this);
		return tenure;
	}

	#follow({ instance }: InstanceRecord): Follower[] {
		const { revision } = this.spec;
		const folder = this.#host.folders(instance).instance;
		return (["stdout", "stderr"] as const).map((stream) =>
			this.#host.log.follow({ file: `${folder}/${stream}`, revision, instance, stream }),
		);
	}

	/** How it ended; null when the run is to stop. */
	async #watch(tenure: Tenure): Promise<Ending | null> {
		const { instance } = tenure;
		if (instance === null) return { exitCode: tenure.gone, late: null, upMs: 0 };
		const told = Promise.withResolvers<null>();
		const tell = () => told.resolve(null);
		const aborted = told.promise;
		if (this.#stop.signal.aborted) return null;
		this.#stop.signal.addEventListener("abort", tell, { once: true });
		try {
			return await this.#watchUntil(tenure, instance, aborted);
		} finally {
			this.#stop.signal.removeEventListener("abort", tell);
		}
	}

	async #watchUntil(tenure: Tenure, instance: Instance, aborted: Promise<null>): Promise<Ending | null> {
		const { clock, platform } = this.#host;
		const { startedAt, port } = tenure.record;
		const exit = instance.exited.then((exitCode) => ({ exitCode, late: null, upMs: clock.now() - startedAt }));
		if (!tenure.record.ready) {
			const waiting = new AbortController();
			const signal = AbortSignal.any([waiting.signal, this.#stop.signal]);
			const { aliveMs } = this.#host.settings();
			const watched = { port, startedAt, pids: () => instance.pids() };
			const readiness = untilReady(watched, this.spec.health, { platform, clock, aliveMs, signal }).catch((error) => {
				if (signal.aborted) return null;
				throw error;
			});
			const first = await Promise.race([exit, readiness, aborted]);
			waiting.abort();
			if (first === null || "exitCode" in first) return first;
			if (!first.ready) {
				const lines = await this.#lastLines(tenure, false);
				const late = notListening(port, this.spec.health.timeout, first.elsewhere, first.answer, lines);
				return { exitCode: null, late, upMs: 0 };
			}
			tenure.record = { ...tenure.record, ready: true, host: first.host };
		}
		failpoint("companion.after_ready");
		this.#becameReady();
		await this.#host.persist();
		return Promise.race([exit, aborted]);
	}

	#becameReady(): void {
		const wanted = Math.max(1, this.spec.instances) - this.#endedSlots.size;
		const ready = [...this.#tenures.values()].filter(({ record }) => record.ready).length;
		if (ready >= wanted && this.#phase !== "stopping" && !this.isOver) {
			this.#phase = "ready";
			this.#failure = null;
			this.#everReady = true;
		}
		this.#host.changed(this);
	}

	/** `final`: its program has ended, so a line without an end counts too. */
	async #lastLines({ followers, record }: Tenure, final: boolean): Promise<readonly string[]> {
		await this.#heard(followers.map((follower) => (final ? follower.close(true) : follower.flush())));
		return this.#host.log.lastLines(record.instance, LAST_LINES);
	}

	/** Output that the disk refuses is lost; the program is not ended for it. */
	async #heard(reads: readonly Promise<void>[]): Promise<void> {
		for (const read of await Promise.allSettled(reads))
			if (read.status === "rejected") this.#host.report(`output of ${this.spec.id} could not be kept`, read.reason);
	}

	/** Ends what is left of it, keeps its output, and forgets it. */
	async #close(tenure: Tenure): Promise<void> {
		const { record, instance, followers } = tenure;
		const wasReady = record.ready;
		tenure.record = { ...record, ready: false };
		if (wasReady) this.#host.changed(this);
		const { graceMs } = this.#host.settings();
		await (instance === null ? endMarked(this.#host, record.instance, graceMs) : instance.stop(graceMs));
		await this.#heard(followers.map((follower) => follower.close(true)));
		this.#tenures.delete(record.slot);
		this.#host.ports.release(record.port);
		await this.#host.persist();
		await rm(this.#host.folders(record.instance).instance, { recursive: true, force: true });
	}

	/** What an ending means. True: start it again. */
	#judge(slot: number, { exitCode, late }: Ending, { port }: InstanceRecord, lines: readonly string[]): boolean {
		if (this.#phase === "stopping" || this.isOver) return false;
		const { restart } = this.spec;
		const { failedStarts, crashLoop } = this.#host.settings();
		const done = late === null && exitCode === 0 && restart !== "always";
		if (!this.#everReady) {
			if (done && !this.#host.anotherServes(this)) return this.#end("ended", null);
			if (late !== null) return this.#end("failed", late);
			this.#failedStarts++;
			this.#failure = failedStart({ exitCode, lastLines: lines }, port, this.#failedStarts);
			if (done || (restart === "never" && !lostItsPort(lines, port)) || this.#failedStarts >= failedStarts)
				return this.#end("failed", this.#failure);
			return true;
		}
		if (done) {
			this.#endedSlots.add(slot);
			return this.#endedSlots.size >= Math.max(1, this.spec.instances) ? this.#end("ended", null) : false;
		}
		const why = late ?? failure("exited", `the program ${howItEnded(exitCode)}`, exitCode, lines);
		if (restart === "never") return this.#end("failed", why);
		const now = this.#host.clock.now();
		this.#exits = [...this.#exits, now].filter((at) => now - at <= crashLoop.withinMs).slice(-crashLoop.exits);
		const looping = this.#exits.length >= crashLoop.exits;
		this.#phase = looping ? "failed" : "starting";
		this.#failure = looping
			? failure(
					"crash_loop",
					`${this.#exits.length} exits within ${minutes(crashLoop.withinMs)}: ${why.message}`,
					exitCode,
					lines,
				)
			: why;
		return true;
	}

	#end(phase: "ended" | "failed", why: RuntimeFailure | null): false {
		if (this.#phase !== "stopping") {
			this.#phase = phase;
			this.#failure = why;
		}
		this.#stop.abort();
		return false;
	}
}

function minutes(ms: number): string {
	return ms >= 60_000 ? `${Math.round(ms / 60_000)} min` : `${ms / 1000} s`;
}
