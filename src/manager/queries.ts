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
import { missing } from "./rules.ts";
import type { ServiceFilter, ServiceStore } from "./store.ts";

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
		for await (const service of this.#store.list(namespace, filter, after)) {
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
		const record = await this.revision(service, wanted);
		if (record.build === null)
			throw new AppError("not_found", `revision ${wanted} of ${name.name}:${name.version} has no build`);
		if (record.build.collected === true)
			throw new AppError("gone", `the build of revision ${wanted} of ${name.name}:${name.version} is no longer kept`);
		const key = buildKey(service.id, record.build.revision);
		const blobs = this.#blobs.in(name.namespace);
		return { ...record.build, open: (call) => blobs.get(key, call) };
	}

	/** A revision, at hand or not. Rejects with `not_found`. */
	async revision(service: ServiceRecord, revision: number): Promise<RevisionRecord> {
		const record = revisionOf(service, revision) ?? (await this.#store.revision(service.id, revision));
		if (record !== undefined) return record;
		throw new AppError("not_found", `${service.name}:${service.version} has no revision ${revision}`, {
			field: "revision",
		});
	}
}
