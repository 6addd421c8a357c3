import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { Semaphore } from "../semaphore.ts";
import { failureOf } from "./build-failure.ts";
import type { BuildLogs, BuildLogWriter } from "./build-log.ts";
import type { Draft } from "./draft.ts";
import type { Editor } from "./editor.ts";
import { Leavings } from "./leavings.ts";
import type { Logger } from "./logger.ts";
import type { Made, Maker } from "./maker.ts";
import {
	type RevisionError,
	type RevisionRecord,
	revisionError,
	revisionOf,
	type ServiceRecord,
	type Wish,
} from "./model.ts";
import { type OpenedSource, remoteOf } from "./remote-sources.ts";
import type { ServiceStore } from "./store.ts";

export type BuildSettings = {
	/** Builds at the same time. */
	readonly parallel: number;
	/** Milliseconds that one build may take. */
	readonly timeoutMs: number;
};

export type BuildDeps = {
	readonly store: Pick<ServiceStore, "revision">;
	readonly editor: Editor;
	readonly maker: Maker;
	readonly buildLogs: BuildLogs;
	/** Opens the source of a revision; disposing the tree removes what was unpacked or fetched. */
	readonly openSource: (namespace: string, wish: Wish) => OpenedSource;
	readonly log: Logger;
};

type Task = { readonly revision: number; readonly abort: AbortController; readonly done: Promise<void> };

/** Why a build was ended from outside: the revision is moved by whoever ended it, or put back by a shutdown. */
const STALE = new AppError("cancelled", "the revision is not wanted any more");
const SHUTDOWN = new AppError("cancelled", "the server is going down");
const TIMEOUT = new AppError("deadline", "the build took too long");
/** Milliseconds for the removal of a build that nobody wants. */
const DISCARD_MS = 10_000;

/** Runs builds, at most one for each service and `parallel` in all, from Pending to Starting or Error. */
export class Builds {
	readonly #deps: BuildDeps;
	readonly #settings: BuildSettings;
	readonly #slots: Semaphore;
	readonly #tasks = new Map<string, Task>();
	/** Folders that are made again: of revisions that were built before, so that a newer one may be built meanwhile. */
	readonly #remakes = new Map<string, Task>();
	/** Removals of what ended builds have left; each has its build's slot. */
	readonly #removals = new Set<Promise<void>>();
	#closed = false;

	constructor(deps: BuildDeps, settings: BuildSettings) {
		this.#deps = deps;
		this.#settings = settings;
		this.#slots = new Semaphore(settings.parallel);
	}

	/** The revision being built (or waiting for its turn), if any. */
	building(id: string): number | undefined {
		return this.#tasks.get(id)?.revision;
	}

	/** The revision whose folder is being made again, if any. */
	remaking(id: string): number | undefined {
		return this.#remakes.get(id)?.revision;
	}

	/**
	 * Begins to build a Pending revision, if no build of this service is under way. `finished` is called at its end, with
	 * the reason where its end could not be recorded.
	 */
	start(service: ServiceRecord, revision: number, finished: (failure: unknown) => void): void {
		this.#begin(this.#tasks, service.id, revision, (signal) => this.#run(service, revision, signal), finished);
	}

	/**
	 * Begins to make a revision's folder again, if none of this service is being made again. `finished` is called at its end,
	 * with the reason where it failed; not being wanted any more is no failure.
	 */
	remake(service: ServiceRecord, revision: RevisionRecord, finished: (failure: unknown) => void): void {
		const work = (signal: AbortSignal) => this.#remake(service, revision, signal);
		this.#begin(this.#remakes, service.id, revision.revision, work, finished);
	}

