import type { Blobs } from "../blob/blobs.ts";
import { isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import type { Observed, Runtime } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import type { BuildLogs } from "./build-log.ts";
import type { Builds } from "./builds.ts";
import type { Editor } from "./editor.ts";
import type { Logger } from "./logger.ts";
import { type RevisionRecord, revisionError, revisionOf, type ServiceRecord } from "./model.ts";
import { isWatched, reconcile, servesUnwanted, unwanted, wantsApply } from "./reconcile.ts";
import { Remover } from "./remover.ts";
import { discard, mayBuild, mayRun } from "./rules.ts";
import { RuntimeWatch } from "./runtime-watch.ts";
import { type RetryTimes, Schedule } from "./schedule.ts";
import { Starter } from "./starter.ts";
import type { ServiceStore } from "./store.ts";
import type { Waiters } from "./waiters.ts";

export type DriverDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly builds: Builds;
	readonly blobs: Blobs;
	/** Of the synchronous flow. */
	readonly directories: Directories | null;
	readonly runtime: Runtime;
	readonly buildLogs: BuildLogs;
	readonly log: Logger;
	readonly waiters: Waiters;
	readonly now: () => Date;
	readonly retryMs: RetryTimes;
};

/** Looked at again even if nobody reported a change. */
const POLL_MS = 30_000;
/** A revision that the runtime gives no verdict on ends after three of its own health timeouts and this. */
const START_SLACK_MS = 180_000;

/**
 * Brings every service from what it is to what is wanted. Level-triggered: each step reads the record, asks the runtime,
 * does the next thing and records it, so that a step may be lost, repeated or interrupted by a crash at any place.
 */
export class Driver {
	readonly #deps: DriverDeps;
	readonly #starter: Starter;
	readonly #remover: Remover;
	readonly #schedule: Schedule;

	constructor(deps: DriverDeps) {
		this.#deps = deps;
		this.#schedule = new Schedule((id, signal, leave) => this.#step(id, signal, leave), deps);
		this.#remover = new Remover(deps);
		this.#starter = new Starter({ ...deps, wake: (id) => this.wake(id) });
	}

	/** Takes up what an earlier server left, then follows the runtime. Resolves when every service was woken. */
	async start(): Promise<void> {
		failpoint("manager.recover");
		for await (const service of this.#deps.store.all()) {
			if (service.revisions.some((revision) => revision.status === "Building")) await this.#putBack(service);
			this.wake(service.id);
		}
		const { runtime, store, log, retryMs } = this.#deps;
		const pauseMs = retryMs.first * 10;
		const watch = new RuntimeWatch({ runtime, store, log, pauseMs, wake: (id) => this.wake(id) });
		this.#schedule.track(watch.follow(this.#schedule.signal));
		this.#schedule.track(watch.removeStrangers(this.#schedule.signal));
	}

	/** Ends all loops and puts builds back. Services go on. */
	async shutdown(): Promise<void> {
		this.#schedule.stop();
		await this.#deps.builds.shutdown();
		await this.#schedule.ended();
	}

	/** Something about this service may have changed. */
	wake(id: string): void {
		this.#schedule.wake(id);
	}

