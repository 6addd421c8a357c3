import type { Call } from "../blob/store.ts";
import { AppError, isAppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { checkBuilder } from "./builder-choice.ts";
import type { Changed, ChangeOptions, Changes, Replays } from "./changes.ts";
import { Draft } from "./draft.ts";
import type { Driver } from "./driver.ts";
import type { Editor } from "./editor.ts";
import { type Ceiling, checkKeptLimits, checkLimits } from "./limits.ts";
import { locate } from "./locator.ts";
import type { ServiceName, ServiceRecord, SourceRecord } from "./model.ts";
import type { Queries } from "./queries.ts";
import { type RemoteSources, remoteOf } from "./remote-sources.ts";
import {
	begin,
	cancel,
	discard,
	exists,
	forsake,
	halt,
	missing,
	refuseRemoved,
	refuseUnbuilt,
	refuseWhileStopping,
	supersede,
} from "./rules.ts";
import type { ServiceStore } from "./store.ts";
import type { TrustDomain } from "./trust-domain.ts";
import type { Uploads } from "./uploads.ts";
import {
	type CreateRequest,
	changedWish,
	changesRevision,
	createRequest,
	merged,
	newWish,
	type UpdateRequest,
} from "./wish.ts";

export type ManagerDeps = {
	readonly store: ServiceStore;
	readonly queries: Queries;
	readonly replays: Replays;
	readonly editor: Editor;
	readonly driver: Driver;
	readonly uploads: Uploads;
	readonly trust: TrustDomain;
	readonly remotes: RemoteSources;
	readonly ceiling: Ceiling;
	/** Names of the builders; in the synchronous flow of the launchers. */
	readonly builders: readonly string[];
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
		return this.#deps.uploads.take(namespace, body, options);
	}

	async create(
		namespace: string,
		request: CreateRequest,
		options: ChangeOptions = {},
		call: Call = AT_LEISURE,
	): Promise<Changed> {
		const { once, hidden } = options;
		const { name, version = "latest" } = request;
		newWish(request, null);
		const before = await this.#deps.replays.recalled(namespace, once);
		if (before !== undefined) return before;
		this.#check(request);
		const existing = await this.#deps.store.get({ namespace, name, version });
		if (existing !== undefined) return this.#twin(namespace, once, existing);
		const { located, remote } = await locate(this.#deps.remotes, request, call);
		const wish = newWish(located, remote);
		const metadata = located.metadata ?? {};
		const draft = Draft.create(
			{ id: hidden ?? this.#deps.newId(), namespace, name, version, metadata },
			this.#deps.editor.timestamp(),
		);
		draft.add(wish, null);
		draft.require(wish.source);
		// What failed synchronously may be tried again with the same key.
		if (hidden !== undefined) draft.set({ hidden: true });
		else draft.remember(once);
		failpoint("manager.before_pending");
		const service = await this.#deps.trust
			.admit(namespace, () => this.#deps.editor.commit(draft))
			// A commit that failed may have been made all the same.
			.finally(() => this.#deps.driver.wake(draft.service.id));
		failpoint("manager.after_pending");
		if (service === undefined)
			return this.#twin(
				namespace,
				once,
				(await this.#deps.store.get({ namespace, name, version })) ?? { name, version },
			);
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
			return await this.create(name.namespace, createRequest(name, request, options), options, call);
		} catch (error) {
			// Somebody created it meanwhile: then this is an update.
			if (!isAppError(error, "conflict") || (await this.#deps.store.get(name)) === undefined) throw error;
			return this.update(name, request, options, call);
		}
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
		this.#check(asked);
		// Nothing is asked of a remote for a service that is not there.
		if (asked.source !== undefined) await this.#deps.queries.get(name);
		const { located: request, remote } = await locate(this.#deps.remotes, asked, call);
		return this.#revise(name, options, revised, async (draft) => {
			const { service } = draft;
			if (request.metadata !== undefined) draft.set({ metadata: merged(service.metadata, request.metadata) });
			if (!revised) return;
			const basis = await this.#deps.queries.basis(service, request);
			const wish = changedWish(basis, request, remote);
			checkKeptLimits({ ...wish, revision: basis.revision }, this.#deps.ceiling, "update");
			const remade = wish.entrypoint !== basis.entrypoint || wish.builder !== (basis.builder ?? null);
			const rebuilt = request.source !== undefined || remade || basis.build === null;
			supersede(draft);
			draft.add(wish, rebuilt ? null : basis.build);
			if (rebuilt) draft.require(wish.source);
		});
	}

	/**
	 * A new revision with an old one's build, arguments and environment; nothing is built. Where there are no builds, its
	 * source is prepared again. Rejects with `gone` where the build, or the source, is no longer kept.
	 */
	async rollback(name: ServiceName, revision: number, options: ChangeOptions = {}): Promise<Changed> {
		const back = this.#revise(name, options, true, async (draft) => {
			const old = await this.#deps.queries.revision(draft.service, revision);
			const { source, entrypoint, args, env, health, restart, instances, limits = {}, builder = null, build } = old;
			refuseUnbuilt(old);
			checkKeptLimits(old, this.#deps.ceiling, "rollback");
			supersede(draft);
			const wish = { source, remote: remoteOf(old), entrypoint, args, env, health };
			draft.add({ ...wish, restart, instances, limits, builder }, build);
			if (build === null) draft.require(source);
		});
		return back.catch((error: unknown) => {
			if (!isAppError(error, "not_found") || error.field !== "source") throw error;
			throw new AppError("gone", `the source of revision ${revision} is no longer kept`, {
				cause: error,
				field: "revision",
				hint: "Upload it again, and update the service with it.",
			});
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

	/** Cancels a revision for whom nobody waits any more, if it is still on its way. */
	async abandon(id: string, revision: number): Promise<void> {
		await this.#deps.editor.edit(id, (draft) => forsake(draft, revision));
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
		return this.#change(name, (draft) => this.#begin(draft, false));
	}

	/** Runs the live revision anew; what serves goes on until the new processes are ready. */
	async restart(name: ServiceName): Promise<ServiceRecord> {
		return this.#change(name, (draft) => this.#begin(draft, true));
	}

	/** Cancels the revision that is on its way. Rejects with `conflict` where there is none, or another than was named. */
	async cancel(name: ServiceName, revision?: number): Promise<ServiceRecord> {
		return this.#change(name, (draft) => cancel(draft, revision));
	}

	/** Somebody was faster; it may have been this very request, sent twice. Else it throws that the service exists. */
	async #twin(
		namespace: string,
		once: ChangeOptions["once"],
		existing: Parameters<typeof exists>[0],
	): Promise<Changed> {
		const twin = await this.#deps.replays.recalled(namespace, once);
		if (twin === undefined) throw exists(existing);
		return twin;
	}

	/** What a request names must be there. A request that was made before is not asked: what it made is. */
	#check({ limits, builder }: Pick<UpdateRequest, "limits" | "builder">): void {
		checkLimits(limits, this.#deps.ceiling);
		checkBuilder(builder, this.#deps.builders);
	}

	#begin(draft: Draft, anew: boolean): void {
		const begun = begin(draft, anew);
		if (begun !== undefined) checkKeptLimits(begun, this.#deps.ceiling, "start");
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
}
