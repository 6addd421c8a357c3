import type { Blobs } from "../blob/blobs.ts";
import type { BlobInfo, ByteRange, Call } from "../blob/store.ts";
import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { Draft } from "./draft.ts";
import type { Driver } from "./driver.ts";
import type { Editor } from "./editor.ts";
import {
	type BuildRecord,
	buildKey,
	KEY_KEPT_MS,
	type RevisionRecord,
	revisionError,
	revisionOf,
	type ServiceName,
	type ServiceRecord,
	type SourceRecord,
	sourceKey,
} from "./model.ts";
import { isWatched } from "./reconcile.ts";
import { isUploaded, type RemoteSources } from "./remote-sources.ts";
import {
	discard,
	exists,
	halt,
	missing,
	onItsWay,
	phaseOf,
	refuseRemoved,
	refuseWhileStopping,
	supersede,
} from "./rules.ts";
import type { ServiceFilter, ServiceStore } from "./store.ts";
import type { TrustDomain } from "./trust-domain.ts";
import { type CreateRequest, changedWish, changesRevision, merged, newWish, type UpdateRequest } from "./wish.ts";

export type ManagerDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly driver: Driver;
	readonly blobs: Blobs;
	readonly trust: TrustDomain;
	readonly remotes: RemoteSources;
	/** A new unique id, of letters, digits and `-`. */
	readonly newId: () => string;
};

/** The call of somebody who does not go away. */
const AT_LEISURE: Call = { signal: new AbortController().signal };

/** How a change may be made. */
export type ChangeOptions = {
	/** Throws where the service is not in the state that the caller knows. */
	readonly guard?: (service: ServiceRecord) => void;
	/** The same key with the same hash, within a day, makes nothing new: it answers what the first one made. */
	readonly once?: { readonly key: string; readonly hash: string };
	/** For a create: nobody sees the service before it is revealed. */
	readonly hidden?: boolean;
};