	async #step(id: string, signal: AbortSignal, leave: () => void): Promise<number | undefined> {
		const { store, builds, runtime } = this.#deps;
		const service = await store.getById(id);
		if (service === undefined) return undefined;
		if (this.#isForsaken(service)) {
			await this.#deps.editor.edit(id, (draft) => {
				if (this.#isForsaken(draft.service)) discard(draft);
			});
			this.wake(id);
			return undefined;
		}
		const building = builds.building(id);
		if (building !== undefined && !mayBuild(service, building)) {
			leave();
			await builds.stop(id, building);
		}
		const remaking = builds.remaking(id);
		if (remaking !== undefined && !mayRun(service, remaking)) {
			leave();
			await builds.stop(id, remaking);
		}
		if (service.desired === "removed") {
			leave();
			await this.#remover.remove(service, signal);
			this.#schedule.succeeded(id);
			return undefined;
		}
		// Its end could not be recorded. Builds begin nowhere but in a step, so that nobody else is at it.
		if (builds.building(id) === undefined && service.revisions.some(({ status }) => status === "Building")) {
			await this.#putBack(service);
			this.wake(id);
			return undefined;
		}

		const newest = revisionOf(service, service.newest);
		if (service.desired === "running" && newest?.status === "Pending") {
			if (newest.build !== null) await this.#skipBuild(service);
			else builds.start(service, newest.revision, (failure) => this.#buildEnded(id, failure));
		}

		const observed = await this.#observe(service, signal);
		if (observed === undefined) return this.#deps.retryMs.first * 10;
		const stops = service.desired === "stopped" && service.revisions.some(({ status }) => status === "Stopping");
		const surplus = unwanted(service, observed);
		const halts = stops || servesUnwanted(service, observed);
		if (halts || surplus.length > 0) leave();
		if (halts) await runtime.stop(service, { signal });
		for (const revision of surplus) await runtime.abandon(service, revision, { signal });

		const current = (await store.getById(id)) ?? service;
		const due = wantsApply(current, observed);
		if (due !== undefined) {
			failpoint("manager.before_apply");
			const remade = (failure: unknown) => this.#schedule.track(this.#remade(current, due, failure, signal));
			if (!(await this.#starter.apply(current, due, signal, remade))) return this.#deps.retryMs.first * 10;
			failpoint("manager.after_apply");
		}
		const after = await runtime.observe(service, { signal });
		const done = await this.#deps.editor.edit(id, (draft) => {
			reconcile(draft, after);
			this.#expire(draft.service, (revision) =>
				draft.move(revision, "Error", revisionError("internal", "start", "the runtime gave no verdict in time")),
			);
			if (draft.touched) failpoint("manager.before_verdict");
		});
		if (builds.building(id) === undefined && builds.remaking(id) === undefined) this.#schedule.succeeded(id);
		if (done !== undefined && done.stamp !== current.stamp) {
			failpoint("manager.after_verdict");
			this.wake(id);
		}
		return done?.revisions.some((revision) => isWatched(revision) || revision.status === "Stopping")
			? POLL_MS
			: undefined;
	}

	/**
	 * Whether nobody waits any more for a service that is being created: it failed, whoever asked went away, or the server
	 * was killed. What is decided here is tried again until it is on disk.
	 */
	#isForsaken({ id, hidden, desired }: ServiceRecord): boolean {
		return hidden === true && desired !== "removed" && !this.#deps.waiters.has(id, 1);
	}

	/** What the runtime sees; undefined where it cannot be reached, and then the service is Unknown. */
	async #observe(service: ServiceRecord, signal: AbortSignal): Promise<Observed | undefined> {
		try {
			return await this.#deps.runtime.observe(service, { signal });
		} catch (error) {
			if (!isAppError(error, "unavailable")) throw error;
			await this.#deps.editor.edit(service.id, (draft) => {
				const live = revisionOf(draft.service, draft.service.live);
				if (live?.status === "Running" || live?.status === "Starting") draft.move(live.revision, "Unknown");
				this.#expire(draft.service, (revision) =>
					draft.move(
						revision,
						"Error",
						revisionError("unavailable", "start", "the runtime could not be reached", { retryable: true }),
					),
				);
			});
			return undefined;
		}
	}

	/** Ends what has been Starting for longer than any start may take. */
	#expire(service: ServiceRecord, end: (revision: number) => void): void {
		const now = this.#deps.now().getTime();
		for (const { status, revision, updatedAt, health } of service.revisions) {
			const limit = 3 * health.timeout * 1000 + START_SLACK_MS;
			if (status === "Starting" && revision !== service.live && now - Date.parse(updatedAt) > limit) end(revision);
		}
	}

	async #skipBuild(service: ServiceRecord): Promise<void> {
		await this.#deps.editor.edit(service.id, (draft) => {
			const newest = revisionOf(draft.service, draft.service.newest);
			if (draft.service.desired === "running" && newest?.status === "Pending" && newest.build !== null)
				draft.move(newest.revision, "Starting");
		});
		this.wake(service.id);
	}

	/** The folder of a revision was made again, or could not be; where it was, it is started in the next step. */
	async #remade(
		service: ServiceRecord,
		revision: RevisionRecord,
		failure: unknown,
		signal: AbortSignal,
	): Promise<void> {
		try {
			if (failure === undefined) this.wake(service.id);
			else if (!(await this.#starter.refuse(service, revision, failure, signal)))
				this.#schedule.wakeLater(service.id, this.#deps.retryMs.first * 10);
		} catch (error) {
			if (!signal.aborted) this.#schedule.wakeLater(service.id, this.#schedule.failed(service.id, error));
		}
	}

	/** `failure`: its end could not be recorded; the next step puts it back, after a while. */
	#buildEnded(id: string, failure: unknown): void {
		if (failure === undefined) this.wake(id);
		else this.#schedule.wakeLater(id, this.#schedule.failed(id, failure));
	}

	async #putBack(service: ServiceRecord): Promise<void> {
		await this.#deps.editor.edit(service.id, (draft) => {
			for (const { revision, status } of draft.service.revisions)
				if (status === "Building") draft.move(revision, "Pending");
		});
	}
}
