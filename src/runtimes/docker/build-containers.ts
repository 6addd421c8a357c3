import { Duplex, type Writable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import type Docker from "dockerode";
import type { ContainerCreateOptions } from "dockerode";
import { BuildError } from "../../builders/builder.ts";
import type {
	Bind,
	ContainerEngine,
	ContainerPlan,
	Housing,
	Piece,
	RootEntry,
	StartedContainer,
} from "../../builders/sandbox/container/engine.ts";
import { messageOf } from "../../errors.ts";
import { reasonOf, statusOf } from "./daemon.ts";
import { ImageArchive } from "./image-archive.ts";

const LABEL = "runtime-builds.build";
const REPOSITORY = "runtime-builds/sandbox";
/** An engine that is busy may take long, and one that hangs takes for ever. */
const CALL_MS = 60_000;
/** How long a killed container may take to be gone; a process can hang in the kernel. */
const GONE_LIMIT_MS = 20_000;
const LOOK_MS = { first: 5, most: 200 };
const HEADER = 8;
/** For the folders in which something is mounted; it holds no file. */
const COVER_BYTES = 64 * 1024;

/** Containers for builds, of the Docker engine that services run on. */
export class BuildContainers implements ContainerEngine {
	readonly #docker: Docker;
	readonly #images = new Map<string, ImageArchive>();

	/** A client without a limit of time: a build's output may be silent for as long as the build may take. */
	constructor(docker: Docker) {
		this.#docker = docker;
	}

	async housing(id: string): Promise<Housing | undefined> {
		const info = await find(this.#docker.getContainer(id).inspect({ abortSignal: soon() }));
		if (info?.State.Running !== true) return undefined;
		const { Config: config } = await reached(this.#docker.getImage(info.Image).inspect());
		return {
			image: info.Image,
			variables: (config.Env ?? []).map((variable) => variable.split("=")[0] ?? ""),
			volumes: Object.keys(config.Volumes ?? {}),
			mounts: info.Mounts.map(({ Destination: target, Source }) => ({ target, source: Source || null })),
		};
	}

	async image(entries: readonly RootEntry[]): Promise<string> {
		const { Arch: architecture } = await reached(this.#docker.version());
		const config = {
			Entrypoint: [],
			Env: [],
			User: "",
			WorkingDir: "/",
			Labels: { "runtime-builds.image": "sandbox" },
		};
		const archive = await ImageArchive.plan(
			entries.map((entry) =>
				"text" in entry ? { ...entry, type: "text", mode: 0o644 } : { ...entry, type: "symlink", mode: 0o777 },
			),
			config,
			{ architecture },
		);
		const name = `${REPOSITORY}:${archive.digest.slice(0, 16)}`;
		this.#images.set(name, archive);
		if ((await find(this.#docker.getImage(name).inspect())) === undefined) await this.#load(name, archive);
		return name;
	}

	async start(plan: ContainerPlan): Promise<StartedContainer> {
		const container = await this.#create(plan);
		let stream: Duplex | undefined;
		try {
			const attached = await attach(container);
			if (!(attached instanceof Duplex)) throw new BuildError("unavailable", "the Docker engine gave no stream");
			stream = attached;
			await reached(container.start({ abortSignal: soon() }));
			return new Attached(container, stream);
		} catch (error) {
			stream?.destroy();
			await removed(container).catch(() => undefined);
			throw error;
		}
	}

	async sweep(owner: string): Promise<void> {
		const filters = { label: [`${LABEL}=${owner}`] };
		const left = await reached(this.#docker.listContainers({ all: true, filters, abortSignal: soon() }));
		await Promise.all(left.map(({ Id }) => removed(this.#docker.getContainer(Id))));
	}

	/** Anybody may prune images: one that is gone is made again. */
	async #create(plan: ContainerPlan): Promise<Docker.Container> {
		const create = () => this.#docker.createContainer({ ...containerOptions(plan), abortSignal: soon() });
		const archive = this.#images.get(plan.image);
		if (archive === undefined) return reached(create());
		const container = await find(create());
		if (container !== undefined) return container;
		await this.#load(plan.image, archive);
		return reached(create());
	}

	async #load(name: string, archive: ImageArchive): Promise<void> {
		const answer = await reached(this.#docker.loadImage(archive.stream(name), { quiet: true, abortSignal: soon() }));
		let said = "";
		for await (const chunk of answer) said = (said + String(chunk)).slice(-64 * 1024);
		const failed = /"error"\s*:\s*"((?:[^"\\]|\\.)*)"/.exec(said)?.[1];
		if (failed !== undefined) throw new BuildError("unavailable", `Docker did not take the builds' image: ${failed}`);
	}
}

function containerOptions(plan: ContainerPlan): ContainerCreateOptions {
	const { command, env, user, memory } = plan;
	const [entrypoint = "", ...words] = command;
	// It gets the permissions of the folder in the image, which may let its owner alone through.
	const cover = `rw,noexec,nosuid,nodev,size=${COVER_BYTES},mode=0700,uid=${user.uid},gid=${user.gid}`;
	return {
		Image: plan.image,
		Entrypoint: [entrypoint],
		Cmd: words,
		Env: Object.entries(env).map(([name, value]) => (value === null ? name : `${name}=${value}`)),
		User: `${user.uid}:${user.gid}`,
		WorkingDir: plan.cwd,
		Hostname: "build",
		...{ OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: false },
		StopSignal: "SIGKILL",
		Healthcheck: { Test: ["NONE"] },
		Labels: { [LABEL]: plan.owner },
		HostConfig: {
			AutoRemove: true,
			NetworkMode: "none",
			// The machine's name servers are nobody's business.
			Dns: ["127.0.0.1"],
			ReadonlyRootfs: true,
			CapDrop: ["ALL"],
			SecurityOpt: ["no-new-privileges"],
			Privileged: false,
			IpcMode: "private",
			Init: false,
			Memory: memory,
			MemorySwap: memory,
			PidsLimit: plan.processes,
			Ulimits: [
				{ Name: "core", Soft: 0, Hard: 0 },
				{ Name: "fsize", Soft: plan.fileSize, Hard: plan.fileSize },
			],
			Tmpfs: {
				"/tmp": `rw,exec,nosuid,nodev,size=${plan.temporary},mode=1777`,
				...Object.fromEntries(plan.covered.map((target) => [target, cover])),
			},
			ShmSize: plan.temporary,
			Mounts: [...plan.binds.map(mountOf)],
			MaskedPaths: [...plan.masked],
			ReadonlyPaths: [...plan.readOnly],
			RestartPolicy: { Name: "no" },
			LogConfig: { Type: "none", Config: {} },
		},
	};
}

/**
 * What is mounted below would be writable in one that is read-only. How mounts propagate is left to the engine, although its
 * client's types want it said: for what is in its own volumes it takes no other word than its own.
 */
function mountOf({ source, target, writable }: Bind): Docker.MountSettings {
	const mount: Docker.MountSettings = { Type: "bind", Source: source, Target: target, ReadOnly: !writable };
	return writable ? mount : Object.assign(mount, { BindOptions: { NonRecursive: true } });
}

class Attached implements StartedContainer {
	readonly #container: Docker.Container;
	readonly #stream: Duplex;
	#removing: Promise<void> | undefined;

	constructor(container: Docker.Container, stream: Duplex) {
		this.#container = container;
		this.#stream = stream;
		// Who reads hears of it there; who only writes finds that nobody listens.
		stream.on("error", () => undefined);
	}

	get input(): Writable {
		return this.#stream;
	}

	get output(): AsyncIterable<Piece> {
		return pieces(this.#stream);
	}

	remove(): Promise<void> {
		this.#removing ??= this.#remove();
		return this.#removing;
	}

	async #remove(): Promise<void> {
		try {
			await removed(this.#container);
		} finally {
			this.#stream.destroy();
		}
	}
}

/** Takes frames apart: a header of eight bytes (stream, length) and what was written. Ends where the connection does. */
async function* pieces(stream: Duplex): AsyncGenerator<Piece> {
	let head = Buffer.alloc(0);
	let left = 0;
	let name: Piece["stream"] = "stdout";
	const chunks: AsyncIterator<Buffer> = stream.iterator({ destroyOnReturn: false });
	for (;;) {
		// A connection that breaks off is an end: what it means is said by whether the command had ended.
		const next = await chunks.next().catch(() => ({ done: true as const, value: undefined }));
		if (next.done === true) return;
		let bytes = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
		head = Buffer.alloc(0);
		while (bytes.length > 0) {
			if (left === 0) {
				if (bytes.length < HEADER) break;
				name = bytes[0] === 2 ? "stderr" : "stdout";
				left = bytes.readUInt32BE(4);
				bytes = bytes.subarray(HEADER);
				continue;
			}
			const part = bytes.subarray(0, left);
			yield { stream: name, bytes: part };
			left -= part.length;
			bytes = bytes.subarray(part.length);
		}
		head = Buffer.from(bytes);
	}
}

/** Resolves when there is no such container. It may be going by itself. */
async function removed(container: Docker.Container): Promise<void> {
	const until = performance.now() + GONE_LIMIT_MS;
	for (let pause = LOOK_MS.first; ; pause = Math.min(LOOK_MS.most, pause * 2)) {
		let refused: unknown;
		try {
			await container.remove({ force: true, v: true, abortSignal: soon() });
		} catch (error) {
			if (statusOf(error) === 404) return;
			if (statusOf(error) !== 409) throw named(error);
			refused = error;
		}
		if ((await find(container.inspect({ abortSignal: soon() }))) === undefined) return;
		if (performance.now() >= until) throw named(refused ?? new Error("a container does not go away"));
		await delay(pause);
	}
}

/** The limit is that of the answer's head: what comes then takes as long as it takes. */
async function attach(container: Docker.Container): Promise<NodeJS.ReadWriteStream> {
	const slow = new AbortController();
	const timer = setTimeout(() => slow.abort(), CALL_MS);
	try {
		const streams = { stream: true, stdin: true, stdout: true, stderr: true, hijack: true };
		return await reached(container.attach({ ...streams, abortSignal: slow.signal }));
	} finally {
		clearTimeout(timer);
	}
}

function soon(): AbortSignal {
	return AbortSignal.timeout(CALL_MS);
}

async function reached<T>(call: Promise<T>): Promise<T> {
	return call.catch((error: unknown) => {
		throw named(error);
	});
}

/** Undefined where there is no such thing. */
async function find<T>(call: Promise<T>): Promise<T | undefined> {
	try {
		return await call;
	} catch (error) {
		if (statusOf(error) === 404) return undefined;
		throw named(error);
	}
}

/** Whatever an engine says no to, the build's owner has no part in it. */
function named(error: unknown): BuildError {
	if (error instanceof BuildError) return error;
	const words =
		statusOf(error) === null
			? `the Docker engine, whose containers builds run in, does not answer (${messageOf(error).trim()})`
			: `the Docker engine did not run the build's container: ${reasonOf(error)}`;
	return new BuildError("unavailable", `${words}; try again`, { cause: error });
}