/** The changes that make revisions: as they are made here, or answered when they are settled (see synchronous.ts). */
export interface Changes {
	create(namespace: string, request: CreateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	put(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	update(name: ServiceName, request: UpdateRequest, options: ChangeOptions, call: Call): Promise<Changed>;
	rollback(name: ServiceName, revision: number, options: ChangeOptions, call: Call): Promise<Changed>;
}

/** A service after a change. `revised`: it has a new revision. `replayed`: the change had been made before. */
export type Changed = {
	readonly service: ServiceRecord;
	/** The newest revision when it was made. */
	readonly revision: number;
	readonly revised: boolean;
	readonly replayed: boolean;
	/** The new revision runs already, or has ended well. */
	readonly settled?: boolean;
};

export type Page = { readonly services: readonly ServiceRecord[]; readonly next: ServiceName | null };

/**
 * What can be asked of services. Each verb records what is wanted and answers when that is durable; the driver then makes
 * it so. Rejects with AppError: `not_found` (no such service or source in this namespace), `conflict` (the state does not
 * allow it), `invalid_argument` (names the field), and what the store rejects with.
 */
export class Manager implements Changes {
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

	async create(
		namespace: string,
		request: CreateRequest,
		options: ChangeOptions = {},
		call: Call = AT_LEISURE,
	): Promise<Changed> {
		const { once, hidden = false } = options;
		const { name, version = "latest" } = request;
		newWish(request);
		const before = await this.#recalled(namespace, once);
		if (before !== undefined) return before;
		const existing = await this.#deps.store.get({ namespace, name, version });
		if (existing !== undefined) throw exists(existing);
		const located = await this.#locate(request, call);
		const wish = newWish(located);
		const metadata = located.metadata ?? {};
		const draft = Draft.create(
			{ id: this.#deps.newId(), namespace, name, version, metadata },
			this.#deps.editor.timestamp(),
		);
		draft.add(wish, null);
		draft.require(wish.source);
		// What failed synchronously may be tried again with the same key.
		if (hidden) draft.set({ hidden });
		else draft.remember(once);
		failpoint("manager.before_pending");
		const service = await this.#deps.trust
			.admit(namespace, () => this.#deps.editor.commit(draft))
			// A commit that failed may have been made all the same.
			.finally(() => this.#deps.driver.wake(draft.service.id));
		failpoint("manager.after_pending");
		if (service === undefined) {
			// Somebody was faster; it may have been this very request, sent twice.
			const twin = await this.#recalled(namespace, once);
			if (twin !== undefined) return twin;
			throw exists({ name, version });
		}
		return { service, revision: service.newest, revised: true, replayed: false };
	}

	/** Creates the service, or changes it where it exists. */
	async put(
		name: ServiceName,
		request: UpdateRequest,
		options: ChangeOptions = {},
		call: Call = AT_LEISURE,
	): Promise<Changed> {
		const before = await this.#recalled(name.namespace, options.once, changesRevision(request));
		if (before !== undefined) return before;
		const existing = await this.#deps.store.get(name);
		if (existing !== undefined) return this.update(name, request, options, call);
		try {
			return await this.create(name.namespace, this.createRequest(name, request, options), options, call);
		} catch (error) {
			// Somebody created it meanwhile: then this is an update.
			if (!isAppError(error, "conflict") || (await this.#deps.store.get(name)) === undefined) throw error;
			return this.update(name, request, options, call);
		}
	}

	/** What a PUT of a service that does not exist creates. */
	createRequest(name: ServiceName, request: UpdateRequest, options: ChangeOptions): CreateRequest {
		const { source, env, metadata, ...rest } = request;
		if (source === undefined)
			throw new AppError(
				"not_found",
				`there is no service ${name.name}:${name.version}, and a new one needs a source`,
				{
					field: "source",
					hint: "Upload one with POST /sources, and send the key of its answer.",
				},
			);
		if (options.guard !== undefined)
			throw new AppError("precondition_failed", `there is no ${name.name}:${name.version} to match`, {
				field: "If-Match",
			});
		return {
			...rest,
			...{ name: name.name, version: name.version, source },
			...{ env: merged({}, env), metadata: merged({}, metadata) },
		};
	}

	/** Applies a merge patch. */
	async update(
		name: ServiceName,
		asked: UpdateRequest,
		options: ChangeOptions = {},
		call: Call = AT_LEISURE,
	): Promise<Changed> {
		const revised = changesRevision(asked);
		const before = await this.#recalled(name.namespace, options.once, revised);
		if (before !== undefined) return before;
		// Nothing is asked of a remote for a service that is not there.
		if (asked.source !== undefined) await this.get(name);
		const request = await this.#locate(asked, call);
		return this.#revise(name, options, revised, async (draft) => {
			const { service } = draft;
			if (request.metadata !== undefined) draft.set({ metadata: merged(service.metadata, request.metadata) });
			if (!revised) return;
			const basis = await this.#basis(service, request);
			const wish = changedWish(basis, request);
			const rebuilt = request.source !== undefined || wish.entrypoint !== basis.entrypoint || basis.build === null;
			supersede(draft);
			draft.add(wish, rebuilt ? null : basis.build);
			if (rebuilt) draft.require(wish.source);
		});
	}

	/** A new revision with an old one's build, arguments and environment; nothing is built. Rejects with `gone` where the build is no longer kept. */
	async rollback(name: ServiceName, revision: number, options: ChangeOptions = {}): Promise<Changed> {
		return this.#revise(name, options, true, async (draft) => {
			const { source, entrypoint, args, env, health, restart, instances, build, launch } = await this.#revision(
				draft.service,
				revision,
			);
			if (build === null && launch === null)
				throw new AppError("conflict", `revision ${revision} was never built`, {
					field: "revision",
					hint: "GET …/revisions shows which ones have a build.",
				});
			if (build?.collected === true)
				throw new AppError("gone", `the build of revision ${revision} is no longer kept`, {
					field: "revision",
					hint: "Update the service with that revision's source instead.",
				});
			supersede(draft);
			draft.add({ source, entrypoint, args, env, health, restart, instances }, build);
			if (build === null) draft.require(source);
		});
	}

	/** Wants a service gone. Idempotent while it is being removed. */
	async remove(name: ServiceName, { guard }: ChangeOptions = {}): Promise<ServiceRecord> {
		const service = await this.#change(name, (draft) => {
			guard?.(draft.service);
			discard(draft);
			failpoint("manager.before_delete");
		});
		failpoint("manager.after_delete");
		return service;
	}

