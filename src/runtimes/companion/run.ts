import { isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { Upstream } from "../forwarder/forwarder.ts";
import type { RevisionObserved, RevisionPhase } from "../runtime.ts";
import { fromWall, toWall } from "./clock.ts";
import type { Running } from "./engine.ts";
import { failure } from "./failures.ts";
import type { Ports } from "./ports.ts";
import type { InstanceRecord, RunRecord, SpecRecord } from "./state-file.ts";
import { LAST_LINES, type Lived, Tenure, type TenureHost } from "./tenure.ts";
import { isOver, judge, type Standing } from "./verdict.ts";
import type { Vigil } from "./vigil.ts";

export type RunHost = TenureHost & {
	readonly ports: Ports;
	readonly vigil: Vigil;
	readonly newId: () => string;
	/** Resolves when the service's state is durable; tries again for as long as the disk refuses. */
	persist(): Promise<void>;
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
	readonly #tenures = new Map<number, Tenure>();
	/** Taken in advance for its first programs. */
	readonly #ports: number[];
	#waiting: readonly InstanceRecord[];
	#work: Promise<unknown> = Promise.resolve();
	#standing: Standing;

	constructor(host: RunHost, record: RunRecord, ports: readonly number[] = []) {
		this.#host = host;
		this.spec = record.spec;
		const { phase, failure: why, everReady, failedStarts, endedSlots } = record;
		const exits = record.exits.map((time) => fromWall(host.clock, time));
		this.#standing = { phase, failure: why, everReady, failedStarts, exits, endedSlots };
		this.#waiting = record.instances;
		this.#ports = [...ports];
		for (const { port } of record.instances) host.ports.hold(port);
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
		return !this.isOver || this.#tenures.size > 0;
	}

	is(spec: Pick<SpecRecord, "revision" | "generation">): boolean {
		return this.spec.revision === spec.revision && this.spec.generation === spec.generation;
	}

	get #slots(): number {
		return Math.max(1, this.spec.instances);
	}

	/** Starts the programs, or goes on with those that an earlier companion has started. */
	start(): void {
		const records = this.#waiting;
		if (this.isOver) {
			for (const { port } of records) this.#host.ports.release(port);
			this.#waiting = [];
			return;
		}
		const slots = Array.from({ length: this.#slots }, (_, slot) => slot);
		this.#work = Promise.all(
			slots
				.filter((slot) => !this.#standing.endedSlots.includes(slot))
				.map((slot) =>
					this.#keep(
						slot,
						records.find((record) => record.slot === slot),
					),
				),
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
		return [...this.#tenures.values()]
			.filter(({ record }) => record.ready)
			.map(({ record }) => ({ id: record.instance, host: record.host, port: record.port }));
	}

	get record(): RunRecord {
		const held = [...this.#tenures.values()].map(({ record }) => record);
		return {
			...this.#standing,
			spec: this.spec,
			exits: this.#standing.exits.map((time) => toWall(this.#host.clock, time)),
			instances: [...held, ...this.#waiting.filter(({ slot }) => !this.#tenures.has(slot))],
		};
	}

	get observed(): RevisionObserved {
		const { revision, generation } = this.spec;
		const { phase, failure: why } = this.#standing;
		const instances = this.record.instances.map(({ instance, pid, ready }) => ({ instance, pid, ready }));
		return { revision, generation, phase, failure: why, instances };
	}

	/** A slot's whole life. Never rejects: what goes wrong ends the run. */
	async #keep(slot: number, record: InstanceRecord | undefined): Promise<void> {
		const { signal } = this.#stop;
		let failures = 0;
		let waiting = record;
		try {
			while (!signal.aborted) {
				const adopted = waiting === undefined ? null : await this.#adopt(waiting);
				waiting = undefined;
				this.#waiting = this.#waiting.filter((candidate) => candidate.slot !== slot);
				const tenure = adopted ?? (await this.#begin(slot));
				if (tenure === null) break;
				let again = false;
				let atOnce = false;
				try {
					const ending = await this.#watch(tenure);
					if (ending !== null && !signal.aborted) {
						// The world is told before what is left of it is ended: that may take the whole grace.
						const lines = await tenure.lastLines(ending.late === null);
						failures = ending.upMs >= this.#host.settings().stableMs ? 1 : failures + 1;
						// Where that goes on and on it is no fault of the program's, and still no reason to be busy with it.
						atOnce = ending.excused === true && failures === 1;
						tenure.record = { ...tenure.record, ready: false };
						again = this.#judge(tenure, ending, lines);
						this.#host.changed(this);
					}
				} finally {
					await this.#close(tenure);
				}
				await this.#host.persist();
				this.#host.changed(this);
				if (!again) break;
				if (atOnce) continue;
				const { backoffFirstMs, backoffMostMs } = this.#host.settings();
				await this.#host.clock.sleep(Math.min(backoffMostMs, backoffFirstMs * 2 ** (failures - 1)), signal);
			}
		} catch (error) {
			this.#host.report(`revision ${this.spec.revision} of ${this.spec.id} could not be kept running`, error);
			const why = failure("internal", wordsOf(error), null, this.#standing.failure?.lastLines ?? []);
			if (this.phase !== "stopping") this.#standing = { ...this.#standing, phase: "failed", failure: why };
			this.#stop.abort();
			await this.#host.persist();
			this.#host.changed(this);
		}
	}

	/** Null where the run ended before there was a port for it, or the engine could be reached. */
	async #begin(slot: number): Promise<Tenure | null> {
		const port = this.#ports.pop() ?? (await this.#takePort());
		if (port === null) return null;
		const tenure = Tenure.fresh(this.#host, this.spec, slot, port, this.#host.newId());
		this.#tenures.set(slot, tenure);
		try {
			await this.#host.persist();
			failpoint("companion.before_spawn");
			await tenure.start(this.#stop.signal);
			await this.#host.persist();
			this.#host.changed(this);
			return tenure;
		} catch (error) {
			await this.#close(tenure);
			if (this.#stop.signal.aborted && isAppError(error, "unavailable")) return null;
			throw error;
		}
	}

	#takePort(): Promise<number | null> {
		const { clock, ports } = this.#host;
		const limitMs = this.everReady ? Number.POSITIVE_INFINITY : this.spec.health.timeout * 1000;
		return ports.takeInTime(clock, limitMs, this.#stop.signal);
	}

	async #adopt(record: InstanceRecord): Promise<Tenure | null> {
		const tenure = await Tenure.adopt(this.#host, this.spec, record);
		failpoint("companion.adopt");
		if (tenure === null) {
			this.#host.ports.release(record.port);
			return null;
		}
		this.#tenures.set(record.slot, tenure);
		this.#host.changed(this);
		return tenure;
	}

	/** How it ended; null when the run is to stop. */
	async #watch(tenure: Tenure): Promise<Lived | null> {
		const { running } = tenure;
		if (running === null) return { ...(tenure.gone ?? { exitCode: null }), late: null, upMs: 0 };
		const told = Promise.withResolvers<null>();
		const tell = () => told.resolve(null);
		const aborted = told.promise;
		if (this.#stop.signal.aborted) return null;
		this.#stop.signal.addEventListener("abort", tell, { once: true });
		try {
			return await this.#watchUntil(tenure, running, aborted);
		} finally {
			this.#stop.signal.removeEventListener("abort", tell);
		}
	}

	async #watchUntil(tenure: Tenure, running: Running, aborted: Promise<null>): Promise<Lived | null> {
		const { clock, vigil } = this.#host;
		const { startedAt } = tenure;
		const { health } = this.spec;
		const exit = running.exited.then((how) => ({ ...how, late: null, upMs: clock.now() - startedAt }));
		// One that had stopped listening before it was adopted is not ended for it now.
		if (!tenure.record.ready && tenure.record.lapsed !== true) {
			const first = await tenure.untilReady(running, exit, aborted, this.#stop.signal);
			if (first !== "ready") return first;
		}
		failpoint("companion.after_ready");
		if (tenure.record.ready) this.#becameReady();
		await this.#host.persist();
		const record = () => tenure.record;
		const host = () => running.listeningAt();
		const lapsed = (why: string) => this.#lapsed(tenure, why);
		const recovered = (at: string) => this.#recovered(tenure, at);
		const stopWatching = vigil.add({ record, health, host, lapsed, recovered }, !tenure.record.ready);
		try {
			return await Promise.race([exit, aborted]);
		} finally {
			stopWatching();
		}
	}

	#becameReady(): void {
		const wanted = this.#slots - this.#standing.endedSlots.length;
		const ready = [...this.#tenures.values()].filter(({ record }) => record.ready).length;
		if (ready >= wanted && this.phase !== "stopping" && !this.isOver)
			this.#standing = { ...this.#standing, phase: "ready", failure: null, everReady: true };
		this.#host.changed(this);
	}

	/** It lives, so it is not started again; but no request goes to it. */
	#lapsed(tenure: Tenure, why: string): void {
		tenure.record = { ...tenure.record, ready: false, lapsed: true };
		const lines = this.#host.log.lastLines(tenure.record.instance, LAST_LINES);
		if (this.phase === "ready")
			this.#standing = { ...this.#standing, phase: "starting", failure: failure("not_listening", why, null, lines) };
		this.#host.changed(this);
		this.#keepInMind();
	}

	#recovered(tenure: Tenure, host: string): void {
		tenure.record = { ...tenure.record, ready: true, lapsed: false, host };
		this.#becameReady();
		this.#keepInMind();
	}

	#keepInMind(): void {
		this.#host.persist().catch((error) => this.#host.report(`the state of ${this.spec.id} could not be kept`, error));
	}

	/** Ends what is left of it, keeps its output, and forgets it. */
	async #close(tenure: Tenure): Promise<void> {
		const { record } = tenure;
		tenure.record = { ...record, ready: false };
		if (record.ready) this.#host.changed(this);
		await tenure.end();
		this.#tenures.delete(record.slot);
		this.#host.ports.release(record.port);
		await this.#host.persist();
		await tenure.discard();
	}

	/** True: start it again. */
	#judge({ record }: Tenure, ending: Lived, lastLines: readonly string[]): boolean {
		const { clock, settings } = this.#host;
		const { slot, port } = record;
		const { standing, again } = judge(
			this.#standing,
			{ ...ending, slot, port, lastLines, at: clock.now() },
			{ ...settings(), restart: this.spec.restart, slots: this.#slots, anotherServes: this.#host.anotherServes(this) },
		);
		this.#standing = standing;
		if (this.isOver) this.#stop.abort();
		return again;
	}
}

/** For the service's owner: what is no AppError was not meant to be read by anybody but the operator. */
function wordsOf(error: unknown): string {
	return isAppError(error) ? error.message : "it could not be run, for a reason of the server's; its log has it";
}
