import { readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Ballast, isDiskFull } from "../../ballast.ts";
import { AppError, systemCode } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import { Turns } from "../../turns.ts";
import { ServiceLog } from "../output/log.ts";
import type { Poll } from "../output/poll.ts";
import type { Observed, RevisionObserved, ServiceRef } from "../runtime.ts";
import { Address } from "./address.ts";
import type { Clock } from "./clock.ts";
import type { Engine } from "./engine.ts";
import type { Ports } from "./ports.ts";
import { Retirements } from "./retirements.ts";
import { Run, type RunHost } from "./run.ts";
import type { CompanionSettings } from "./settings.ts";
import { type ServiceState, type SpecRecord, StateFile } from "./state-file.ts";
import type { Vigil } from "./vigil.ts";

const RETRY_MS = { first: 20, most: 1_000 };

export type ServiceHost = {
	readonly engine: Engine;
	readonly clock: Clock;
	readonly settings: () => CompanionSettings;
	readonly bootId: string;
	readonly ports: Ports;
	readonly newId: () => string;
	readonly poll: Poll;
	readonly vigil: Vigil;
	readonly ballast: Ballast;
	/** Folder of all services. */
	readonly folder: string;
	/** Where a removed service's folder goes before it is deleted. */
	readonly trash: string;
	changed(service: ServiceRef): void;
	report(message: string, error: unknown): void;
};

/** One service: its address, the revision that serves, the one that is to, and those on their way out. */
export class Service {
	readonly ref: ServiceRef;
	readonly #host: ServiceHost;
	readonly #folder: string;
	readonly #file: StateFile;
	readonly #log: ServiceLog;
	readonly #runs: RunHost;
	readonly #address: Address;
	readonly #retiring: Retirements;
	readonly #turns = new Turns();
	#live: Run | null = null;
	#target: Run | null = null;
	#life: "here" | "removing" | "removed";

