import { type AppError, isAppError } from "../../errors.ts";
import type { Upstream } from "../forwarder/forwarder.ts";
import type { RevisionObserved, RevisionPhase } from "../runtime.ts";
import { fromWall, toWall } from "./clock.ts";
import { failure } from "./failures.ts";
import { isReachable } from "./reach.ts";
import { Slot, type SlotHost, type SlotRun } from "./slot.ts";
import type { InstanceRecord, RunRecord, SpecRecord } from "./state-file.ts";
import type { Lived } from "./tenure.ts";
import { isOver, judge, type Standing } from "./verdict.ts";

export type RunHost = SlotHost & {
	/** Something about this run is different now. */
	changed(run: Run): void;
	/** Whether another revision has the requests. */
	anotherServes(run: Run): boolean;
};

/** One generation of one revision: keeps its programs running as the spec says, and knows how it stands with them. */
export class Run {
	readonly spec: SpecRecord;
	readonly #host: RunHost;
	readonly #stop = new AbortController();
	readonly #slots: readonly Slot[];
	/** Taken in advance for its first programs. */
	readonly #ports: number[];
	#work: Promise<unknown> = Promise.resolve();
	#standing: Standing;

	constructor(host: RunHost, record: RunRecord, ports: readonly number[] = []) {
		this.#host = host;
		this.spec = record.spec;
		const { phase, failure: why, everReady, failedStarts, endedSlots } = record;
		const exits = record.exits.map((time) => fromWall(host.clock, time));
		this.#standing = { phase, failure: why, everReady, failedStarts, exits, endedSlots };
		this.#ports = [...ports];
		const own = this.#forSlots();
		const left = (slot: number) => record.instances.find((instance) => instance.slot === slot) ?? null;
		const count = Math.max(1, record.spec.instances);
		this.#slots = Array.from({ length: count }, (_, slot) => new Slot(host, own, slot, left(slot)));
	}

	/** `ports` are taken already, one for each of its programs. */
	static fresh(host: RunHost, spec: SpecRecord, ports: readonly number[]): Run {
		const record = { phase: "starting", failure: null, everReady: false, failedStarts: 0 } as const;
		return new Run(host, { ...record, spec, exits: [], endedSlots: [], instances: [] }, ports);
	}

	get phase(): RevisionPhase {
		return this.#standing.phase;
	}

	/** It has been ready once, so it may have the requests. */
	get everReady(): boolean {
		return this.#standing.everReady;
	}

	/** Nothing of it runs or will run again. */
	get isOver(): boolean {
		return isOver(this.#standing);
	}

	/** Whether it has processes, or will. */
	get busy(): boolean {
		return !this.isOver || this.#slots.some(({ held }) => held);
	}

	is(spec: Pick<SpecRecord, "revision" | "generation">): boolean {
		return this.spec.revision === spec.revision && this.spec.generation === spec.generation;
	}

	/** Starts the programs, or goes on with those that an earlier companion has started. */
	start(): void {
		if (this.isOver) {
			for (const slot of this.#slots) slot.forget();
			return;
		}
		const { endedSlots } = this.#standing;
		this.#work = Promise.all(
			this.#slots.filter(({ number }) => !endedSlots.includes(number)).map((slot) => slot.keep()),
		);
	}

	/** From now on what ends is not started again. */
	retire(): void {
		if (!this.isOver) this.#standing = { ...this.#standing, phase: "stopping" };
	}

	/** Resolves when no process of it is left. */
	async stop(): Promise<void> {
		this.retire();
		this.#stop.abort();
		await this.#work;
		for (const port of this.#ports.splice(0)) this.#host.ports.release(port);
	}

	/** Where requests can go now. */
	get upstreams(): Upstream[] {
		return this.#slots.map(({ upstream }) => upstream).filter((upstream) => upstream !== null);
	}

	get record(): RunRecord {
		return {
			...this.#standing,
			spec: this.spec,
			exits: this.#standing.exits.map((time) => toWall(this.#host.clock, time)),
			instances: this.#slots.map(({ record }) => record).filter((record) => record !== null),
		};
	}

	get observed(): RevisionObserved {
		const { revision, generation } = this.spec;
		const { phase, failure: why } = this.#standing;
		const instances = this.record.instances.map(({ instance, pid, ready }) => ({ instance, pid, ready }));
		return { revision, generation, phase, failure: why, instances };
	}

	#forSlots(): SlotRun {
		const run = this;
		return {
			spec: this.spec,
			signal: this.#stop.signal,
			get everReady() {
				return run.everReady;
			},
			portInAdvance: () => this.#ports.pop(),
			changed: () => this.#host.changed(this),
			becameReady: () => this.#becameReady(),
			lapsed: (why, lastLines) => this.#lapsed(why, lastLines),
			waits: (why) => this.#waits(why),
			judge: (record, ending, lastLines) => this.#judge(record, ending, lastLines),
			failed: (error) => this.#failed(error),
		};
	}

	#becameReady(): void {
		const wanted = this.#slots.length - this.#standing.endedSlots.length;
		const ready = this.#slots.filter((slot) => slot.ready).length;
		if (ready >= wanted && this.phase !== "stopping" && !this.isOver)
			this.#standing = { ...this.#standing, phase: "ready", failure: null, everReady: true };
		this.#host.changed(this);
	}

	#lapsed(why: string, lastLines: readonly string[]): void {
		if (this.phase === "ready")
			this.#standing = {
				...this.#standing,
				phase: "starting",
				failure: failure("not_listening", why, null, lastLines),
			};
		this.#host.changed(this);
	}

	/** Why it is not there. Of an engine that is away everybody is told who asks. */
	#waits({ message }: AppError): void {
		const { phase, failure: before } = this.#standing;
		if (phase !== "starting" || before?.message === message || !isReachable(this.#host.engine)) return;
		this.#standing = { ...this.#standing, failure: failure("internal", message, null, before?.lastLines ?? []) };
		this.#host.changed(this);
	}

	#judge({ slot, port }: InstanceRecord, ending: Lived, lastLines: readonly string[]): boolean {
		const { clock, settings } = this.#host;
		const slots = this.#slots.length;
		const { standing, again } = judge(
			this.#standing,
			{ ...ending, slot, port, lastLines, at: clock.now() },
			{ ...settings(), restart: this.spec.restart, slots, anotherServes: this.#host.anotherServes(this) },
		);
		this.#standing = standing;
		if (this.isOver) this.#stop.abort();
		return again;
	}

	async #failed(error: unknown): Promise<void> {
		this.#host.report(`revision ${this.spec.revision} of ${this.spec.id} could not be kept running`, error);
		const why = failure("internal", wordsOf(error), null, this.#standing.failure?.lastLines ?? []);
		if (this.phase !== "stopping") this.#standing = { ...this.#standing, phase: "failed", failure: why };
		this.#stop.abort();
		await this.#host.persist();
		this.#host.changed(this);
	}
}

/** For the service's owner: what is no AppError was not meant to be read by anybody but the operator. */
function wordsOf(error: unknown): string {
	return isAppError(error) ? error.message : "it could not be run, for a reason of the server's; its log has it";
}
