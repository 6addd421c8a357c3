import type { Writable } from "node:stream";

/** A file or folder of the machine that the engine runs on, and where it is seen. Both absolute. */
export type Bind = { readonly source: string; readonly target: string; readonly writable: boolean };

/** What an image of ours holds; names without the leading slash, `text` is a file, `target` makes it a symbolic link. */
export type RootEntry = { readonly name: string } & ({ readonly text: string } | { readonly target: string });

export type ContainerPlan = {
	readonly image: string;
	readonly command: readonly string[];
	/** The whole environment; null takes out what the image says. */
	readonly env: Readonly<Record<string, string | null>>;
	readonly cwd: string;
	readonly user: { readonly uid: number; readonly gid: number };
	readonly binds: readonly Bind[];
	/** Folders that are covered by an empty one, with room for what is mounted in them and little else. */
	readonly covered: readonly string[];
	/** Paths of /proc and /sys that are not shown; ones that cannot be written to. */
	readonly masked: readonly string[];
	readonly readOnly: readonly string[];
	/** Bytes of all its processes, of /tmp, and of one file. */
	readonly memory: number;
	readonly temporary: number;
	readonly fileSize: number;
	readonly processes: number;
	/** Whose it is: `sweep` finds it by that. */
	readonly owner: string;
};

export type Piece = { readonly stream: "stdout" | "stderr"; readonly bytes: Buffer };

export interface StartedContainer {
	/** Of its first process. It ends when the server does, however that comes about. */
	readonly input: Writable;
	/** What it writes, as it comes; ends with the container, and where the engine goes away. */
	readonly output: AsyncIterable<Piece>;
	/** Kills it where it still runs. Resolves when all of its processes have ended and nothing of it is left. */
	remove(): Promise<void>;
}

/** A container that runs, as the engine knows it. */
export type Housing = {
	readonly image: string;
	/** Names of the variables that the image sets. */
	readonly variables: readonly string[];
	/** Folders of which a container of the image gets a new volume, unless something else is mounted there. */
	readonly volumes: readonly string[];
	/** Where it has a file system of the machine: inside, and there; null for one that is nowhere else. */
	readonly mounts: readonly { readonly target: string; readonly source: string | null }[];
};

/**
 * What building in containers needs of an engine on this machine. Containers have no network, no capability and a root that
 * is read-only. Rejects with BuildError `unavailable` where the engine does not answer.
 */
export interface ContainerEngine {
	/** Undefined where it has no such container, or it does not run. */
	housing(id: string): Promise<Housing | undefined>;
	/** The name of an image that holds these entries and nothing else; made where it is missing. */
	image(entries: readonly RootEntry[]): Promise<string>;
	start(plan: ContainerPlan): Promise<StartedContainer>;
	/** Removes all containers of this owner. */
	sweep(owner: string): Promise<void>;
}
