import { readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError, isAppError, systemCode } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { ProcessSeen } from "../../platform/platform.ts";
import { Forwarder } from "../forwarder/forwarder.ts";
import { ServiceLog } from "../output/log.ts";
import type { Poll } from "../output/poll.ts";
import type { Observed, RevisionObserved, ServiceRef } from "../runtime.ts";
import type { InstanceHost } from "./instance.ts";
import type { Ports } from "./ports.ts";
import { Run, type RunHost } from "./run.ts";
import { type ServiceState, type SpecRecord, StateFile } from "./state-file.ts";

const RETRY_MS = { first: 20, most: 1_000 };

export type ServiceHost = InstanceHost & {
	readonly ports: Ports;
	readonly newId: () => string;
	readonly poll: Poll;
	/** Folder of all services. */
	readonly folder: string;
	/** Where a removed service's folder goes before it is deleted. */
	readonly trash: string;
	changed(service: ServiceRef): void;
	report(message: string, error: unknown): void;
};

type Retirement = { readonly done: Promise<void>; readonly hurry: AbortController };

/** One service: its address, the revision that serves, the one that is to, and those on their way out. */
export class Service {
	readonly ref: ServiceRef;
	readonly #host: ServiceHost;
	readonly #folder: string;
	readonly #file: StateFile;
	readonly #log: ServiceLog;
	readonly #runs: RunHost;
	readonly #retiring = new Map<Run, Retirement>();
	readonly #closing = new AbortController();
	#live: Run | null = null;
	#target: Run | null = null;
	#forwarder: Forwarder | null = null;
	#port: number | null;
	#removing: boolean;
	#turn: Promise<unknown> = Promise.resolve();

