import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import type { Changed, ChangeOptions, Changes, Replays } from "./changes.ts";
import { Draft } from "./draft.ts";
import type { Driver } from "./driver.ts";
import type { Editor } from "./editor.ts";
import {
	type RevisionRecord,
	revisionError,
	type ServiceName,
	type ServiceRecord,
	type SourceRecord,
	sourceKey,
} from "./model.ts";
import type { Queries } from "./queries.ts";
import { isUploaded, type RemoteSources } from "./remote-sources.ts";
import {
	begin,
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
import type { ServiceStore } from "./store.ts";
import type { TrustDomain } from "./trust-domain.ts";
import { type CreateRequest, changedWish, changesRevision, merged, newWish, type UpdateRequest } from "./wish.ts";

export type ManagerDeps = {
	readonly store: ServiceStore;
	readonly queries: Queries;
	readonly replays: Replays;
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
		const before = await this.#deps.replays.recalled(namespace, once);
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
			const twin = await this.#deps.replays.recalled(namespace, once);
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
		const before = await this.#deps.replays.recalled(name.namespace, options.once, changesRevision(request));
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
		const before = await this.#deps.replays.recalled(name.namespace, options.once, revised);
		if (before !== undefined) return before;
		// Nothing is asked of a remote for a service that is not there.
		if (asked.source !== undefined) await this.#deps.queries.get(name);
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
			const { source, entrypoint, args, env, health, restart, instances, build, launch } =
				await this.#deps.queries.revision(draft.service, revision);
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
		return this.#change(name, (draft) => begin(draft, false));
	}

	/** Runs the live revision anew; what serves goes on until the new processes are ready. */
	async restart(name: ServiceName): Promise<ServiceRecord> {
		return this.#change(name, (draft) => begin(draft, true));
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

	async #change(name: ServiceName, decide: (draft: Draft) => void | Promise<void>): Promise<ServiceRecord> {
		const found = await this.#deps.queries.get(name);
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
		const before = await this.#deps.replays.recalled(name.namespace, once, revised);
		if (before !== undefined) return before;
		let twin: Changed | undefined;
		const service = await this.#change(name, async (draft) => {
			// Asked again for each attempt: the one that was faster may have been this very request.
			twin = await this.#deps.replays.recalled(name.namespace, once, revised);
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
		const newest = await this.#deps.queries.revision(service, service.newest);
		const hopeless = newest.status === "Error" && newest.build === null && newest.launch === null;
		if (!hopeless || request.source !== undefined || service.live === null) return newest;
		const { source, entrypoint, build, launch } = await this.#deps.queries.revision(service, service.live);
		return { ...newest, source, entrypoint, build, launch };
	}
}
