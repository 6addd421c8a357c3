import type { Blobs } from "../blob/blobs.ts";
import type { ByteRange, Call } from "../blob/store.ts";
import { AppError } from "../errors.ts";
import {
	type BuildRecord,
	buildKey,
	type RevisionRecord,
	revisionOf,
	type ServiceName,
	type ServiceRecord,
} from "./model.ts";
import { remoteOf } from "./remote-sources.ts";
import { missing } from "./rules.ts";
import type { ServiceFilter, ServiceStore } from "./store.ts";
import type { UpdateRequest } from "./wish.ts";

/** What is known of a build, and its bytes: rejects with `not_found` or `range` before the first. */
export type Build = BuildRecord & {
	readonly open: (call: Call & { readonly range?: ByteRange }) => Promise<AsyncIterable<Uint8Array>>;
};

export type Page = { readonly services: readonly ServiceRecord[]; readonly next: ServiceName | null };

/** What can be read of services. A service that is still being created synchronously is not there. */
export class Queries {
	readonly #store: ServiceStore;
	readonly #blobs: Blobs;

	constructor(store: ServiceStore, blobs: Blobs) {
		this.#store = store;
		this.#blobs = blobs;
	}

	/** Rejects with `not_found`. */
	async get(name: ServiceName): Promise<ServiceRecord> {
		const service = await this.#store.get(name);
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
		for await (const service of this.#store.list(namespace, filter, after, limit + 1)) {
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
		for await (const revision of this.#store.revisions(service.id, before)) {
			revisions.push(revision);
			if (revisions.length === limit) break;
		}
		return revisions;
	}

	/** A build: that of the live revision, or of one that is named. Rejects with `not_found` or `gone` where there is none. */
	async build(name: ServiceName, revision: number | undefined): Promise<Build> {
		const service = await this.get(name);
		const wanted = revision ?? service.live;
		if (wanted === null)
			throw new AppError("not_found", `no revision of ${name.name}:${name.version} has been running yet`, {
				hint: "Name a revision that has a build, or wait until the service is Running.",
			});
		return this.buildOf(service, wanted);
	}

	/** The build of a service's revision. Rejects with `not_found` or `gone` where there is none. */
	async buildOf(service: ServiceRecord, revision: number): Promise<Build> {
		const { build } = await this.revision(service, revision);
		const { id, namespace, name, version } = service;
		if (build === null) throw new AppError("not_found", `revision ${revision} of ${name}:${version} has no build`);
		if (build.collected === true)
			throw new AppError("gone", `the build of revision ${revision} of ${name}:${version} is no longer kept`);
		const blobs = this.#blobs.in(namespace);
		return { ...build, open: (call) => blobs.get(buildKey(id, build.revision), call) };
	}

	/** Whatever has this id, one that nobody sees yet too; for those who act for the service itself. */
	byId(id: string): Promise<ServiceRecord | undefined> {
		return this.#store.getById(id);
	}

	/** A revision, at hand or not. Rejects with `not_found`. */
	async revision(service: ServiceRecord, revision: number): Promise<RevisionRecord> {
		const record = revisionOf(service, revision) ?? (await this.#store.revision(service.id, revision));
		if (record !== undefined) return record;
		throw new AppError("not_found", `${service.name}:${service.version} has no revision ${revision}`, {
			field: "revision",
		});
	}

	/**
	 * What a patch is laid over: the newest revision that was asked for. Where that one came to no build and the patch brings
	 * no source, the live one's source, builder and build are kept: the same would only fail again.
	 */
	async basis(service: ServiceRecord, request: UpdateRequest): Promise<RevisionRecord> {
		const newest = await this.revision(service, service.newest);
		const hopeless = newest.status === "Error" && newest.build === null && newest.launch === null;
		if (!hopeless || request.source !== undefined || service.live === null) return newest;
		const live = await this.revision(service, service.live);
		const { source, entrypoint, builder = null, build, launch } = live;
		return { ...newest, source, remote: remoteOf(live), entrypoint, builder, build, launch };
	}
}
