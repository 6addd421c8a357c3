import type { Blobs } from "../blob/blobs.ts";
import { type Build, BuildError, type Builder, type SourceTree } from "../builders/builder.ts";
import { AppError, isAppError, messageOf } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import type { BuildLogs, BuildLogWriter } from "./build-log.ts";
import type { Draft } from "./draft.ts";
import type { Editor } from "./editor.ts";
import type { Logger } from "./logger.ts";
import {
	type BuildRecord,
	buildKey,
	type RevisionError,
	type RevisionRecord,
	revisionError,
	revisionOf,
	type ServiceRecord,
} from "./model.ts";
import { Semaphore } from "./semaphore.ts";

export type BuildSettings = {
	/** Builds at the same time. */
	readonly parallel: number;
	/** Milliseconds that one build may take. */
	readonly timeoutMs: number;
	/** What builds are made for. */
	readonly target: { readonly os: string; readonly arch: string };
};

export type BuildDeps = {
	readonly editor: Editor;
	readonly blobs: Blobs;
	readonly builders: readonly Builder[];
	readonly buildLogs: BuildLogs;
	/** Opens the source of a revision; disposing the tree removes what was unpacked. */
	readonly openSource: (namespace: string, source: string) => SourceTree;
	readonly log: Logger;
};

type Task = { readonly revision: number; readonly abort: AbortController; readonly done: Promise<void> };

/** Why a build was ended from outside: the revision is moved by whoever ended it, or put back by a shutdown. */
const STALE = new AppError("cancelled", "the revision is not wanted any more");
const SHUTDOWN = new AppError("cancelled", "the server is going down");
const TIMEOUT = new AppError("deadline", "the build took too long");

/** Runs builds, at most one for each service and `parallel` in all, from Pending to Starting or Error. */
export class Builds {
	readonly #deps: BuildDeps;
	readonly #settings: BuildSettings;
	readonly #slots: Semaphore;
	readonly #tasks = new Map<string, Task>();

	constructor(deps: BuildDeps, settings: BuildSettings) {
		this.#deps = deps;
		this.#settings = settings;
		this.#slots = new Semaphore(settings.parallel);
	}

	/** The revision being built (or waiting for its turn), if any. */
	building(id: string): number | undefined {
		return this.#tasks.get(id)?.revision;
	}