	/** Shows a service that was created hidden, and remembers under which key. */
	async reveal(id: string, once: ChangeOptions["once"]): Promise<ServiceRecord> {
		const service = await this.#deps.editor.edit(id, (draft) => {
			draft.set({ hidden: false }).remember(once);
			failpoint("manager.before_reveal");
		});
		failpoint("manager.after_reveal");
		if (service === undefined) throw new AppError("conflict", "the service was removed meanwhile");
		return service;
	}

	/** Removes a service that was created hidden and came to nothing. */
	async discard(id: string): Promise<void> {
		await this.#deps.editor.edit(id, discard);
		this.#deps.driver.wake(id);
	}

	/** Cancels a revision for whom nobody waits any more, if it is still on its way. */
	async abandon(id: string, revision: number): Promise<void> {
		await this.#deps.editor.edit(id, (draft) => {
			const pending = onItsWay(draft.service);
			if (pending?.revision === revision)
				draft.move(revision, "Error", revisionError("cancelled", phaseOf(pending), "whoever asked for it went away"));
		});
		this.#deps.driver.wake(id);
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
			const newest = onItsWay(draft.service);
			if (newest === undefined || (revision !== undefined && revision !== newest.revision))
				throw new AppError("conflict", `revision ${revision ?? draft.service.newest} is not on its way`, {
					hint: "Read the service to see what it is doing.",
				});
			draft.move(newest.revision, "Error", revisionError("cancelled", phaseOf(newest), "cancelled on request"));
		});
	}

	/** Rejects with `not_found`. */
	async get(name: ServiceName): Promise<ServiceRecord> {
		const service = await this.#deps.store.get(name);
		if (service === undefined || service.hidden === true) throw missing(name);
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
			if (service.hidden === true || !filter.matches(service)) continue;
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
		if (record.build.collected === true)
			throw new AppError("gone", `the build of revision ${wanted} of ${name.name}:${name.version} is no longer kept`);
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
		try {
			const service = await this.#deps.editor.edit(found.id, decide);
			if (service === undefined) throw missing(name);
			return service;
		} finally {
			// A commit that failed may have been made all the same.
			this.#deps.driver.wake(found.id);
		}
	}

	/** A change that may make a revision, which then is what the service should run. */
	async #revise(
		name: ServiceName,
		{ guard, once }: ChangeOptions,
		revised: boolean,
		decide: (draft: Draft) => Promise<void>,
	): Promise<Changed> {
		const before = await this.#recalled(name.namespace, once, revised);
		if (before !== undefined) return before;
		let twin: Changed | undefined;
		const service = await this.#change(name, async (draft) => {
			// Asked again for each attempt: the one that was faster may have been this very request.
			twin = await this.#recalled(name.namespace, once, revised);
			if (twin !== undefined) return;
			refuseWhileStopping(draft.service);
			guard?.(draft.service);
			await decide(draft);
			if (revised) draft.set({ desired: "running" });
			draft.remember(once);
			failpoint("manager.before_update");
		});
		failpoint("manager.after_update");
		return twin ?? { service, revision: service.newest, revised, replayed: false };
	}

	/** Whether what is remembered from then counts no more, collected or not. */
	#isPast(time: string): boolean {
		return Date.parse(this.#deps.editor.timestamp()) - Date.parse(time) >= KEY_KEPT_MS;
	}

	/** What was made under this key before. Rejects with `key_reused` where it was another request. */
	async #recalled(namespace: string, once: ChangeOptions["once"], revised = true): Promise<Changed | undefined> {
		if (once === undefined) return undefined;
		const done = await this.#deps.store.recall(namespace, once.key);
		if (done === undefined || this.#isPast(done.time)) return undefined;
		if (done.hash !== once.hash)
			throw new AppError("key_reused", "this Idempotency-Key was used for another request", {
				field: "Idempotency-Key",
				hint: "Use a new key for each new request.",
			});
		const service = await this.#deps.store.getById(done.serviceId);
		if (service === undefined)
			throw new AppError("gone", "what was made with this Idempotency-Key has been removed since", {
				field: "Idempotency-Key",
				hint: "Use a new key to create it again.",
			});
		return { service, revision: done.revision, revised, replayed: true };
	}

	async #begin(draft: Draft, anew: boolean): Promise<void> {
		const { service } = draft;
		refuseWhileStopping(service);
		const pending = onItsWay(service);
		if (pending !== undefined) {
			if (!anew) return;
			throw new AppError("conflict", `revision ${pending.revision} is on its way`, {
				hint: "Wait for it, or cancel it first.",
			});
		}
		const record = revisionOf(service, service.live ?? service.newest);
		if (record === undefined || (record.build === null && record.launch === null))
			throw new AppError("conflict", `${service.name}:${service.version} has no build that could be started`, {
				hint: "Update it with a source that builds.",
			});
		const runs = isWatched(record) && record.status !== "Error";
		draft.set({ desired: "running" });
		if (runs && !anew) return;
		const generation = record.lastGeneration + 1;
		const change = { generation, lastGeneration: generation };
		// One that is starting (again) already stays so; only what is started is another one now.
		if (record.status === "Starting") draft.amend({ ...record, ...change, error: null });
		else draft.move(record.revision, "Starting", null, change);
	}

	/** Settles what a remote means now; one whose host does not answer is kept as it was typed, and settled by the build. */
	async #locate<T extends UpdateRequest>(request: T, call: Call): Promise<T> {
		const { source: typed } = request;
		if (typed === undefined || isUploaded(typed)) return request;
		const metadata = { source: typed, ...request.metadata };
		try {
			const { source, folder } = await this.#deps.remotes.pin(typed, call);
			return { ...request, source, metadata, entrypoint: request.entrypoint ?? folder };
		} catch (error) {
			if (!isAppError(error, "unavailable")) throw error;
			return { ...request, metadata };
		}
	}

	/**
	 * What a patch is laid over: the newest revision that was asked for. Where that one came to no build and the patch brings
	 * no source, the live one's source and build are kept: the same would only fail again.
	 */
	async #basis(service: ServiceRecord, request: UpdateRequest): Promise<RevisionRecord> {
		const newest = await this.#revision(service, service.newest);
		const hopeless = newest.status === "Error" && newest.build === null && newest.launch === null;
		if (!hopeless || request.source !== undefined || service.live === null) return newest;
		const { source, entrypoint, build, launch } = await this.#revision(service, service.live);
		return { ...newest, source, entrypoint, build, launch };
	}

	async #revision(service: ServiceRecord, revision: number): Promise<RevisionRecord> {
		const record = revisionOf(service, revision) ?? (await this.#deps.store.revision(service.id, revision));
		if (record !== undefined) return record;
		throw new AppError("not_found", `${service.name}:${service.version} has no revision ${revision}`, {
			field: "revision",
		});
	}
}
