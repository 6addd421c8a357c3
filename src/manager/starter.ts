import type { Blobs } from "../blob/blobs.ts";
import { isAppError } from "../errors.ts";
import type { Runtime } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import type { Builds } from "./builds.ts";
import type { Editor } from "./editor.ts";
import type { Logger } from "./logger.ts";
import { type RevisionRecord, revisionError, revisionOf, type ServiceRecord } from "./model.ts";
import { failStart, isWatched } from "./reconcile.ts";
import { specOf } from "./spec.ts";

export type StarterDeps = {
	readonly editor: Editor;
	readonly builds: Builds;
	readonly blobs: Blobs;
	/** Of the synchronous flow. */
	readonly directories: Directories | null;
	readonly runtime: Runtime;
	readonly log: Logger;
	/** Something about a service is different now. */
	readonly wake: (id: string) => void;
};

/** Tells the runtime of the revisions that are to run, and records why one could not be started. */
export class Starter {
	readonly #deps: StarterDeps;

	constructor(deps: StarterDeps) {
		this.#deps = deps;
	}

	/**
	 * True when the runtime has taken the wish; false when it cannot be reached; Error when it will never take it. A folder
	 * that is gone is made again first: `remade` is called at its end, with the reason where that failed.
	 */
	async apply(
		service: ServiceRecord,
		revision: RevisionRecord,
		signal: AbortSignal,
		remade: (failure: unknown) => void,
	): Promise<boolean> {
		const spec = specOf(service, revision, this.#deps);
		if (spec === undefined) return true;
		const { directories, builds } = this.#deps;
		try {
			if (spec.program.kind === "directory" && !(await directories?.exists(service.id, revision.revision))) {
				builds.remake(service, revision, remade);
				return true;
			}
			await this.#deps.runtime.apply(spec, { signal });
			return true;
		} catch (error) {
			return this.refuse(service, revision, error, signal);
		}
	}

	/** Records why a start failed. False where it may be tried again: the runtime, or where the source is, cannot be reached. */
	async refuse(
		service: ServiceRecord,
		revision: RevisionRecord,
		error: unknown,
		signal: AbortSignal,
	): Promise<boolean> {
		if (signal.aborted) throw error;
		if (isAppError(error, "unavailable")) return false;
		this.#deps.log.error({ err: error, service: service.id, revision: revision.revision }, "a start failed");
		const failure = revisionError("internal", "start", wordsOf(error), { retryable: !isAppError(error, "damaged") });
		const observed = await this.#deps.runtime.observe(service, { signal });
		const done = await this.#deps.editor.edit(service.id, (draft) => {
			const record = revisionOf(draft.service, revision.revision);
			if (record?.generation === revision.generation && isWatched(record) && record.status !== "Error")
				failStart(draft, record, failure, observed);
		});
		if (done !== undefined && done.stamp !== service.stamp) this.#deps.wake(service.id);
		return true;
	}
}

/** Why a start failed, for whoever asked; what is internal is in the log alone. */
function wordsOf(error: unknown): string {
	if (isAppError(error, "no_space")) return "the server's disk is full";
	if (isAppError(error, "damaged"))
		return "the stored build is damaged: its bytes are not those that were built; update the service so that it is built again, or roll back";
	if (isAppError(error) && error.code !== "internal" && error.code !== "not_found") return error.message;
	return "it could not be started; the server's log says why";
}
