import type { ContainerCreateOptions } from "dockerode";
import { AppError } from "../../errors.ts";
import type { InstancePlan } from "../companion/engine.ts";
import { expand, toldByEnvironment } from "../companion/invocation.ts";
import type { CompanionSettings } from "../companion/settings.ts";
import type { Health, Limits } from "../runtime.ts";
import { CONTAINER_USER } from "./image-files.ts";

/** What $HOST is in a container. */
export const PROGRAM_HOST = "0.0.0.0";

const MIB = 1024 * 1024;
const TEMPORARY_BYTES = 64 * MIB;
/** For the build's file besides its bytes. */
const SCRATCH_SPARE = MIB;
/** What the engine keeps of a container's output until it is in the service's log. */
const OUTPUT = { "max-size": "10m", "max-file": "2" };
/** How long the loader goes on without a new byte; less where that would leave no time to say that it gave up. */
const LOADER_SECONDS = 60;
const LOADER_SHARE = 0.9;

export const DEFAULT_LIMITS: Limits = { memory: 512 * MIB, cpu: 1_000, pids: 256 };

export const LABELS = {
	folder: "runtime-builds.folder",
	service: "runtime-builds.service",
	namespace: "runtime-builds.namespace",
	name: "runtime-builds.name",
	version: "runtime-builds.version",
	revision: "runtime-builds.revision",
	generation: "runtime-builds.generation",
	instance: "runtime-builds.instance",
} as const;

/** The same for each try of the same slot, so that a second one conflicts. */
export function containerName(folderId: string, { spec, record }: Pick<InstancePlan, "spec" | "record">): string {
	return `runtime-${folderId}-${spec.id}-r${spec.revision}-g${spec.generation}-${record.slot}`;
}

/** Of one that could not be removed, so that its own name is free. */
export function asideName(folderId: string, id: string): string {
	return `runtime-${folderId}-removed-${id.slice(0, 12)}`;
}

/** The build's file lies in memory: it is on top of what the program may use. */
export function memoryOf(limits: Limits, buildBytes: number): number {
	return limits.memory + buildBytes + SCRATCH_SPARE;
}

/** Rejects (throws) with `internal` what cannot run in a container. */
export function containerOptions(
	folderId: string,
	{ spec, record }: InstancePlan,
	network: string,
	limits: Limits,
	{ path, lang, graceMs }: CompanionSettings,
): ContainerCreateOptions {
	const { program, loader, image } = spec;
	if (program.kind !== "build" || loader === undefined || image === undefined)
		throw new AppError("internal", "only a stored build can run in a container");
	const { memory, cpu, pids } = limits;
	const all = memoryOf({ memory, cpu, pids }, program.size);
	const user = `${CONTAINER_USER}:${CONTAINER_USER}`;
	const owner = `uid=${CONTAINER_USER},gid=${CONTAINER_USER}`;
	const environment = {
		PATH: path,
		LANG: lang,
		HOME: "/tmp",
		TMPDIR: "/tmp",
		...toldByEnvironment(spec, record, PROGRAM_HOST),
		RUNTIME_LOADER_URL: loader.url,
		RUNTIME_LOADER_TOKEN: loader.token,
		RUNTIME_LOADER_CA: loader.ca,
		RUNTIME_LOADER_SHA256: program.sha256,
		RUNTIME_LOADER_SIZE: String(program.size),
		RUNTIME_LOADER_NAMESPACE: spec.namespace,
		RUNTIME_LOADER_TIMEOUT: String(loaderSeconds(spec.health)),
	};
	return {
		name: containerName(folderId, { spec, record }),
		Image: image,
		Cmd: spec.args.map((arg) => expand(arg, record, PROGRAM_HOST)),
		Env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
		User: user,
		WorkingDir: "/tmp",
		StopSignal: "SIGTERM",
		StopTimeout: Math.ceil(graceMs / 1000),
		Labels: {
			[LABELS.folder]: folderId,
			[LABELS.service]: spec.id,
			[LABELS.namespace]: spec.namespace,
			[LABELS.name]: spec.name,
			[LABELS.version]: spec.version,
			[LABELS.revision]: String(spec.revision),
			[LABELS.generation]: String(spec.generation),
			[LABELS.instance]: record.instance,
		},
		HostConfig: {
			NetworkMode: network,
			ReadonlyRootfs: true,
			CapDrop: ["ALL"],
			SecurityOpt: ["no-new-privileges"],
			Tmpfs: {
				"/tmp": `rw,nosuid,nodev,noexec,size=${TEMPORARY_BYTES},mode=1777`,
				"/run/runtime": `rw,exec,nosuid,nodev,size=${program.size + SCRATCH_SPARE},mode=0700,${owner}`,
			},
			PidsLimit: pids,
			Memory: all,
			MemorySwap: all,
			NanoCpus: cpu * 1_000_000,
			IpcMode: "private",
			RestartPolicy: { Name: "no" },
			LogConfig: { Type: "json-file", Config: OUTPUT },
		},
	};
}

function loaderSeconds({ type, timeout }: Health): number {
	return type === "none" ? LOADER_SECONDS : Math.max(1, Math.min(LOADER_SECONDS, Math.floor(timeout * LOADER_SHARE)));
}
