import { createHash } from "node:crypto";
import { realpath, stat } from "node:fs/promises";
import path from "node:path";
import Docker from "dockerode";
import type { Logger } from "pino";
import type { SandboxOptions } from "./builders/sandbox/choose.ts";
import type { Config } from "./config.ts";
import { AppError, messageOf } from "./errors.ts";
import { type Loading, openLoading } from "./loading/loading.ts";
import type { Ceiling } from "./manager/limits.ts";
import type { CompanionOptions, CompanionRuntime } from "./runtimes/companion/runtime.ts";
import { bridgeAddress } from "./runtimes/docker/bridge.ts";
import { BuildContainers } from "./runtimes/docker/build-containers.ts";
import { createImages } from "./runtimes/docker/images.ts";
import { LoaderBinary } from "./runtimes/docker/loader-binary.ts";
import { createDockerRuntime } from "./runtimes/docker/runtime.ts";

const MIB = 1024 ** 2;
/** The usual place, and what the engine's own client takes. */
const DEFAULT_SOCKET = "/var/run/docker.sock";

/** What the profile `docker` consists of besides what all have. */
export type DockerParts = {
	readonly runtime: CompanionRuntime;
	readonly loading: Loading;
	readonly ceiling: NonNullable<Ceiling>;
	/** For builds, where nothing else keeps them to themselves. */
	readonly containers: NonNullable<SandboxOptions["containers"]>;
	/** Makes the base images, so that the first service need not wait for them. Resolves also where it could not. */
	prepare(): Promise<void>;
};

/** Opens them; each is handed to `own` as soon as it is there, to be closed with the rest. */
export async function openDocker(
	config: Config,
	folder: (name: string) => string,
	options: Omit<CompanionOptions, "folder">,
	log: Logger,
	own: <T extends AsyncDisposable>(resource: T) => T,
): Promise<DockerParts> {
	const socketPath = config.docker ?? socketOf(process.env.DOCKER_HOST) ?? DEFAULT_SOCKET;
	const docker = new Docker({ socketPath });
	const { loaderAddress } = config;
	const host = loaderAddress?.host ?? (await bridgeAddress(docker, folder("bridge")));
	const loading = own(
		await openLoading({
			...{ folder: folder("loading"), hosts: [host], listen: loaderAddress, url: config.loaderUrl, log },
		}),
	);
	const closing = new AbortController();
	own({ [Symbol.asyncDispose]: async () => closing.abort() });
	const { go, image, imageNode } = config;
	const remake = { go, cache: path.join(folder("loading"), "loader"), made: folder("images"), image, imageNode };
	const loader = new LoaderBinary({ go, cache: remake.cache });
	const { made } = remake;
	const images = createImages({ docker, loader, image, imageNode, made, signal: closing.signal });
	const runtime = own(
		await createDockerRuntime({
			...options,
			folder: folder("containers"),
			socket: socketPath,
			images: (requires) => images.image(requires),
			remake,
			loader: {
				url: (spec) => loading.pass(spec, spec.revision).url,
				token: (spec) => loading.token(spec, spec.revision),
				get ca() {
					return loading.ca;
				},
			},
			limits: { memory: config.memory * MIB, cpu: Math.round(config.cpu * 1000), pids: config.processes },
		}),
	);
	return {
		runtime,
		loading,
		containers: { engine: new BuildContainers(docker), owner: await markOf(config.dataDir) },
		ceiling: { memory: config.maxMemory, cpu: config.maxCpu, processes: config.maxProcesses },
		prepare: async () => {
			try {
				await images.ensure();
			} catch (error) {
				if (!closing.signal.aborted)
					log.warn(
						{ why: messageOf(error) },
						"the containers' base images could not be made yet; the first service will wait",
					);
			}
		},
	};
}

/** Another one for a copy of the folder, and where containers have the same path for folders of their own. */
async function markOf(dataDir: string): Promise<string> {
	const { ino, birthtimeNs } = await stat(dataDir, { bigint: true });
	return createHash("sha256")
		.update(`${await realpath(dataDir)}\0${ino}\0${birthtimeNs}`)
		.digest("hex")
		.slice(0, 16);
}

/** Undefined where it is not set. Throws `invalid_argument` for an engine elsewhere: containers' addresses are not reached there. */
export function socketOf(dockerHost: string | undefined): string | undefined {
	if (dockerHost === undefined || dockerHost === "") return undefined;
	if (dockerHost.startsWith("unix:///")) return dockerHost.slice("unix://".length);
	throw new AppError("invalid_argument", `DOCKER_HOST is ${dockerHost}, and the engine must be on this machine`, {
		field: "docker",
		hint: "Say where its socket is with --docker PATH, or unset DOCKER_HOST.",
	});
}
