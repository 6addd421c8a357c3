import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import type { Directories } from "../sources/directories.ts";
import type { BuildLogs } from "./build-log.ts";
import type { Draft } from "./draft.ts";
import type { Editor } from "./editor.ts";
import type { Logger } from "./logger.ts";
import {
	buildKey,
	KEY_KEPT_MS,
	logRevision,
	type RevisionRecord,
	type ServiceRecord,
	type SourceRecord,
	sourceKey,
} from "./model.ts";
import type { ServiceStore } from "./store.ts";
import { sweep } from "./sweep.ts";
import type { Uploads } from "./uploads.ts";

export type CollectorDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly blobs: Blobs;
	readonly uploads: Uploads;
	/** Of the synchronous flow. */
	readonly directories: Directories | null;
	readonly buildLogs: BuildLogs;
	readonly log: Logger;
	readonly now: () => Date;
};

export type CollectorSettings = {
	/** Milliseconds that a source without a service is kept from its upload: CI uploads now and creates later. */
	readonly sourceAgeMs: number;
	/** How many of a service's newest builds are kept besides the live one; and of how many newest revisions the build logs. */
	readonly keepBuilds: number;
	/** Milliseconds that bytes without a record are left alone: whoever stored them may be about to record them. Default an hour. */
	readonly strayAgeMs?: number;
};

const DEFAULT_STRAY_AGE_MS = 3_600_000;

/** Errors that are somebody's wish: their logs tell nothing that is looked for. */
const WISHED = new Set<string | undefined>(["cancelled", "superseded"]);

/** Revisions whose builds are marked as collected: by this run, and by earlier ones. */
type Marked = { readonly now: ReadonlySet<number>; readonly before: ReadonlySet<number> };

/**
 * Removes what nobody can need any more: sources without a service, builds too old to roll back to, idempotency keys past
 * their day. What goes is marked in the records first, in a commit that whoever wants to use it would conflict with or see;
 * only then its bytes are deleted. A crash in between is made good by the next run, or by the sweep at the start.
 */
export class Collector {
	readonly #deps: CollectorDeps;
	readonly #settings: CollectorSettings;
	/** What was marked earlier may not have been deleted: by a run that failed, or before a crash. */
	#unsure = true;

	constructor(deps: CollectorDeps, settings: CollectorSettings) {
		this.#deps = deps;
		this.#settings = settings;
	}

