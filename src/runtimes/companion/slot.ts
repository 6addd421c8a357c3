import { type AppError, isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { Upstream } from "../forwarder/forwarder.ts";
import type { Running } from "./engine.ts";
import type { Ports } from "./ports.ts";
import type { InstanceRecord, SpecRecord } from "./state-file.ts";
import { LAST_LINES, type Lived, Tenure, type TenureHost } from "./tenure.ts";
import type { Vigil } from "./vigil.ts";

export type SlotHost = TenureHost & {
	readonly ports: Ports;
	readonly vigil: Vigil;
	readonly newId: () => string;
	/** Resolves when the service's state is durable; tries again for as long as the disk refuses. */
	persist(): Promise<void>;
};

/** The run that a slot belongs to: it knows what the ends of programs mean, for all of its slots together. */
export type SlotRun = {
	readonly spec: SpecRecord;
	readonly everReady: boolean;
	/** Aborted: nothing is to run any more. */
	readonly signal: AbortSignal;
	/** One that was taken in advance, where there is one left. */
	portInAdvance(): number | undefined;
	/** Something is different now. */
	changed(): void;
	/** This slot's program is ready; the others may be or not. */
	becameReady(): void;
	/** A program lives and does not listen. */
	lapsed(why: string, lastLines: readonly string[]): void;
	/** Nothing could be started yet, and will be tried again. */
	waits(why: AppError): void;
	/** True: start it again. */
	judge(record: InstanceRecord, ending: Lived, lastLines: readonly string[]): boolean;
	/** It cannot be kept running. */
	failed(error: unknown): Promise<void>;
};

/** The place of one program of a run: whatever ends there is followed by another, for as long as the run says so. */
export class Slot {
	readonly number: number;
	readonly #host: SlotHost;
	readonly #run: SlotRun;
	/** What an earlier companion left there, until it is looked at. */
	#waiting: InstanceRecord | null;
	#tenure: Tenure | null = null;

	constructor(host: SlotHost, run: SlotRun, number: number, record: InstanceRecord | null) {
		this.#host = host;
		this.#run = run;
		this.number = number;
		this.#waiting = record;
		if (record !== null) host.ports.hold(record.port);
	}

	/** Whether there is a program of ours. */
	get held(): boolean {
		return this.#tenure !== null;
	}

	get ready(): boolean {
		return this.#tenure?.record.ready === true;
	}

	get record(): InstanceRecord | null {
		return this.#tenure?.record ?? this.#waiting;
	}

	/** Where requests can go now. */
	get upstream(): Upstream | null {
		const record = this.#tenure?.record;
		return record?.ready === true ? { id: record.instance, host: record.host, port: record.port } : null;
	}

	/** Gives up what an earlier companion left there. */
	forget(): void {
		if (this.#waiting !== null) this.#host.ports.release(this.#waiting.port);
		this.#waiting = null;
	}

	/** The slot's whole life. Never rejects: what goes wrong ends the run. */
	async keep(): Promise<void> {
		const { signal } = this.#run;
		let failures = 0;
		try {
			while (!signal.aborted) {
				const tenure = (await this.#adopt()) ?? (await this.#begin());
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
						again = this.#run.judge(tenure.record, ending, lines);
						this.#run.changed();
					}
				} finally {
					await this.#close(tenure);
				}
				await this.#host.persist();
				this.#run.changed();
				if (!again) break;
				if (atOnce) continue;
				const { backoffFirstMs, backoffMostMs } = this.#host.settings();
				await this.#host.clock.sleep(Math.min(backoffMostMs, backoffFirstMs * 2 ** (failures - 1)), signal);
			}
		} catch (error) {
			await this.#run.failed(error);
		}
	}

	/** Null where the run ended before there was a port for it, or the engine could start it. */
	async #begin(): Promise<Tenure | null> {
		const { spec, everReady, signal } = this.#run;
		const port = this.#run.portInAdvance() ?? (await this.#takePort());
		if (port === null) return null;
		const tenure = Tenure.fresh(this.#host, spec, this.number, port, this.#host.newId());
		this.#tenure = tenure;
		try {
			tenure.verify();
			await this.#host.persist();
			failpoint("companion.before_spawn");
			await tenure.start(everReady, signal, (why) => this.#run.waits(why));
			await this.#host.persist();
			this.#run.changed();
			return tenure;
		} catch (error) {
			await this.#close(tenure);
			if (signal.aborted && isAppError(error, "unavailable")) return null;
			throw error;
		}
	}

	#takePort(): Promise<number | null> {
		const { clock, ports } = this.#host;
		const { everReady, spec, signal } = this.#run;
		const limitMs = everReady ? Number.POSITIVE_INFINITY : spec.health.timeout * 1000;
		return ports.takeInTime(clock, limitMs, signal);
	}

	/** Null where there is nothing to go on with. */
	async #adopt(): Promise<Tenure | null> {
		const record = this.#waiting;
		if (record === null) return null;
		const tenure = await Tenure.adopt(this.#host, this.#run.spec, record);
		failpoint("companion.adopt");
		this.#waiting = null;
		if (tenure === null) {
			this.#host.ports.release(record.port);
			return null;
		}
		this.#tenure = tenure;
		this.#run.changed();
		return tenure;
	}

	/** How it ended; null when the run is to stop. */
	async #watch(tenure: Tenure): Promise<Lived | null> {
		const { running } = tenure;
		const { signal } = this.#run;
		if (running === null) return { ...(tenure.gone ?? { exitCode: null }), late: null, upMs: 0 };
		const told = Promise.withResolvers<null>();
		const tell = () => told.resolve(null);
		if (signal.aborted) return null;
		signal.addEventListener("abort", tell, { once: true });
		try {
			return await this.#watchUntil(tenure, running, told.promise);
		} finally {
			signal.removeEventListener("abort", tell);
		}
	}

	async #watchUntil(tenure: Tenure, running: Running, aborted: Promise<null>): Promise<Lived | null> {
		const { clock, vigil } = this.#host;
		const { startedAt } = tenure;
		const { health } = this.#run.spec;
		const exit = running.exited.then((how) => ({ ...how, late: null, upMs: clock.now() - startedAt }));
		// One that had stopped listening before it was adopted is not ended for it now.
		if (!tenure.record.ready && tenure.record.lapsed !== true) {
			const first = await tenure.untilReady(running, exit, aborted, this.#run.signal);
			if (first !== "ready") return first;
		}
		failpoint("companion.after_ready");
		if (tenure.record.ready) this.#run.becameReady();
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

	/** It lives, so it is not started again; but no request goes to it. */
	#lapsed(tenure: Tenure, why: string): void {
		tenure.record = { ...tenure.record, ready: false, lapsed: true };
		this.#run.lapsed(why, this.#host.log.lastLines(tenure.record.instance, LAST_LINES));
		this.#keepInMind();
	}

	#recovered(tenure: Tenure, host: string): void {
		tenure.record = { ...tenure.record, ready: true, lapsed: false, host };
		this.#run.becameReady();
		this.#keepInMind();
	}

	#keepInMind(): void {
		const { id } = this.#run.spec;
		this.#host.persist().catch((error) => this.#host.report(`the state of ${id} could not be kept`, error));
	}

	/** Ends what is left of it, keeps its output, and forgets it. */
	async #close(tenure: Tenure): Promise<void> {
		const { record } = tenure;
		tenure.record = { ...record, ready: false };
		if (record.ready) this.#run.changed();
		await tenure.end();
		this.#tenure = null;
		this.#host.ports.release(record.port);
		await this.#host.persist();
		await tenure.discard();
	}
}