	/** Begins to build a Pending revision, if no build of this service is under way. `finished` is called at its end. */
	start(service: ServiceRecord, revision: number, finished: () => void): void {
		if (this.#tasks.has(service.id)) return;
		const abort = new AbortController();
		const done = this.#run(service, revision, abort.signal)
			.catch((error: unknown) => {
				this.#deps.log.error({ err: error, service: service.id, revision }, "a build could not be recorded");
			})
			.finally(() => {
				this.#tasks.delete(service.id);
				finished();
			});
		this.#tasks.set(service.id, { revision, abort, done });
	}

	/** Ends the build of a service; resolves when its processes are gone. */
	async stop(id: string): Promise<void> {
		const task = this.#tasks.get(id);
		task?.abort.abort(STALE);
		await task?.done;
	}

	/** Ends all builds and puts them back to Pending. */
	async shutdown(): Promise<void> {
		for (const task of this.#tasks.values()) task.abort.abort(SHUTDOWN);
		await Promise.all([...this.#tasks.values()].map((task) => task.done));
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
		try {
			const begun = await editor.edit(service.id, (draft) => {
				if (wanted(draft, revision, "Pending")) draft.move(revision, "Building");
			});
			const record = begun === undefined ? undefined : revisionOf(begun, revision);
			if (record?.status !== "Building") return;
			failpoint("manager.build_start");
			const outcome = await this.#outcome(service, record, signal);
			await editor.edit(service.id, (draft) => {
				if (!wanted(draft, revision, "Building")) return;
				if (outcome === "put_back") draft.move(revision, "Pending");
				else if ("code" in outcome) draft.move(revision, "Error", outcome);
				else draft.move(revision, "Starting", null, { build: outcome });
			});
			failpoint("manager.build_recorded");
		} finally {
			release();
		}
	}

	async #outcome(
		service: ServiceRecord,
		revision: RevisionRecord,
		signal: AbortSignal,
	): Promise<BuildRecord | RevisionError | "put_back"> {
		await using log = await this.#deps.buildLogs.open(service.id, revision.revision);
		const limit = new AbortController();
		const timer = setTimeout(() => limit.abort(TIMEOUT), this.#settings.timeoutMs);
		try {
			return await this.#build(service, revision, log, AbortSignal.any([signal, limit.signal]));
		} catch (error) {
			if (signal.reason === SHUTDOWN) {
				log.append("the server is going down; this build is begun again when it is back");
				return "put_back";
			}
			const failure = limit.signal.aborted
				? revisionError("build_timeout", "build", `the build took longer than ${this.#settings.timeoutMs / 1000} s`)
				: failureOf(error);
			if (failure.code === "internal")
				this.#deps.log.error({ err: error, service: service.id, revision: revision.revision }, "a build failed");
			log.append(failure.message);
			return failure;
		} finally {
			clearTimeout(timer);
		}
	}

	async #build(
		service: ServiceRecord,
		revision: RevisionRecord,
		log: BuildLogWriter,
		signal: AbortSignal,
	): Promise<BuildRecord> {
		const call = { signal };
		await using source = this.#deps.openSource(service.namespace, revision.source);
		const builder = await this.#choose(source, revision.entrypoint, signal);
		const { entrypoint } = revision;
		const options = { entrypoint, env: {}, target: this.#settings.target };
		await using build = await builder.build(source, options, { signal, log: (line) => log.append(line) });
		failpoint("manager.build_done");
		try {
			await this.#store(service, revision.revision, build, call);
		} catch (error) {
			if (signal.aborted) throw error;
			throw new StoreFailure(error);
		}
		failpoint("manager.build_stored");
		const { sha256, size, requires } = build;
		return { sha256, size, requires, builder: build.builder, revision: revision.revision };
	}

	async #choose(source: SourceTree, entrypoint: string, signal: AbortSignal): Promise<Builder> {
		for (const builder of this.#deps.builders) if (await builder.detect(source, entrypoint, { signal })) return builder;
		const markers = this.#deps.builders.flatMap((builder) => builder.markers).join(", ");
		throw new BuildError("source_invalid", `there is nothing to build in ${entrypoint}: it has none of ${markers}`);
	}

	async #store(service: ServiceRecord, revision: number, build: Build, call: { signal: AbortSignal }): Promise<void> {
		const blobs = this.#deps.blobs.in(service.namespace);
		const key = buildKey(service.id, revision);
		// A crash between storing and recording leaves bytes that nobody refers to; this build takes their place.
		await blobs.delete(key, call);
		await blobs.put(key, build.body, { ...call, sha256: build.sha256 });
	}
}

/** Row 16: the build was made but could not be kept. */
class StoreFailure extends Error {
	constructor(cause: unknown) {
		super("the build could not be stored", { cause });
	}
}

function wanted(draft: Draft, revision: number, status: RevisionRecord["status"]): boolean {
	return draft.service.desired === "running" && revisionOf(draft.service, revision)?.status === status;
}

function failureOf(error: unknown): RevisionError {
	if (error instanceof BuildError) {
		const { code, message, diagnostics, retryable, exitCode } = error;
		const phase = code === "source_invalid" ? "source" : "build";
		return revisionError(code, phase, message, {
			diagnostics,
			retryable,
			...(exitCode === undefined ? {} : { exitCode }),
		});
	}
	if (error instanceof StoreFailure)
		return revisionError("internal", "build_store", `the build could not be stored: ${reason(error.cause)}`, {
			retryable: true,
		});
	if (isAppError(error, "invalid_argument") || isAppError(error, "too_large"))
		return revisionError("source_invalid", "source", error.message);
	if (isAppError(error, "not_found"))
		return revisionError("source_invalid", "source", "the source is no longer stored; upload it again");
	return revisionError("internal", "build", "the build failed for a reason of the server's; its log has it", {
		retryable: true,
	});
}

function reason(error: unknown): string {
	return isAppError(error, "no_space") ? "the server's disk is full" : messageOf(error);
}
