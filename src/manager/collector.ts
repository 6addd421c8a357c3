import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { failpoint } from "../failpoint.ts";
import type { Directories } from "../sources/directories.ts";
import type { BuildLogs } from "./build-log.ts";
import type { Draft } from "./draft.ts";
import type { Editor } from "./editor.ts";
import { buildKey, KEY_KEPT_MS, type ServiceRecord, sourceKey } from "./model.ts";
import type { ServiceStore } from "./store.ts";

export type CollectorDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly blobs: Blobs;
	/** Of the synchronous flow. */
	readonly directories: Directories | null;
	readonly buildLogs: BuildLogs;
	readonly now: () => Date;
};

export type CollectorSettings = {
	/** Milliseconds that a source without a service is kept from its upload: CI uploads now and creates later. */
	readonly sourceAgeMs: number;
	/** How many of a service's newest builds are kept besides the live one. */
	readonly keepBuilds: number;
};

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

	/** One run over everything. Answers how many sources and builds it removed. */
	async collect(call: Call): Promise<{ readonly sources: number; readonly builds: number }> {
		let builds = 0;
		const again = this.#unsure;
		this.#unsure = true;
		for await (const service of this.#deps.store.all()) {
			if (call.signal.aborted) break;
			builds += await this.#collectBuilds(service, again, call);
			await this.#collectFolders(service);
		}
		for (const id of (await this.#deps.directories?.services()) ?? [])
			if ((await this.#deps.store.getById(id)) === undefined) await this.#deps.directories?.remove(id);
		const sources = await this.#collectSources(call);
		await this.#deps.store.forgetKeys(this.#before(KEY_KEPT_MS));
		this.#unsure = call.signal.aborted;
		return { sources, builds };
	}

	async #collectSources(call: Call): Promise<number> {
		const { store, blobs } = this.#deps;
		const before = this.#before(this.#settings.sourceAgeMs);
		let removed = 0;
		for await (const { namespace, id, createdAt, collected } of store.sources()) {
			if (call.signal.aborted) break;
			if (!collected && (createdAt >= before || !(await store.collectSource(namespace, id)))) continue;
			failpoint("collector.source_marked");
			await blobs.in(namespace).delete(sourceKey(id), call);
			failpoint("collector.source_deleted");
			await store.forgetSource(namespace, id);
			removed++;
		}
		return removed;
	}

	/** `again`: what was marked earlier is deleted once more. */
	async #collectBuilds(service: ServiceRecord, again: boolean, call: Call): Promise<number> {
		const { editor, blobs, buildLogs } = this.#deps;
		let marked: Marked = { now: new Set(), before: new Set() };
		await editor.edit(service.id, async (draft) => {
			marked = draft.service.desired === "removed" ? marked : await this.#markBuilds(draft);
		});
		if (marked.now.size > 0) failpoint("collector.builds_marked");
		for (const revision of [...marked.now, ...(again ? marked.before : [])]) {
			await blobs.in(service.namespace).delete(buildKey(service.id, revision), call);
			await buildLogs.remove(service.id, revision);
		}
		return marked.now.size;
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
