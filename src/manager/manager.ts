import type { Blobs } from "../blob/blobs.ts";
import type { BlobInfo, ByteRange, Call } from "../blob/store.ts";
import { AppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { Draft } from "./draft.ts";
import type { Driver } from "./driver.ts";
import type { Editor } from "./editor.ts";
import {
	type BuildRecord,
	buildKey,
	type Phase,
	type RevisionRecord,
	revisionError,
	revisionOf,
	type ServiceName,
	type ServiceRecord,
	type SourceRecord,
	sourceId,
	sourceKey,
} from "./model.ts";
import { isWatched } from "./reconcile.ts";
import type { ServiceFilter, ServiceStore } from "./store.ts";
import { isOnItsWay } from "./transitions.ts";
import { type CreateRequest, changedWish, changesRevision, merged, newWish, type UpdateRequest } from "./wish.ts";

export type ManagerDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly driver: Driver;
	readonly blobs: Blobs;
	/** A new unique id, of letters, digits and `-`. */
	readonly newId: () => string;
};

export type Page = { readonly services: readonly ServiceRecord[]; readonly next: ServiceName | null };

/**
 * What can be asked of services. Each verb records what is wanted and answers when that is durable; the driver then makes
 * it so. Rejects with AppError: `not_found` (no such service or source in this namespace), `conflict` (the state does not
 * allow it), `invalid_argument` (names the field), and what the store rejects with.
 */
export class Manager {
	readonly #deps: ManagerDeps;

	constructor(deps: ManagerDeps) {
		this.#deps = deps;
	}

	/** Streams an archive into the namespace's blobs; resolves when it is on disk and can be used by a create. */
	async upload(
		namespace: string,
		body: AsyncIterable<Uint8Array>,
		options: Call & { readonly maxBytes: number; readonly sha256?: string },
	): Promise<SourceRecord> {
		const id = this.#deps.newId();
		const key = sourceKey(id);
		const blobs = this.#deps.blobs.in(namespace);
		failpoint("manager.upload_begun");
		const { sha256, size, createdAt } = await blobs.put(key, body, options);
		failpoint("manager.upload_stored");
		const record: SourceRecord = { namespace, id, sha256, size, createdAt };
		await this.#deps.store.putSource(record);
		failpoint("manager.upload_recorded");
		return record;
	}