	private constructor(host: ServiceHost, ref: ServiceRef, log: ServiceLog, state: ServiceState | null) {
		this.#host = host;
		this.ref = { id: ref.id, namespace: ref.namespace, name: ref.name, version: ref.version };
		this.#folder = join(host.folder, ref.id);
		this.#file = new StateFile(this.#folder);
		this.#log = log;
		this.#port = state?.port ?? null;
		this.#removing = state?.removing ?? false;
		if (this.#port !== null) host.ports.hold(this.#port);
		this.#runs = {
			...host,
			log,
			folders: (instance) => ({
				home: join(this.#folder, "home"),
				temporary: join(this.#folder, "tmp"),
				programs: join(this.#folder, "programs"),
				instance: join(this.#folder, "instances", instance),
			}),
			persist: () => this.#persist(),
			changed: (run) => this.#runChanged(run),
			anotherServes: (run) => this.#live !== null && this.#live !== run && !this.#live.isOver,
		};
	}

	/** A service that is new, or, with `state`, one that an earlier companion had; `processes` are then looked through. */
	static async open(
		host: ServiceHost,
		ref: ServiceRef,
		state: ServiceState | null = null,
		processes: readonly ProcessSeen[] = [],
	): Promise<Service> {
		const log = await ServiceLog.open(join(host.folder, ref.id, "log"), { poll: host.poll });
		const service = new Service(host, ref, log, state);
		if (state !== null) service.#resume(state, processes);
		return service;
	}

	/** Whether a companion must live for it. */
	get needed(): boolean {
		const works = (run: Run | null) => run?.busy === true;
		return works(this.#live) || works(this.#target) || this.#retiring.size > 0 || this.#removing;
	}

	get removing(): boolean {
		return this.#removing;
	}

	get observed(): Observed {
		const runs = [...this.#retiring.keys(), this.#live, this.#target].filter((run) => run !== null);
		const revisions = new Map(
			runs.map((run) => [`${run.spec.revision}.${run.spec.generation}`, this.#observedOf(run)] as const),
		);
		return {
			url: this.#port === null ? null : `http://${urlHost(this.#host.settings().publicHost)}:${this.#port}`,
			serving: this.#live === null || this.#live.isOver ? null : this.#live.spec.revision,
			revisions: [...revisions.values()].sort((a, b) => a.revision - b.revision || a.generation - b.generation),
		};
	}

	/** A target is ready for the world when it has the requests, and not a moment before. */
	#observedOf(run: Run): RevisionObserved {
		const { observed } = run;
		return run === this.#target && observed.phase === "ready" ? { ...observed, phase: "starting" } : observed;
	}

	/** Rejects with `not_found` where the program's file is not in its place. */
	apply(spec: SpecRecord): Promise<void> {
		return this.#inTurn(async () => {
			if (this.#removing) throw new AppError("conflict", "the service is being removed");
			if (this.#live?.is(spec) || this.#target?.is(spec)) return;
			if (spec.program.kind === "build") await this.#mustExist(spec.program.sha256);
			await this.#listen();
			const previous = this.#target;
			const run = Run.fresh(this.#runs, spec);
			this.#target = run;
			try {
				await this.#file.save(() => this.#state);
			} catch (error) {
				this.#target = previous;
				throw systemCode(error) === "ENOSPC" ? new AppError("no_space", "the disk is full", { cause: error }) : error;
			}
			if (previous !== null) this.#retire(previous, false);
			run.start();
			this.#host.changed(this.ref);
		});
	}

	async abandon(revision: number): Promise<void> {
		const run = this.#target;
		if (run?.spec.revision !== revision) return;
		const done = await this.#inTurn(async () => {
			if (this.#target !== run) return;
			this.#target = null;
			const retirement = this.#retire(run, false);
			await this.#persist();
			return retirement;
		});
		await done?.done;
	}

	async stop(): Promise<void> {
		await this.#inTurn(async () => {
			const runs = [this.#live, this.#target].filter((run) => run !== null);
			this.#live = null;
			this.#target = null;
			this.#forwarder?.route([]);
			for (const run of runs) this.#retire(run, false);
			await this.#persist();
			for (const { hurry } of this.#retiring.values()) hurry.abort();
		});
		await Promise.all([...this.#retiring.values()].map(({ done }) => done));
	}

	/** Resolves when nothing of it is left. */
	async remove(): Promise<void> {
		this.#removing = true;
		await this.#persist();
		await this.stop();
		await this.close();
		if (this.#port !== null) this.#host.ports.release(this.#port);
		const trash = join(this.#host.trash, `${this.ref.id}.${this.#host.newId()}`);
		try {
			await rename(this.#folder, trash);
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
		}
		await rm(trash, { recursive: true, force: true });
		this.#removing = false;
	}

	/** Stops listening; the programs go on. */
	async close(): Promise<void> {
		this.#closing.abort();
		await this.#forwarder?.[Symbol.asyncDispose]();
		this.#forwarder = null;
		await this.#log[Symbol.asyncDispose]();
	}

	get #state(): ServiceState {
		return {
			format: 1,
			ref: this.ref,
			port: this.#port,
			live: this.#live?.record ?? null,
			target: this.#target?.record ?? null,
			retiring: [...this.#retiring.keys()].map((run) => run.record),
			removing: this.#removing,
		};
	}

	#resume(state: ServiceState, processes: readonly ProcessSeen[]): void {
		if (state.live !== null) this.#live = new Run(this.#runs, state.live);
		if (state.target !== null) this.#target = new Run(this.#runs, state.target);
		for (const record of state.retiring) {
			const run = new Run(this.#runs, record);
			run.start(processes);
			this.#retire(run, false);
		}
		this.#live?.start(processes);
		this.#target?.start(processes);
		if (this.#port !== null && !this.#removing) void this.#listenAgain(this.#port);
	}

	#inTurn<T>(work: () => Promise<T>): Promise<T> {
		const mine = this.#turn.then(work);
		this.#turn = mine.catch(() => undefined);
		return mine;
	}

	async #persist(): Promise<void> {
		for (let delay = RETRY_MS.first; ; delay = Math.min(RETRY_MS.most, delay * 2)) {
			try {
				return await this.#file.save(() => this.#state);
			} catch (error) {
				this.#host.report(`the state of ${this.ref.id} could not be written`, error);
				// A full disk must not keep anybody from making room on it.
				if (this.#removing) return;
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
		this.#forwarder?.route(this.#live?.upstreams ?? []);
	}

	/** The target takes the requests. What has them until then goes on until that is on disk. */
	async #switch(run: Run): Promise<void> {
		if (this.#target !== run) return;
		failpoint("companion.before_switch");
		const previous = this.#live;
		this.#live = run;
		this.#target = null;
		this.#route();
		if (previous !== null) this.#retire(previous, true);
		await this.#persist();
		failpoint("companion.after_switch");
		this.#host.changed(this.ref);
	}

	#retire(run: Run, drain: boolean): Retirement {
		const hurry = new AbortController();
		const upstreams = run.upstreams;
		run.retire();
		const work = async () => {
			const forwarder = this.#forwarder;
			if (drain && forwarder !== null) {
				const options = { timeoutMs: this.#host.settings().drainMs, signal: hurry.signal };
				const draining = upstreams.map(({ id }) => forwarder.drain(id, options));
				for (const { reason } of (await Promise.allSettled(draining)).filter((one) => one.status === "rejected"))
					if (!isAppError(reason, "cancelled")) this.#host.report("a drain failed", reason);
			}
			failpoint("companion.before_stop");
			await run.stop();
			this.#retiring.delete(run);
			await this.#persist();
			await this.#inTurn(() => this.#prune());
			this.#host.changed(this.ref);
		};
		const done = work().catch((error) => {
			this.#retiring.delete(run);
			this.#host.report("a revision could not be stopped", error);
		});
		const retirement = { done, hurry };
		this.#retiring.set(run, retirement);
		return retirement;
	}

	/** Takes a port for life on first use. */
	async #listen(): Promise<void> {
		while (this.#port === null) {
			const port = await this.#host.ports.take();
			try {
				this.#forwarder = await Forwarder.listen({ host: this.#host.settings().publicHost, port });
				this.#port = port;
			} catch (error) {
				this.#host.ports.release(port);
				if (systemCode(error) !== "EADDRINUSE") throw error;
			}
		}
	}

	/** The port is the service's for life: whoever else has it now is waited for. */
	async #listenAgain(port: number): Promise<void> {
		const { signal } = this.#closing;
		for (let delay = RETRY_MS.first; !signal.aborted; delay = Math.min(RETRY_MS.most, delay * 2)) {
			try {
				const forwarder = await Forwarder.listen({ host: this.#host.settings().publicHost, port });
				this.#forwarder = forwarder;
				this.#route();
				if (signal.aborted) await forwarder[Symbol.asyncDispose]();
				return;
			} catch (error) {
				if (systemCode(error) !== "EADDRINUSE") this.#host.report(`port ${port} cannot be listened on`, error);
				await this.#host.clock.sleep(delay, signal);
			}
		}
	}

	async #mustExist(sha256: string): Promise<void> {
		try {
			await stat(join(this.#folder, "programs", sha256));
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
			throw new AppError("not_found", "the program's file is not there", { cause: error });
		}
	}

	/** Deletes the programs that no revision here uses any more. */
	async #prune(): Promise<void> {
		const { live, target, retiring } = this.#state;
		const used = new Set(
			[live, target, ...retiring].map((run) => (run?.spec.program.kind === "build" ? run.spec.program.sha256 : "")),
		);
		const folder = join(this.#folder, "programs");
		try {
			for (const name of await readdir(folder))
				if (/^[0-9a-f]{64}$/.test(name) && !used.has(name)) await rm(join(folder, name), { force: true });
		} catch (error) {
			if (systemCode(error) !== "ENOENT") throw error;
		}
	}
}

function urlHost(host: string): string {
	return host.includes(":") ? `[${host}]` : host;
}
