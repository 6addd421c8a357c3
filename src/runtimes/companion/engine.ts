import type { Listener, Platform } from "../../platform/platform.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import type { Runtime, ServiceRef } from "../runtime.ts";
import type { Clock } from "./clock.ts";
import type { CompanionSettings } from "./settings.ts";
import type { InstanceRecord, SpecRecord } from "./state-file.ts";

/** How an instance ended. */
export type Exit = {
	/** 128 + n for signal n; null where nobody could tell. */
	readonly exitCode: number | null;
	/** Says how it ended where the code does not, after "the program": "was killed: it used more than its 512 MiB of memory". */
	readonly words?: string;
	/** It is no use to start it again, and why: the whole message ("the build was altered"). */
	readonly refused?: string;
	/**
	 * The engine ended it (its daemon or the machine was restarted): not counted as a crash, and started again at once; with
	 * back-off where it happens to one that has just been started.
	 */
	readonly excused?: boolean;
};

/** Of this service, on this disk. */
export type Folders = {
	readonly home: string;
	readonly temporary: string;
	readonly programs: string;
	/** Of this instance alone; nobody but the engine makes it. */
	readonly instance: string;
};

/** What an instance is to be. `record.instance` is its name: unique for ever, and durable before `start`. */
export type InstancePlan = { readonly spec: SpecRecord; readonly record: InstanceRecord; readonly folders: Folders };

/** `proven`: the run had been ready before, so whatever is in the way of another start is not its fault. */
export type StartPlan = InstancePlan & {
	readonly proven: boolean;
	/** What `verify` gave for this very start; absent where it was not asked, or the start is tried again. */
	readonly verified?: Promise<string>;
};

/** Whoever's output can be read, to its end. */
export interface Heard {
	/**
	 * Its output goes to the service's log from now on, and goes on where an earlier companion left off. One follower for each
	 * stream, or one for both. Called once, right after `start` or `adopt`.
	 */
	follow(log: ServiceLog): readonly Follower[];
}

/** One instance that runs. */
export interface Running extends Heard {
	/** For the record: whatever identifies it besides its name; null where there is none. */
	readonly pid: number | null;
	readonly startTime: string | null;
	/** Where requests for it go when it does not say so itself (health `none`): "127.0.0.1", a container's address. */
	readonly host: string;
	/** Rejects only where it can never be known. While the engine cannot be reached it just stays open. */
	readonly exited: Promise<Exit>;
	/** The address at which the instance itself listens on its port, null where it does not. May reject with `unavailable`. */
	listeningAt(): Promise<string | null>;
	/** All that it listens on, for the message that it does not listen on its port. May reject with `unavailable`. */
	elsewhere(): Promise<readonly Pick<Listener, "host" | "port">[]>;
	/**
	 * SIGTERM, after the grace SIGKILL; resolves when nothing of it runs. What it wrote can still be read, until `discard`.
	 * Called again after an `unavailable`.
	 */
	stop(graceMs: number): Promise<void>;
}

/** One that has ended since an earlier companion started it. */
export interface Gone extends Heard {
	readonly gone: Exit;
}

/**
 * Starts instances, finds them again, ends them. Every call but `mustBeReachable` may reject with `unavailable`, and is then made
 * again, with back-off and at once when `onReachable` tells: each must bear being repeated after it was cut anywhere.
 *
 * The order for an instance: `start` (or `adopt`), `follow`, `stop` (or `clear`), the followers are closed to their end, the
 * state without it is written, `discard`.
 */
export interface Engine extends AsyncDisposable {
	readonly kind: "process" | "docker";
	/** `one_namespace`: it is not asked to start programs of two namespaces. */
	readonly trust: Runtime["trust"];
	/** What $HOST is for programs: "127.0.0.1" for processes, "0.0.0.0" in a container. */
	readonly programHost: string;
	/** Throws `unavailable` while it cannot be reached. Cheap, no I/O. */
	mustBeReachable(): void;
	/** Told whenever it goes away or comes back, so that observers look again. Returns what ends that. */
	onReachable(listener: () => void): () => void;
	/** Before a spec is accepted: rejects with `not_found` where the bytes to start are not in `programs`, or else as is fit. */
	check(spec: SpecRecord, programs: string): Promise<void>;
	/**
	 * Reads the bytes of a start to come, while its record is being made durable, and leaves nothing behind. For an engine that
	 * verifies them itself; `start` is given the outcome, which says what was read, and reads anew where that was altered since or
	 * there is none. Rejects as `start` does.
	 */
	verify?(plan: InstancePlan): Promise<string>;
	/**
	 * Rejects with `internal` (why it cannot be started, in words for the service's owner: the run has failed) or `unavailable`
	 * (tried again later, same plan; its message says why meanwhile). What is no AppError is for the log alone.
	 */
	start(plan: StartPlan): Promise<Running>;
	/** What an earlier companion started; a Gone where it has ended since; null where it never was started. */
	adopt(plan: InstancePlan): Promise<Running | Gone | null>;
	/** Ends whatever runs of an instance that nobody holds (it was gone, or its start failed half-way). As `Running.stop`. */
	clear(plan: InstancePlan, graceMs: number): Promise<void>;
	/** Nothing of it runs, its output is kept, its record is gone: removes what it leaves (its folder, its container). */
	discard(plan: InstancePlan): Promise<void>;
	/**
	 * At the start, once: ends and removes what carries this folder's mark and is not known. `isKnown` takes the name of an
	 * instance; ask it after the looking, since instances may start meanwhile.
	 */
	sweep(isKnown: (instance: string) => boolean): Promise<void>;
	/** A service is gone; `rest` are the others (the last one of a namespace takes its network along). */
	forgotten(service: ServiceRef, rest: readonly ServiceRef[]): Promise<void>;
	/**
	 * The names of those for which anything at all listens, at `record.host` and `record.port`: a cheap look every few seconds,
	 * at all that are ready or were. Processes: the machine's listeners; containers: a connect for each.
	 */
	listening(records: readonly InstanceRecord[]): Promise<ReadonlySet<string>>;
}

/** What an engine is made with. */
export type EngineHost = {
	/** Data folder of the runtime. */
	readonly folder: string;
	/** Names this data folder in marks and labels: 16 hex digits; a copy of the folder has another. */
	readonly folderId: string;
	readonly bootId: string;
	readonly platform: Platform;
	readonly clock: Clock;
	/** As they are now: a server that connects may bring others (`engine` itself included). */
	readonly settings: () => CompanionSettings;
	readonly report: (message: string, error: unknown) => void;
};

/** Must resolve, with an engine that is not reachable, where it cannot be reached. */
export type OpenEngine = (host: EngineHost) => Promise<Engine>;