	private constructor(host: ServiceHost, ref: ServiceRef, log: ServiceLog, state: ServiceState | null) {
		this.#host = host;
		this.ref = { id: ref.id, namespace: ref.namespace, name: ref.name, version: ref.version };
		this.#folder = join(host.folder, ref.id);
		this.#file = new StateFile(this.#folder);
		this.#log = log;
		this.#address = new Address(host, state?.port ?? null);
		this.#retiring = new Retirements(host, this.#address, async () => {
			await this.#persist();
			await this.#inTurn(() => this.#prune());
			host.changed(this.ref);
		});
		this.#life = state?.removing === true ? "removing" : "here";
		this.#runs = {
			...host,
			log,
			folders: (instance) => ({
				home: join(this.#folder, "home"),
				temporary: join(this.#folder, "tmp"),
				programs: this.#programs,
				instance: join(this.#folder, "instances", instance),
			}),
			persist: () => this.#persist(),
			changed: (run) => this.#runChanged(run),
			anotherServes: (run) => this.#live !== null && this.#live !== run && !this.#live.isOver,
		};
	}

	/** A service that is new, or, with `state`, one that an earlier companion had. */
	static async open(host: ServiceHost, ref: ServiceRef, state: ServiceState | null = null): Promise<Service> {
		const log = await ServiceLog.open(join(host.folder, ref.id, "log"), { poll: host.poll });
		const service = new Service(host, ref, log, state);
		if (state !== null) service.#resume(state);
		return service;
	}

	/** Whether a companion must live for it. */
	get needed(): boolean {
		const works = (run: Run | null) => run?.busy === true;
		return works(this.#live) || works(this.#target) || this.#retiring.runs.length > 0 || this.removing;
	}

	get removing(): boolean {
		return this.#life === "removing";
	}

	get observed(): Observed {
		const runs = [...this.#retiring.runs, this.#live, this.#target].filter((run) => run !== null);
		const revisions = new Map(
			runs.map((run) => [`${run.spec.revision}.${run.spec.generation}`, this.#observedOf(run)] as const),
		);
		return {
			url: this.#address.url,
			serving: this.#live === null || this.#live.isOver ? null : this.#live.spec.revision,
			revisions: [...revisions.values()].sort((a, b) => a.revision - b.revision || a.generation - b.generation),
		};
	}

	/** A target is ready for the world when it has the requests, and not a moment before. */
	#observedOf(run: Run): RevisionObserved {
		const { observed } = run;
		return run === this.#target && observed.phase === "ready" ? { ...observed, phase: "starting" } : observed;
	}

	/** Rejects as the engine's `check` does, and with `unavailable` where ports are not free. */
	apply(spec: SpecRecord): Promise<void> {
		return this.#inTurn(async () => {
			if (this.#life !== "here") throw new AppError("conflict", "the service is being removed");
			if (this.#live?.is(spec) || this.#target?.is(spec)) return;
			await this.#host.engine.check(spec, this.#programs);
			await this.#address.open();
			const previous = this.#target;
			const run = Run.fresh(this.#runs, spec, await this.#host.ports.takeAll(Math.max(1, spec.instances)));
			this.#target = run;
			try {
				await this.#file.save(() => this.#state);
			} catch (error) {
				this.#target = previous;
				await run.stop();
				throw systemCode(error) === "ENOSPC" ? new AppError("no_space", "the disk is full", { cause: error }) : error;
			}
			if (previous !== null) void this.#retiring.add(previous, false);
			run.start();
			this.#host.changed(this.ref);
		});
	}

	async abandon(revision: number): Promise<void> {
		const run = this.#target;
		if (run?.spec.revision !== revision) return;
		const retirement = await this.#inTurn(async () => {
			if (this.#target !== run) return;
			this.#target = null;
			const done = this.#retiring.add(run, false);
			await this.#persist();
			return { done };
		});
		await retirement?.done;
	}

	async stop(): Promise<void> {
		await this.#inTurn(async () => {
			const runs = [this.#live, this.#target].filter((run) => run !== null);
			this.#live = null;
			this.#target = null;
			this.#address.route([]);
			for (const run of runs) void this.#retiring.add(run, false);
			await this.#persist();
			this.#retiring.hurry();
		});
		await this.#retiring.over();
	}

	/** Resolves when nothing of it is left. */
	async remove(): Promise<void> {
		this.#life = "removing";
		await this.#persist();
		await this.stop();
		await this.close();
		// Whoever still wants to write would make the folder anew.
		await this.#file.close();
		this.#address.release();
		const trash = join(this.#host.trash, `${this.ref.id}.${this.#host.newId()}`);
		try {
			await rename(this.#folder, trash);
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
		}
		await rm(trash, { recursive: true, force: true });
		this.#life = "removed";
	}

	/** Stops listening; the programs go on. */
	async close(): Promise<void> {
		await this.#address.close();
		await this.#log[Symbol.asyncDispose]();
	}

	/** Whether one of its runs has an instance of this name. */
	knows(instance: string): boolean {
		const { live, target, retiring } = this.#state;
		return [live, target, ...retiring].some((run) => run?.instances.some((one) => one.instance === instance));
	}

	get #programs(): string {
		return join(this.#folder, "programs");
	}

	get #state(): ServiceState {
		return {
			format: 1,
			ref: this.ref,
			port: this.#address.port,
			live: this.#live?.record ?? null,
			target: this.#target?.record ?? null,
			retiring: this.#retiring.runs.map((run) => run.record),
			removing: this.removing,
		};
	}

	#resume(state: ServiceState): void {
		if (state.live !== null) this.#live = new Run(this.#runs, state.live);
		if (state.target !== null) this.#target = new Run(this.#runs, state.target);
		for (const record of state.retiring) {
			const run = new Run(this.#runs, record);
			run.start();
			void this.#retiring.add(run, false);
		}
		this.#live?.start();
		this.#target?.start();
		if (!this.removing) this.#address.reopen().catch((error) => this.#host.report("an address is lost", error));
	}

	#inTurn<T>(work: () => Promise<T>): Promise<T> {
		return this.#turns.inTurn(this.ref.id, work);
	}

	async #persist(): Promise<void> {
		for (let delay = RETRY_MS.first; ; delay = Math.min(RETRY_MS.most, delay * 2)) {
			try {
				return await this.#file.save(() => this.#state);
			} catch (error) {
				if (isDiskFull(error) && (await this.#host.ballast.release())) continue;
				this.#host.report(`the state of ${this.ref.id} could not be written`, error);
				// A full disk must not keep anybody from making room on it.
				if (this.#life !== "here") return;
				await this.#host.clock.sleep(delay);
			}
		}
	}

	#runChanged(run: Run): void {
		if (run === this.#target && (run.everReady || run.phase === "ended"))
			this.#inTurn(() => this.#switch(run)).catch((error) => this.#host.report("a switch failed", error));
		this.#route();
		this.#host.changed(this.ref);
	}

	#route(): void {
		this.#address.route(this.#live?.upstreams ?? []);
	}

	/** The target takes the requests. What has them until then goes on until that is on disk. */
	async #switch(run: Run): Promise<void> {
		if (this.#target !== run) return;
		failpoint("companion.before_switch");
		const previous = this.#live;
		this.#live = run;
		this.#target = null;
		this.#route();
		if (previous !== null) void this.#retiring.add(previous, true);
		await this.#persist();
		failpoint("companion.after_switch");
		this.#host.changed(this.ref);
	}

	/** Deletes the programs that no revision here uses any more. */
	async #prune(): Promise<void> {
		const { live, target, retiring } = this.#state;
		const used = new Set(
			[live, target, ...retiring].map((run) => (run?.spec.program.kind === "build" ? run.spec.program.sha256 : "")),
		);
		const folder = this.#programs;
		try {
			for (const name of await readdir(folder))
				if (/^[0-9a-f]{64}$/.test(name) && !used.has(name)) await rm(join(folder, name), { force: true });
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
		}
	}
}