	#begin(
		tasks: Map<string, Task>,
		id: string,
		revision: number,
		work: (signal: AbortSignal) => Promise<void>,
		finished: (failure: unknown) => void,
	): void {
		if (this.#closed || tasks.has(id)) return;
		const abort = new AbortController();
		const done = work(abort.signal)
			.then(
				() => undefined,
				(error: unknown) => error,
			)
			.then((failure) => {
				tasks.delete(id);
				finished(failure);
			});
		tasks.set(id, { revision, abort, done });
	}

	/** Ends what is made for a service, or for one revision of it; resolves when its processes are gone. */
	async stop(id: string, revision?: number): Promise<void> {
		const tasks = [this.#tasks.get(id), this.#remakes.get(id)].filter(
			(task) => task !== undefined && (revision === undefined || task.revision === revision),
		);
		for (const task of tasks) task?.abort.abort(STALE);
		await Promise.all(tasks.map((task) => task?.done));
	}

	/** Ends all builds and puts them back to Pending. */
	async shutdown(): Promise<void> {
		this.#closed = true;
		const tasks = [...this.#tasks.values(), ...this.#remakes.values()];
		for (const task of tasks) task.abort.abort(SHUTDOWN);
		await Promise.all(tasks.map((task) => task.done));
		await Promise.all(this.#removals);
	}

	async #run(service: ServiceRecord, revision: number, signal: AbortSignal): Promise<void> {
		const { editor } = this.#deps;
		let release: () => void;
		try {
			release = await this.#slots.acquire(signal);
		} catch (error) {
			if (isAppError(error, "cancelled")) return;
			throw error;
		}
		const leavings = new Leavings(this.#deps.log);
		try {
			const begun = await editor.edit(service.id, (draft) => {
				if (wanted(draft, revision, "Pending")) draft.move(revision, "Building");
			});
			const record = begun === undefined ? undefined : revisionOf(begun, revision);
			if (record?.status !== "Building") return;
			failpoint("manager.build_start");
			const outcome = await this.#outcome(service, record, leavings, signal);
			let unwanted = false;
			await editor.edit(service.id, (draft) => {
				unwanted = !wanted(draft, revision, "Building");
				if (unwanted) return;
				if (outcome === "put_back") draft.move(revision, "Pending");
				else if ("code" in outcome) draft.move(revision, "Error", outcome);
				else draft.move(revision, "Starting", null, outcome);
			});
			failpoint("manager.build_recorded");
			if (unwanted) await this.#discard(service, revision);
		} finally {
			const removal = leavings[Symbol.asyncDispose]().then(() => {
				release();
				this.#removals.delete(removal);
			});
			this.#removals.add(removal);
		}
	}

	async #outcome(
		service: ServiceRecord,
		revision: RevisionRecord,
		leavings: Leavings,
		signal: AbortSignal,
	): Promise<Made | RevisionError | "put_back"> {
		await using log = await this.#deps.buildLogs.open(service.id, revision.revision);
		const limit = new AbortController();
		const timer = setTimeout(() => limit.abort(TIMEOUT), this.#settings.timeoutMs);
		try {
			return await this.#make(service, revision, { log, leavings }, AbortSignal.any([signal, limit.signal]));
		} catch (error) {
			if (signal.reason === SHUTDOWN) {
				log.append("the server is going down; this build is begun again when it is back");
				return "put_back";
			}
			if (signal.reason === STALE) {
				// Whoever ended it has moved the revision already.
				log.append("this build was ended: the revision is not wanted any more");
				return "put_back";
			}
			const words = `the build took longer than ${this.#settings.timeoutMs / 1000} s`;
			const failure = limit.signal.aborted ? revisionError("build_timeout", "build", words) : failureOf(error);
			if (failure.code === "internal")
				this.#deps.log.error({ err: error, service: service.id, revision: revision.revision }, "a build failed");
			// The compiler's own words are in the log already.
			if (failure.diagnostics.length === 0) log.append(failure.message);
			return failure;
		} finally {
			clearTimeout(timer);
		}
	}

	async #make(
		service: ServiceRecord,
		revision: RevisionRecord,
		{ log, leavings }: { readonly log: BuildLogWriter; readonly leavings: Leavings },
		signal: AbortSignal,
	): Promise<Made> {
		const source = leavings.keep(this.#deps.openSource(service.namespace, revision));
		const located = await this.#located(service, revision, source, signal);
		return await this.#deps.maker.make(service, located, source, {
			signal,
			log: (line) => log.append(line),
			keep: (thing) => void leavings.keep(thing),
		});
	}

	/** A remote whose host did not answer when it was asked for is settled now, and its commit is on the revision from here on. */
	async #located(service: ServiceRecord, revision: RevisionRecord, source: OpenedSource, signal: AbortSignal) {
		const remote = remoteOf(revision);
		if (remote?.state !== "deferred" || source.pinned === undefined) return revision;
		const pinned = await source.pinned({ signal });
		const settled = {
			source: pinned.source,
			remote: { state: "pinned", commit: pinned.commit },
			entrypoint: remote.entrypoint === "given" ? revision.entrypoint : pinned.folder,
		} as const;
		await this.#deps.editor.edit(service.id, (draft) => {
			const record = revisionOf(draft.service, revision.revision);
			if (record !== undefined) draft.amend({ ...record, ...settled });
		});
		return { ...revision, ...settled };
	}

	/** Removes what was made of a revision that was given up meanwhile. Where that fails, the sweep at the next start does. */
	async #discard(service: ServiceRecord, revision: number): Promise<void> {
		const { store, maker, log } = this.#deps;
		try {
			const record = await store.revision(service.id, revision);
			// An attempt to record it may have been made although it was not answered: then the record has the build.
			if (record?.status !== "Error" || record.build !== null || record.launch !== null) return;
			await maker.discard(service, revision, { signal: AbortSignal.timeout(DISCARD_MS) });
		} catch (error) {
			log.warn({ err: error, service: service.id, revision }, "a build that nobody wants could not be removed");
		}
	}

	async #remake(service: ServiceRecord, revision: RevisionRecord, signal: AbortSignal): Promise<void> {
		const limit = new AbortController();
		let timer: NodeJS.Timeout | undefined;
		let release: (() => void) | undefined;
		try {
			release = await this.#slots.acquire(signal);
			timer = setTimeout(() => limit.abort(TIMEOUT), this.#settings.timeoutMs);
			await using log = await this.#deps.buildLogs.open(service.id, revision.revision);
			await using leavings = new Leavings(this.#deps.log);
			log.append("the folder of this revision is gone and is made again");
			await this.#make(service, revision, { log, leavings }, AbortSignal.any([signal, limit.signal]));
		} catch (error) {
			if (!signal.aborted) throw error;
		} finally {
			clearTimeout(timer);
			release?.();
		}
	}
}

function wanted(draft: Draft, revision: number, status: RevisionRecord["status"]): boolean {
	return draft.service.desired === "running" && revisionOf(draft.service, revision)?.status === status;
}