	async create(namespace: string, request: CreateRequest): Promise<ServiceRecord> {
		const { name, version = "latest" } = request;
		const wish = newWish(request);
		const existing = await this.#deps.store.get({ namespace, name, version });
		if (existing !== undefined) throw exists(existing);
		const metadata = request.metadata ?? {};
		const draft = Draft.create(
			{ id: this.#deps.newId(), namespace, name, version, metadata },
			this.#deps.editor.timestamp(),
		);
		draft.add(wish, null);
		draft.require(sourceId(wish.source));
		failpoint("manager.before_pending");
		const service = await this.#deps.editor.commit(draft);
		failpoint("manager.after_pending");
		if (service === undefined) throw exists({ name, version });
		this.#deps.driver.wake(service.id);
		return service;
	}

	/** Creates the service, or changes it where it exists. */
	async put(name: ServiceName, request: UpdateRequest): Promise<{ service: ServiceRecord; revised: boolean }> {
		const existing = await this.#deps.store.get(name);
		if (existing !== undefined) return this.update(name, request);
		const { source, env, metadata, ...rest } = request;
		if (source === undefined)
			throw new AppError("invalid_argument", "a service that does not exist yet needs a source", {
				field: "source",
				hint: "Upload one with POST /sources, and send the key of its answer.",
			});
		const service = await this.create(name.namespace, {
			...rest,
			...{ name: name.name, version: name.version, source },
			...{ env: merged({}, env), metadata: merged({}, metadata) },
		});
		return { service, revised: true };
	}

	/** Applies a merge patch; `revised` says whether it made a revision. */
	async update(name: ServiceName, request: UpdateRequest): Promise<{ service: ServiceRecord; revised: boolean }> {
		const revised = changesRevision(request);
		const service = await this.#change(name, async (draft) => {
			const { service } = draft;
			refuseWhileStopping(service);
			if (request.metadata !== undefined) draft.set({ metadata: merged(service.metadata, request.metadata) });
			if (!revised) return;
			const basis = await this.#basis(service);
			const wish = changedWish(basis, request);
			const rebuilt = request.source !== undefined || wish.entrypoint !== basis.entrypoint || basis.build === null;
			const newest = revisionOf(service, service.newest);
			if (newest !== undefined && isOnItsWay(newest.status) && newest.revision !== service.live)
				draft.move(newest.revision, "Error", superseded(newest, service.newest + 1));
			draft.add(wish, rebuilt ? null : basis.build);
			draft.set({ desired: "running" });
			if (rebuilt) draft.require(sourceId(wish.source));
			failpoint("manager.before_update");
		});
		failpoint("manager.after_update");
		return { service, revised };
	}

	/** Wants a service gone. Idempotent while it is being removed. */
	async remove(name: ServiceName): Promise<ServiceRecord> {
		const service = await this.#change(name, (draft) => {
			if (draft.service.desired === "removed") return;
			halt(draft);
			draft.set({ desired: "removed" });
			failpoint("manager.before_delete");
		});
		failpoint("manager.after_delete");
		return service;
	}

	/** Stops a service and keeps everything; what is on its way is cancelled. Idempotent. */
	async stop(name: ServiceName): Promise<ServiceRecord> {
		return this.#change(name, (draft) => {
			refuseRemoved(draft.service);
			if (draft.service.desired === "stopped") return;
			halt(draft);
			draft.set({ desired: "stopped" });
		});
	}

	/** Starts the live revision again, or the newest that was built. Nothing to do where it runs. */
	async start(name: ServiceName): Promise<ServiceRecord> {
		return this.#change(name, async (draft) => this.#begin(draft, false));
	}

	/** Runs the live revision anew; what serves goes on until the new processes are ready. */
	async restart(name: ServiceName): Promise<ServiceRecord> {
		return this.#change(name, async (draft) => this.#begin(draft, true));
	}

	/** Cancels the revision that is on its way. Rejects with `conflict` where there is none, or another than was named. */
	async cancel(name: ServiceName, revision?: number): Promise<ServiceRecord> {
		return this.#change(name, (draft) => {
			const newest = revisionOf(draft.service, draft.service.newest);
			const pending = newest !== undefined && isOnItsWay(newest.status) && newest.revision !== draft.service.live;
			if (!pending || (revision !== undefined && revision !== newest.revision))
				throw new AppError("conflict", `revision ${revision ?? draft.service.newest} is not on its way`, {
					hint: "Read the service to see what it is doing.",
				});
			draft.move(newest.revision, "Error", revisionError("cancelled", phaseOf(newest), "cancelled on request"));
		});
	}

	/** Rejects with `not_found`. */
	async get(name: ServiceName): Promise<ServiceRecord> {
		const service = await this.#deps.store.get(name);
		if (service === undefined) throw missing(name);
		return service;
	}

	/** A page of at most `limit` services that match. */
	async list(
		namespace: string,
		filter: ServiceFilter & { readonly matches: (service: ServiceRecord) => boolean },
		limit: number,
		after: ServiceName | null,
	): Promise<Page> {
		const services: ServiceRecord[] = [];
		for await (const service of this.#deps.store.list(namespace, filter, after)) {
			if (!filter.matches(service)) continue;
			if (services.length === limit) return { services, next: services.at(-1) ?? null };
			services.push(service);
		}
		return { services, next: null };
	}

	/** At most `limit` revisions, newest first, from below `before`. */
	async revisions(name: ServiceName, limit: number, before: number | null): Promise<readonly RevisionRecord[]> {
		const service = await this.get(name);
		const revisions: RevisionRecord[] = [];
		for await (const revision of this.#deps.store.revisions(service.id, before)) {
			revisions.push(revision);
			if (revisions.length === limit) break;
		}
		return revisions;
	}

	/** A build: that of the live revision, or of one that is named. Rejects with `not_found` where there is none. */
	async build(
		name: ServiceName,
		revision: number | undefined,
	): Promise<
		BuildRecord & { readonly open: (call: Call & { range?: ByteRange }) => Promise<AsyncIterable<Uint8Array>> }
	> {
		const service = await this.get(name);
		const wanted = revision ?? service.live;
		if (wanted === null)
			throw new AppError("not_found", `no revision of ${name.name}:${name.version} has been running yet`, {
				hint: "Name one with ?revision=N, or wait until the service is Running.",
			});
		const record = await this.#revision(service, wanted);
		if (record.build === null)
			throw new AppError("not_found", `revision ${wanted} of ${name.name}:${name.version} has no build`);
		const key = buildKey(service.id, record.build.revision);
		const blobs = this.#deps.blobs.in(name.namespace);
		return { ...record.build, open: (call) => blobs.get(key, call) };
	}

	/** What is stored of an uploaded source; for tests and garbage collection. Rejects with `not_found`. */
	async source(namespace: string, id: string, call: Call): Promise<BlobInfo> {
		return this.#deps.blobs.in(namespace).stat(sourceKey(id), call);
	}

	async #change(name: ServiceName, decide: (draft: Draft) => void | Promise<void>): Promise<ServiceRecord> {
		const found = await this.get(name);
		const service = await this.#deps.editor.edit(found.id, decide);
		if (service === undefined) throw missing(name);
		this.#deps.driver.wake(service.id);
		return service;
	}

	async #begin(draft: Draft, anew: boolean): Promise<void> {
		const { service } = draft;
		refuseWhileStopping(service);
		const newest = revisionOf(service, service.newest);
		if (newest !== undefined && isOnItsWay(newest.status) && newest.revision !== service.live) {
			if (!anew) return;
			throw new AppError("conflict", `revision ${newest.revision} is on its way`, {
				hint: "Wait for it, or cancel it first.",
			});
		}
		const record = service.live === null ? newest : revisionOf(service, service.live);
		if (record === undefined || record.build === null)
			throw new AppError("conflict", `${service.name}:${service.version} has no build that could be started`, {
				hint: "Update it with a source that builds.",
			});
		const runs = isWatched(record) && record.status !== "Error";
		draft.set({ desired: "running" });
		if (runs && !anew) return;
		draft.move(record.revision, "Starting", null, { generation: record.generation + 1 });
	}

	/** What a patch is laid over: the newest revision that was asked for; its build only if it got one. */
	async #basis(service: ServiceRecord): Promise<RevisionRecord> {
		return this.#revision(service, service.newest);
	}

	async #revision(service: ServiceRecord, revision: number): Promise<RevisionRecord> {
		const record = revisionOf(service, revision) ?? (await this.#deps.store.revision(service.id, revision));
		if (record !== undefined) return record;
		throw new AppError("not_found", `${service.name}:${service.version} has no revision ${revision}`, {
			field: "revision",
		});
	}
}

