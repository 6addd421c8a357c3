import { createHash } from "node:crypto";
import Docker from "dockerode";
import type { Requires } from "../../builders/builder.ts";
import { AppError, cancelled } from "../../errors.ts";
import { type CompanionOptions, CompanionRuntime } from "../companion/runtime.ts";
import { DEFAULT_SETTINGS, type ImageSettings } from "../companion/settings.ts";
import type { Call, Limits, Program, ServiceSpec } from "../runtime.ts";
import { settleAt } from "./engine-place.ts";
import { DEFAULT_LIMITS } from "./plan.ts";

const ASK_MS = 5_000;
const USUAL_SOCKET = "/var/run/docker.sock";

/** How the loader in a container comes by the build. */
export type LoaderAccess = {
	/** The whole URL of the spec's build, as a container reaches it. */
	url(spec: ServiceSpec): string | Promise<string>;
	/** Good for that build alone. */
	token(spec: ServiceSpec): string | Promise<string>;
	/** PEM: who vouches for the server at that URL. */
	readonly ca: string;
};

export type DockerRuntimeOptions = CompanionOptions & {
	/** Path of the daemon's socket; null: the usual one. */
	readonly socket: string | null;
	/** The name of the image in which such a build is started; it is there when it resolves. */
	readonly images: (requires: Requires) => Promise<string>;
	readonly loader: LoaderAccess;
	/** For specs that have none of their own. */
	readonly limits?: Partial<Limits>;
	/** How the companion makes a base image again that somebody removed; without it, it does not. */
	readonly remake?: ImageSettings;
};

/**
 * Runs services as containers of the Docker engine on this machine: for programs that need not trust one another. They belong to
 * a companion process of the data folder; disposing the runtime, or the end of this process, leaves them running. Where the engine
 * does not answer, it takes this machine's architecture for the engine's. Rejects with `invalid_argument` where services of the
 * folder run on another engine.
 */
export async function createDockerRuntime(options: DockerRuntimeOptions): Promise<CompanionRuntime> {
	const { socket, images, loader, limits, remake, ...rest } = options;
	await settleAt(options.folder, socket ?? USUAL_SOCKET);
	return CompanionRuntime.open(
		{
			name: "docker",
			trust: "many",
			target: await targetOf(socket),
			prepare: async (spec, _programs, call) => {
				await verify(spec.program, call);
				return {
					image: await images(spec.requires),
					loader: { url: await loader.url(spec), token: await loader.token(spec), ca: loader.ca },
				};
			},
		},
		rest,
		{
			engine: {
				...{ kind: "docker", socket, limits: { ...DEFAULT_LIMITS, ...limits } },
				...(remake === undefined ? {} : { images: remake }),
			},
			path: options.path ?? DEFAULT_SETTINGS.path,
		},
	);
}

async function targetOf(socket: string | null): Promise<{ os: string; arch: string }> {
	const docker = new Docker({ ...(socket === null ? {} : { socketPath: socket }), timeout: ASK_MS });
	try {
		const { Os, Arch } = await docker.version();
		return { os: Os, arch: Arch };
	} catch {
		return { os: "linux", arch: process.arch === "x64" ? "amd64" : process.arch };
	}
}

/** The loader checks them again; here it is said before anything is started. */
async function verify(program: Program, { signal }: Call): Promise<void> {
	if (program.kind !== "build")
		throw new AppError("invalid_argument", "a folder cannot be run in a container: build it first");
	const hash = createHash("sha256");
	let size = 0;
	for await (const chunk of await program.open({ signal })) {
		if (signal.aborted) throw cancelled(signal);
		size += chunk.length;
		hash.update(chunk);
	}
	if (size !== program.size || hash.digest("hex") !== program.sha256)
		throw new AppError("damaged", "the build's bytes are not those that were built; nothing was started");
}
