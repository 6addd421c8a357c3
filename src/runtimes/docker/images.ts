import { mkdir, readdir, realpath, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import type Docker from "dockerode";
import type { Requires } from "../../builders/builder.ts";
import { AppError, isAppError, messageOf, systemCode } from "../../errors.ts";
import { ImageArchive } from "./image-archive.ts";
import { imageConfig, imageFiles } from "./image-files.ts";
import type { LoaderBinary } from "./loader-binary.ts";

export type ImagesOptions = {
	readonly docker: Docker;
	readonly loader: LoaderBinary;
	/** The operator's own image for builds that need nothing; used as it is, and nothing is made. */
	readonly image?: string | null;
	/** The same for builds that need Node. */
	readonly imageNode?: string | null;
	/** The Node program that is put into the image; the one that runs the server by default. */
	readonly node?: string;
	/**
	 * Folder that says which images this installation made or used; others that share the engine have theirs. Without it nothing
	 * is ever removed.
	 */
	readonly made?: string;
	/** Ends whatever is under way. */
	readonly signal?: AbortSignal;
};

export type Images = {
	/**
	 * The name of the image to start a build in; made first where it is missing. Cheap after the first call, and asked before
	 * each container, because anybody may prune images. Rejects with `unavailable`, and with `invalid_argument` for what no
	 * image has.
	 */
	image(requires: Requires): Promise<string>;
	/**
	 * Makes what is missing, and removes what older versions of this installation made and nothing uses. An image for Node that
	 * cannot be made here is no error until it is asked for.
	 */
	ensure(): Promise<void>;
};

/** What we can make an image for. */
type Requirement = Exclude<Requires, "python">;

const REPOSITORY = "runtime-builds";
const LABEL = "runtime-builds.image";
const REQUIREMENTS: readonly Requirement[] = ["none", "node"];
/** Node's names of processors by Docker's. */
const PROCESSORS: Readonly<Record<string, string>> = { amd64: "x64", arm64: "arm64", ppc64le: "ppc64", s390x: "s390x" };

type Plan = {
	readonly requires: Requirement;
	readonly digest: string;
	readonly tag: string;
	readonly archive: ImageArchive;
};

/** The base images of containers, made of this machine's files without any registry. */
export function createImages(options: ImagesOptions): Images {
	const { docker } = options;
	const plans = new Map<Requirement, Promise<Plan>>();
	const making = new Map<Requirement, Promise<void>>();

	const ours = (requires: Requirement): string | null =>
		(requires === "node" ? options.imageNode : options.image) ?? null;

	async function plan(requires: Requirement): Promise<Plan> {
		const { Arch: architecture } = await reached(docker.version());
		const loader = await options.loader.file(architecture, options.signal);
		const node = requires === "node" ? await nodeFor(options.node ?? process.execPath, architecture) : undefined;
		const config = imageConfig({ [LABEL]: requires });
		const archive = await ImageArchive.plan(await imageFiles(loader, node), config, { architecture });
		const digest = archive.digest.slice(0, 16);
		return { requires, digest, tag: `${REPOSITORY}/${requires}:${digest}`, archive };
	}

	async function make({ requires, digest, tag, archive }: Plan): Promise<void> {
		// Before it is there: whatever happens, a later version knows that it is ours.
		if (options.made !== undefined) await remember(options.made, `${requires}-${digest}`);
		if (await exists(docker, tag)) return;
		const stream = archive.stream(tag);
		try {
			const signal = options.signal === undefined ? {} : { abortSignal: options.signal };
			await loaded(await reached(docker.loadImage(stream, { quiet: true, ...signal })));
		} finally {
			stream.destroy();
		}
		if (!(await exists(docker, tag)))
			throw new AppError("unavailable", `Docker took the image ${tag} and does not have it`);
	}

	async function image(requires: Requires): Promise<string> {
		if (requires === "python")
			throw new AppError("invalid_argument", "Docker has no image for builds that need Python", {
				field: "entrypoint",
			});
		const named = ours(requires);
		if (named !== null) return named;
		const planned = once(plans, requires, () => plan(requires));
		// A plan is kept when it is good; the next one who asks may find Docker there, or Go installed.
		planned.catch(() => plans.delete(requires));
		const found = await planned;
		const made = once(making, requires, () => make(found));
		try {
			await made;
		} catch (error) {
			// A file may have changed since it was planned: Node was updated under us.
			plans.delete(requires);
			throw error;
		} finally {
			making.delete(requires);
		}
		return found.tag;
	}

	return {
		image,
		ensure: async () => {
			for (const requires of REQUIREMENTS) {
				const kept = await image(requires).catch((error: unknown) => {
					if (requires === "node" && isAppError(error, "unavailable")) return undefined;
					throw error;
				});
				if (kept !== undefined && options.made !== undefined) await removeOthers(docker, options.made, requires, kept);
			}
		},
	};
}

function once<T>(map: Map<Requirement, Promise<T>>, key: Requirement, start: () => Promise<T>): Promise<T> {
	const running = map.get(key) ?? start();
	map.set(key, running);
	return running;
}

/** The server's own Node, where containers can run it too. */
async function nodeFor(program: string, architecture: string): Promise<string> {
	if (process.platform !== "linux" || PROCESSORS[architecture] !== process.arch)
		throw new AppError(
			"unavailable",
			`Docker runs linux/${architecture} here, and the Node of this server (${process.platform}/${process.arch}) cannot be used there`,
			{ hint: "Configure an image with Node and the loader; images/README.md says how to make one." },
		);
	return realpath(program);
}

async function remember(folder: string, name: string): Promise<void> {
	await mkdir(folder, { recursive: true, mode: 0o700 });
	await writeFile(path.join(folder, name), "");
}

/** Docker refuses to remove what a container uses; so do we then, until the next time. */
async function removeOthers(docker: Docker, folder: string, requires: Requirement, kept: string): Promise<void> {
	const names = await readdir(folder).catch((error: unknown) => {
		if (systemCode(error) !== "ENOENT") throw error;
		return [];
	});
	for (const name of names) {
		const tag = `${REPOSITORY}/${requires}:${name.slice(requires.length + 1)}`;
		if (!name.startsWith(`${requires}-`) || tag === kept) continue;
		try {
			await docker.getImage(tag).remove();
		} catch (error) {
			if (statusOf(error) === 409) continue;
			if (statusOf(error) !== 404) throw notReached(error);
		}
		await rm(path.join(folder, name), { force: true });
	}
}

async function exists(docker: Docker, tag: string): Promise<boolean> {
	try {
		await docker.getImage(tag).inspect();
		return true;
	} catch (error) {
		if (statusOf(error) === 404) return false;
		throw notReached(error);
	}
}

/** Reads Docker's answer to its end: a failure comes as a line of an answer that began well. */
async function loaded(answer: NodeJS.ReadableStream): Promise<void> {
	let text = "";
	for await (const chunk of answer) text = (text + String(chunk)).slice(-64 * 1024);
	for (const line of text.split("\n")) {
		const failed = /"error"\s*:\s*"((?:[^"\\]|\\.)*)"/.exec(line)?.[1];
		if (failed !== undefined) throw new AppError("unavailable", `Docker did not take the base image: ${failed}`);
	}
}

async function reached<T>(call: Promise<T>): Promise<T> {
	return call.catch((error: unknown) => {
		throw notReached(error);
	});
}

function notReached(error: unknown): AppError {
	if (isAppError(error)) return error;
	return new AppError("unavailable", `Docker did not answer as it should: ${messageOf(error)}`, { cause: error });
}

function statusOf(error: unknown): number {
	if (typeof error !== "object" || error === null || !("statusCode" in error)) return 0;
	return typeof error.statusCode === "number" ? error.statusCode : 0;
}
