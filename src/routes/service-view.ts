import type { components } from "../contract/types.gen.ts";
import {
	type BuildRecord,
	type RevisionError,
	type RevisionRecord,
	revisionOf,
	type ServiceRecord,
	type Status,
} from "../manager/model.ts";
import { isWatched } from "../manager/reconcile.ts";
import { commitOf } from "../manager/remote-sources.ts";

type Schemas = components["schemas"];

/** The revision that a service is shown as: the one that serves, else the newest. */
function shown(service: ServiceRecord): RevisionRecord {
	const live = revisionOf(service, service.live);
	const newest = revisionOf(service, service.newest);
	if (live !== undefined && (isWatched(live) || live.status === "Stopping")) return live;
	if (newest === undefined) throw new Error(`service ${service.id} has no revision at hand`);
	return newest;
}

/** The state that a service is shown in. */
export function statusOf(service: ServiceRecord): Status {
	return service.desired === "removed" ? "Stopping" : shown(service).status;
}

/** A service as the contract says; env values stay here. */
export function serviceView(service: ServiceRecord): Schemas["Service"] {
	const revision = shown(service);
	const newest = revisionOf(service, service.newest);
	const { id, namespace, name, version, metadata, createdAt, updatedAt } = service;
	return {
		...{ id, namespace, name, version },
		status: statusOf(service),
		revision: revision.revision,
		target:
			newest === undefined || newest.revision === revision.revision
				? null
				: { revision: newest.revision, status: newest.status, error: errorView(newest.error) },
		url: service.url,
		metadata: { ...metadata },
		...wishView(revision),
		build: buildView(revision.build),
		error: errorView(revision.error),
		...{ createdAt, updatedAt },
	};
}

/** Services as JSON, kept as long as their records: the same record, which nobody changes, is listed again and again. */
export class ServiceTexts {
	readonly #texts = new WeakMap<ServiceRecord, string>();

	of(service: ServiceRecord): string {
		const known = this.#texts.get(service);
		if (known !== undefined) return known;
		const text = JSON.stringify(serviceView(service));
		this.#texts.set(service, text);
		return text;
	}
}

export function revisionView(revision: RevisionRecord): Schemas["Revision"] {
	const { createdAt, updatedAt, status } = revision;
	return {
		revision: revision.revision,
		status,
		...wishView(revision),
		build: buildView(revision.build),
		error: errorView(revision.error),
		...{ createdAt, updatedAt },
	};
}

function wishView(revision: RevisionRecord) {
	const { source, entrypoint, args, env, health, restart, instances, limits = {}, builder = null } = revision;
	return {
		...{ source, entrypoint, restart, instances, builder },
		commit: commitOf(revision),
		args: [...args],
		env: Object.keys(env).sort(),
		health: { ...health },
		limits: { ...limits },
	};
}

function buildView(build: BuildRecord | null): Schemas["Build"] | null {
	return build === null || build.collected === true
		? null
		: { digest: `sha256:${build.sha256}`, size: build.size, builder: build.builder };
}

export function errorView(error: RevisionError | null): Schemas["Error"] | null {
	return error === null ? null : errorOf(error);
}

export function errorOf(error: RevisionError): Schemas["Error"] {
	const { code, message, phase, retryable, diagnostics, exitCode, lastLines } = error;
	return {
		...{ code, message, phase, retryable },
		diagnostics: diagnostics.map((diagnostic) => ({ ...diagnostic })),
		...(exitCode === undefined ? {} : { exitCode }),
		...(lastLines === undefined ? {} : { lastLines: [...lastLines] }),
	};
}
