import path from "node:path";
import type { Blobs } from "../blob/blobs.ts";
import type { Program, ServiceSpec } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import { buildKey, type RevisionRecord, type ServiceRecord } from "./model.ts";

/** What the runtime is told of a revision; undefined while nothing was made of it. */
export function specOf(
	service: ServiceRecord,
	revision: RevisionRecord,
	places: { readonly blobs: Blobs; readonly directories: Directories | null },
): ServiceSpec | undefined {
	const program = programOf(service, revision, places);
	if (program === undefined) return undefined;
	const { id, namespace, name, version } = service;
	const { generation, args, env, health, restart, instances } = revision;
	return {
		...{ id, namespace, name, version, generation, args, env, health, restart, instances, program },
		revision: revision.revision,
		requires: revision.build?.requires ?? revision.launch?.requires ?? "none",
	};
}

function programOf(
	service: ServiceRecord,
	{ build, launch, revision }: RevisionRecord,
	places: { readonly blobs: Blobs; readonly directories: Directories | null },
): Program | undefined {
	if (build !== null) {
		const blobs = places.blobs.in(service.namespace);
		const { sha256, size } = build;
		return { kind: "build", sha256, size, open: (call) => blobs.get(buildKey(service.id, build.revision), call) };
	}
	if (launch === null || places.directories === null) return undefined;
	const folder = path.join(places.directories.path(service.id, revision), launch.folder);
	return { kind: "directory", path: folder, command: launch.command };
}