	/**
	 * One run over everything. Answers how many sources and builds it removed. What fails is logged and holds up nothing else;
	 * at the end the run rejects with the code of the first failure.
	 */
	async collect(call: Call): Promise<{ readonly sources: number; readonly builds: number }> {
		const { store, blobs, directories, uploads } = this.#deps;
		const removed = { sources: 0, builds: 0 };
		const failures = new Failures(this.#deps.log, call);
		const again = this.#unsure;
		this.#unsure = true;
		for await (const service of store.all()) {
			if (call.signal.aborted) break;
			await failures.guard({ service: service.id }, async () => {
				removed.builds += await this.#collectBuilds(service, again, call);
				await this.#collectLogs(service);
				await this.#collectFolders(service);
			});
		}
		await failures.guard({ part: "folders" }, async () => {
			for (const id of (await directories?.services()) ?? [])
				if ((await store.getById(id)) === undefined) await directories?.remove(id);
		});
		for await (const source of store.sources()) {
			if (call.signal.aborted) break;
			await failures.guard({ source: source.id }, async () => {
				if (await this.#collectSource(source, call)) removed.sources++;
			});
		}
		await failures.guard({ part: "blobs without a record" }, async () => {
			const from = this.#before(this.#settings.strayAgeMs ?? DEFAULT_STRAY_AGE_MS);
			await sweep(blobs, store, call, { from, isUnderWay: (namespace, key) => uploads.isUnderWay(namespace, key) });
		});
		await failures.guard({ part: "idempotency keys" }, () => store.forgetKeys(this.#before(KEY_KEPT_MS)));
		failures.report();
		this.#unsure = call.signal.aborted;
		return removed;
	}

	/** Answers whether it is gone. */
	async #collectSource(source: SourceRecord & { readonly collected: boolean }, call: Call): Promise<boolean> {
		const { store, blobs } = this.#deps;
		const { namespace, id, createdAt, collected } = source;
		const old = createdAt < this.#before(this.#settings.sourceAgeMs);
		if (!collected && !(old && (await store.collectSource(namespace, id)))) return false;
		failpoint("collector.source_marked");
		await blobs.in(namespace).delete(sourceKey(id), call);
		failpoint("collector.source_deleted");
		await store.forgetSource(namespace, id);
		return true;
	}

	/** `again`: what was marked earlier is deleted once more. */
	async #collectBuilds(service: ServiceRecord, again: boolean, call: Call): Promise<number> {
		const { editor, blobs } = this.#deps;
		let marked: Marked = { now: new Set(), before: new Set() };
		await editor.edit(service.id, async (draft) => {
			marked = draft.service.desired === "removed" ? marked : await this.#markBuilds(draft);
		});
		if (marked.now.size > 0) failpoint("collector.builds_marked");
		for (const revision of [...marked.now, ...(again ? marked.before : [])])
			await blobs.in(service.namespace).delete(buildKey(service.id, revision), call);
		return marked.now.size;
	}

	/** A log is kept with its build; and those of the newest revisions and of the newest failure are, whatever came of them. */
	async #collectLogs({ id }: ServiceRecord): Promise<void> {
		const { buildLogs, store } = this.#deps;
		const present = await buildLogs.revisions(id);
		// Read after that, so that it knows whatever has a log.
		const current = await store.getById(id);
		if (current === undefined || current.desired === "removed") return;
		const kept = new Set(current.revisions.map(logRevision));
		if (present.every((revision) => kept.has(revision))) return;
		let newest = 0;
		let failed = false;
		for await (const record of store.revisions(id, null)) {
			const hasBuild = record.build !== null && record.build.collected !== true;
			const isNewestFailure: boolean = !failed && isFailure(record);
			failed ||= isNewestFailure;
			if (newest++ < this.#settings.keepBuilds || isNewestFailure || hasBuild) kept.add(logRevision(record));
		}
		for (const revision of present) if (!kept.has(revision)) await buildLogs.remove(id, revision);
	}

	/** A folder lives as long as its revision may run; it can be made again from the source. */
	async #collectFolders(service: ServiceRecord): Promise<void> {
		const { directories, store } = this.#deps;
		if (directories === null) return;
		const present = await directories.revisions(service.id);
		if (present.length === 0) return;
		const current = await store.getById(service.id);
		const kept = new Set(current?.revisions.map(({ revision }) => revision));
		// A newer one may be in the making already; it is collected when it is old.
		for (const revision of present)
			if (!kept.has(revision) && revision < (current?.newest ?? 0)) await directories.remove(service.id, revision);
	}

	/** Marks the builds that no kept revision has; answers the revisions whose bytes they were. */
	async #markBuilds(draft: Draft): Promise<Marked> {
		const { id, revisions } = draft.service;
		const kept = new Set(revisions.flatMap(({ build }) => (build === null ? [] : [build.revision])));
		const newest = new Set<number>();
		const marked = { now: new Set<number>(), before: new Set<number>() };
		for await (const record of this.#deps.store.revisions(id, null)) {
			const { build } = record;
			if (build === null) continue;
			if (build.collected === true) {
				marked.before.add(build.revision);
				continue;
			}
			// Revisions that share a build are one build.
			if (newest.size < this.#settings.keepBuilds) newest.add(build.revision);
			if (kept.has(build.revision) || newest.has(build.revision)) continue;
			draft.amend({ ...record, build: { ...build, collected: true } });
			marked.now.add(build.revision);
		}
		return marked;
	}

	#before(ageMs: number): string {
		return new Date(this.#deps.now().getTime() - ageMs).toISOString();
	}
}

function isFailure({ status, error }: RevisionRecord): boolean {
	return status === "Error" && !WISHED.has(error?.code);
}

/** Keeps what fails from what comes after it, and tells of it at the end. */
class Failures {
	readonly #log: Logger;
	readonly #call: Call;
	#count = 0;
	#first: unknown;

	constructor(log: Logger, call: Call) {
		this.#log = log;
		this.#call = call;
	}

	/** `what` is for the log. Does nothing once the call is aborted. */
	async guard(what: object, work: () => Promise<void>): Promise<void> {
		if (this.#call.signal.aborted) return;
		try {
			await work();
		} catch (error) {
			if (this.#call.signal.aborted) throw error;
			this.#log.warn({ err: error, ...what }, "a collection failed; the next run tries again");
			if (this.#count++ === 0) this.#first = error;
		}
	}

	/** Throws where something failed. */
	report(): void {
		if (this.#count === 0) return;
		const code = isAppError(this.#first) ? this.#first.code : "internal";
		throw new AppError(code, `${this.#count} of the things to collect failed; the log names them`, {
			cause: this.#first,
		});
	}
}