/** Ends what is on its way and begins to stop what runs. */
function halt(draft: Draft): void {
	for (const { revision, status } of draft.service.revisions) {
		const record = revisionOf(draft.service, revision);
		if (record === undefined) continue;
		if (isOnItsWay(status) && revision !== draft.service.live)
			draft.move(revision, "Error", revisionError("cancelled", phaseOf(record), "cancelled by a stop of the service"));
		else if (isWatched(record)) draft.move(revision, "Stopping");
	}
}

function phaseOf(revision: RevisionRecord): Phase {
	if (revision.status === "Pending") return "pending";
	return revision.status === "Building" ? "build" : "start";
}

function superseded(revision: RevisionRecord, by: number) {
	return revisionError("superseded", phaseOf(revision), `revision ${by} took its place`);
}

function refuseRemoved(service: ServiceRecord): void {
	if (service.desired === "removed")
		throw new AppError("conflict", `${service.name}:${service.version} is being removed`, {
			hint: "Wait until it is gone, then create it again.",
		});
}

function refuseWhileStopping(service: ServiceRecord): void {
	refuseRemoved(service);
	if (revisionOf(service, service.live)?.status === "Stopping")
		throw new AppError("conflict", `${service.name}:${service.version} is being stopped`, {
			hint: "Wait until it is Stopped.",
		});
}

function missing(name: ServiceName): AppError {
	return new AppError("not_found", `there is no service ${name.name}:${name.version} in namespace ${name.namespace}`);
}

function exists(service: Pick<ServiceRecord, "name" | "version"> & Partial<ServiceRecord>): AppError {
	const removing = service.desired === "removed";
	return new AppError(
		"conflict",
		`${service.name}:${service.version} ${removing ? "is being removed" : "exists already"}`,
		{ hint: removing ? "Wait until it is gone." : "Change it with PATCH, or create-or-update it with PUT." },
	);
}
