import path from "node:path";
import type { Blobs } from "../blob/blobs.ts";
import type { Limits, Program, ServiceSpec } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import { attached } from "./folder-maker.ts";
import { buildKey, type RevisionRecord, type ServiceRecord, type WantedLimits } from "./model.ts";

/** What the runtime is told of a revision; undefined while nothing was made of it. */
export function specOf(
	service: ServiceRecord,
	revision: RevisionRecord,
	places: { readonly blobs: Blobs; readonly directories: Directories | null },
): ServiceSpec | undefined {
	const program = programOf(service, revision, places);
	if (program === undefined) return undefined;
	const { id, namespace, name, version } = service;
	const { generation, args, env, health, restart, instances, limits = {} } = revision;
	return {
		...{ id, namespace, name, version, generation, args, env, health, restart, instances, program },
		revision: revision.revision,
		requires: revision.build?.requires ?? revision.launch?.requires ?? "none",
		...(Object.keys(limits).length === 0 ? {} : { limits: limitsOf(limits) }),
	};
}

function limitsOf({ memory, cpu, processes }: WantedLimits): Partial<Limits> {
	return {
		...(memory === undefined ? {} : { memory: memory * 1024 ** 2 }),
		...(cpu === undefined ? {} : { cpu: Math.max(1, Math.round(cpu * 1000)) }),
		...(processes === undefined ? {} : { pids: processes }),
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
	const root = places.directories.path(service.id, revision);
	return { kind: "directory", path: path.join(root, launch.folder), command: attached(launch.command, root) };
}
