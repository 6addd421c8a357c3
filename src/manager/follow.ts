import type { Call } from "../blob/store.ts";
import { AppError, isAppError } from "../errors.ts";
import type { LogItem, LogQuery, Runtime } from "../runtimes/runtime.ts";
import type { BuildLogLine, BuildLogs } from "./build-log.ts";
import type { Bulletin } from "./bulletin.ts";
import { logRevision, type RevisionRecord, revisionOf, type ServiceEvent, type ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";

export type Gap = { readonly gap: { readonly from: number; readonly to: number } };
export type End = { readonly end: "deleted" | "finished" };

export type FollowDeps = {
	readonly store: ServiceStore;
	readonly bulletin: Bulletin;
	readonly runtime: Runtime;
	readonly buildLogs: BuildLogs;
};

/** Looked again after this long even if no news came: another server may have made the change. */
const LOOK_MS = 1000;

/** Reads what a service prints and does, past and coming. Streams end quietly when aborted. */
export class Follow {
	readonly #deps: FollowDeps;

	constructor(deps: FollowDeps) {
		this.#deps = deps;
	}

	/** Events with a greater seq; with `follow` until the service is gone. */
	async *events(
		service: ServiceRecord,
		query: { readonly after: number; readonly follow: boolean },
		call: Call,
	): AsyncIterable<{ readonly event: ServiceEvent } | Gap | End> {
		const { store, bulletin } = this.#deps;
		using news = bulletin.subscribe(service.id);
		let seen = query.after;
		while (!call.signal.aborted) {
			const exists = (await store.getById(service.id)) !== undefined;
			for await (const event of store.events(service.id, seen)) {
				if (event.seq > seen + 1) yield { gap: { from: seen + 1, to: event.seq - 1 } };
				seen = event.seq;
				yield { event };
			}
			if (!query.follow) return;
			if (!exists) return yield { end: "deleted" };
			await news.next(call.signal, LOOK_MS);
		}
	}

	/** A program's output; with `follow` until the service is gone. */
	async *logs(service: ServiceRecord, query: LogQuery, call: Call): AsyncIterable<LogItem | End> {
		const gone = new AbortController();
		const watch = query.follow ? this.#untilGone(service.id, AbortSignal.any([call.signal, gone.signal])) : undefined;
		const ended = watch?.finally(() => gone.abort());
		try {
			const signal = AbortSignal.any([call.signal, gone.signal]);
			yield* quietly(this.#deps.runtime.logs(service, query, { signal }), signal);
			if (query.follow && !call.signal.aborted) yield { end: "deleted" };
		} finally {
			gone.abort();
			await ended;
		}
	}

	/**
	 * How a revision was built: the named one, or the newest that was built or is to be. Rejects with `not_found`, or `gone`
	 * where the log was collected, before the first line; ends with `end` once no more can come.
	 */
	async buildLog(
		service: ServiceRecord,
		revision: number | undefined,
		query: { readonly after: number; readonly follow: boolean },
		call: Call,
	): Promise<AsyncIterable<{ readonly line: BuildLogLine; readonly revision: number } | End>> {
		const record = await this.#revision(service, revision ?? service.newest);
		if (record === undefined)
			throw new AppError("not_found", `${service.name}:${service.version} has no revision ${revision}`, {
				field: "revision",
			});
		const number = logRevision(record);
		// Those at hand keep theirs; it may not have been begun.
		if (revisionOf(service, record.revision) === undefined && wasBuilt(record)) {
			const kept = await this.#deps.buildLogs.revisions(service.id);
			if (!kept.includes(number))
				throw new AppError(
					"gone",
					`the build log of revision ${record.revision} of ${service.name}:${service.version} is no longer kept`,
				);
		}
		return this.#buildLines(service.id, number, query, call);
	}

	async *#buildLines(
		id: string,
		revision: number,
		query: { readonly after: number; readonly follow: boolean },
		call: Call,
	): AsyncIterable<{ readonly line: BuildLogLine; readonly revision: number } | End> {
		const { store, buildLogs } = this.#deps;
		const ended = async () => {
			const service = await store.getById(id);
			const status = service && (await this.#revision(service, revision))?.status;
			return status !== "Pending" && status !== "Building";
		};
		for await (const line of buildLogs.read(id, revision, { ...query, ended }, call)) yield { line, revision };
		if (!query.follow || call.signal.aborted) return;
		yield { end: (await store.getById(id)) === undefined ? "deleted" : "finished" };
	}

	async #revision(service: ServiceRecord, revision: number) {
		return revisionOf(service, revision) ?? (await this.#deps.store.revision(service.id, revision));
	}

	async #untilGone(id: string, signal: AbortSignal): Promise<void> {
		using news = this.#deps.bulletin.subscribe(id);
		while (!signal.aborted) {
			if ((await this.#deps.store.getById(id)) === undefined) return;
			await news.next(signal, LOOK_MS);
		}
	}
}

/** Whether its build was begun, and with it a log: not of one that was cancelled before its turn came. */
function wasBuilt({ build, launch, error }: RevisionRecord): boolean {
	return build !== null || launch !== null || (error !== null && error.phase !== "pending");
}

/** What comes until the signal is aborted; that a runtime rejects then is its right and no fault. */
async function* quietly<T>(items: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
	try {
		yield* items;
	} catch (error) {
		if (!(signal.aborted && isAppError(error, "cancelled"))) throw error;
	}
}
