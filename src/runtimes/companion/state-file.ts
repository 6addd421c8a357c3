import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError, systemCode } from "../../errors.ts";
import type { RevisionPhase, RuntimeFailure, ServiceRef, ServiceSpec } from "../runtime.ts";

/** A spec as it is kept: the bytes are a file of their own by now. Holds secrets (`env`, `loader`). */
export type SpecRecord = Omit<ServiceSpec, "program"> & {
	readonly program: ProgramRecord;
	/** For containers: where the loader gets the build, and by what right. */
	readonly loader?: LoaderRecord;
	/** For containers: what they are made of. */
	readonly image?: string;
};

export type LoaderRecord = {
	/** The whole URL of the build. */
	readonly url: string;
	readonly token: string;
	/** PEM: who vouches for that server. */
	readonly ca: string;
};

export type ProgramRecord =
	| { readonly kind: "build"; readonly sha256: string; readonly size: number }
	| { readonly kind: "directory"; readonly path: string; readonly command: readonly string[] };

/** One process of a revision, written before it is spawned and again once its pid is known. */
export type InstanceRecord = {
	readonly instance: string;
	readonly slot: number;
	readonly port: number;
	readonly bootId: string;
	readonly pid: number | null;
	readonly startTime: string | null;
	readonly ready: boolean;
	/** It was ready and is not any more, though it lives. Absent: no. */
	readonly lapsed?: boolean;
	/** Where requests for it go. */
	readonly host: string;
	/** Milliseconds since the epoch. */
	readonly startedAt: number;
};

export type RunRecord = {
	readonly spec: SpecRecord;
	readonly phase: RevisionPhase;
	readonly failure: RuntimeFailure | null;
	readonly everReady: boolean;
	readonly failedStarts: number;
	/** When programs that had been ready ended, milliseconds since the epoch. */
	readonly exits: readonly number[];
	/** Slots that ended with 0 and are not started again. */
	readonly endedSlots: readonly number[];
	readonly instances: readonly InstanceRecord[];
};

export type ServiceState = {
	readonly format: 1;
	readonly ref: ServiceRef;
	readonly port: number | null;
	readonly live: RunRecord | null;
	readonly target: RunRecord | null;
	/** On their way out: drained and stopped. */
	readonly retiring: readonly RunRecord[];
	/** The service is being removed. */
	readonly removing: boolean;
};

/** Writes the whole of a file so that a reader, after any crash, finds the old content or the new. */
export async function writeWhole(file: string, content: string): Promise<void> {
	const folder = dirname(file);
	await mkdir(folder, { recursive: true, mode: 0o700 });
	const temporary = `${file}.tmp`;
	const handle = await open(temporary, "w", 0o600);
	try {
		await handle.writeFile(content);
		await handle.sync();
	} finally {
		await handle.close();
	}
	await rename(temporary, file);
	await syncFolder(folder);
}

export async function syncFolder(folder: string): Promise<void> {
	const handle = await open(folder, "r");
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** A service's state on disk. Writes follow one another; one that waits is covered by the next. */
export class StateFile {
	readonly #file: string;
	#writing: Promise<void> = Promise.resolve();
	#closed = false;
	#next: { promise: Promise<void>; content: () => string } | null = null;

	constructor(folder: string) {
		this.#file = join(folder, "state.json");
	}

	/** Resolves when what `state` gives at the time of writing, no earlier than now, is durable. Does nothing once it is closed. */
	save(state: () => ServiceState): Promise<void> {
		if (this.#closed) return Promise.resolve();
		if (this.#next !== null) {
			this.#next.content = () => JSON.stringify(state());
			return this.#next.promise;
		}
		const next = { promise: Promise.resolve(), content: () => JSON.stringify(state()) };
		next.promise = this.#writing
			.catch(() => undefined)
			.then(() => {
				this.#next = null;
				return this.#closed ? undefined : writeWhole(this.#file, next.content());
			});
		this.#next = next;
		this.#writing = next.promise;
		return next.promise;
	}

	/** Null where there is none. */
	async load(): Promise<ServiceState | null> {
		try {
			const state: unknown = JSON.parse(await readFile(this.#file, "utf8"));
			if (isState(state)) return state;
			throw new AppError("internal", `${this.#file} is not a state file of this version`);
		} catch (error) {
			if (systemCode(error) === "ENOENT") return null;
			throw error;
		}
	}

	/** Nothing is written any more, from when it resolves. */
	async close(): Promise<void> {
		this.#closed = true;
		await Promise.allSettled([this.#writing]);
	}
}

/** The file is written whole and by nobody else, so its format number vouches for the rest. */
function isState(value: unknown): value is ServiceState {
	return typeof value === "object" && value !== null && "format" in value && value.format === 1;
}
