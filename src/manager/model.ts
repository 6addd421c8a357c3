import type { Diagnostic, Requires } from "../builders/builder.ts";
import type { Launch } from "../builders/launcher.ts";
import type { Health, RestartPolicy } from "../runtimes/runtime.ts";

/** Milliseconds for which an idempotency key is remembered: a day. */
export const KEY_KEPT_MS = 24 * 3600 * 1000;

/** States of a revision. Which moves are legal is in transitions.ts. */
export const STATUSES = [
	"Pending",
	"Building",
	"Starting",
	"Running",
	"Stopping",
	"Stopped",
	"Error",
	"Unknown",
] as const;
export type Status = (typeof STATUSES)[number];

export type RevisionErrorCode =
	| "source_invalid"
	| "build_failed"
	| "build_timeout"
	| "not_listening"
	| "exited"
	| "crash_loop"
	| "superseded"
	| "cancelled"
	| "unavailable"
	| "internal";

export type Phase = "pending" | "source" | "build" | "build_store" | "start" | "run" | "stop";

/** Why a revision is in Error, or why it had to be started again. */
export type RevisionError = {
	readonly code: RevisionErrorCode;
	readonly message: string;
	readonly phase: Phase;
	/** Whether the same request may succeed later without a change by its owner. */
	readonly retryable: boolean;
	readonly diagnostics: readonly Diagnostic[];
	readonly exitCode?: number;
	readonly lastLines?: readonly string[];
};

export type BuildRecord = {
	/** Lower-case hex SHA-256. */
	readonly sha256: string;
	/** Bytes. */
	readonly size: number;
	readonly builder: string;
	readonly requires: Requires;
	/** The revision under which the bytes are stored: an update without a new source shares its predecessor's. */
	readonly revision: number;
	/** The bytes are no longer kept; nothing may refer to them any more. */
	readonly collected?: boolean;
};

/**
 * How far a git remote is settled. `deferred`: its host did not answer when it was asked for, so that it is kept as it was
 * typed and settled while Building; unless an entrypoint was given with it, that is then the folder that was typed.
 */
export type RemoteState =
	| { readonly state: "pinned"; readonly commit: string }
	| { readonly state: "deferred"; readonly entrypoint: "given" | "typed_folder" };

/** What a person asked for; stored whole in each revision. */
export type Wish = {
	/** `source://<id>`, `URL@COMMIT` of a remote, or a remote as it was typed where it is not settled yet. */
	readonly source: string;
	/** Null of an uploaded source. Records of before it was kept are without it: read it by `remoteOf`. */
	readonly remote?: RemoteState | null;
	readonly entrypoint: string;
	readonly args: readonly string[];
	readonly env: Readonly<Record<string, string>>;
	readonly health: Health;
	readonly restart: RestartPolicy;
	readonly instances: number;
	/** What was asked for; the runtime's defaults are for the rest. Absent: nothing was. */
	readonly limits?: WantedLimits;
	/** The builder that was asked for (in the synchronous flow the launcher). Absent or null: the one that is for the source. */
	readonly builder?: string | null;
};

/** The most that an instance may use. */
export type WantedLimits = {
	/** MiB. */
	readonly memory?: number;
	/** Cores. */
	readonly cpu?: number;
	/** Processes and threads. */
	readonly processes?: number;
};

export type RevisionRecord = Wish & {
	readonly revision: number;
	readonly status: Status;
	/** Which run of this revision is wanted: grows with each restart that was asked for, and goes back where one failed. */
	readonly generation: number;
	/** The greatest generation so far: none is used twice. */
	readonly lastGeneration: number;
	readonly build: BuildRecord | null;
	/** In the synchronous flow: how to run the revision's folder. */
	readonly launch: Launch | null;
	readonly error: RevisionError | null;
	readonly createdAt: string;
	readonly updatedAt: string;
};

/** A source that is kept so that its revision can be rolled back to. */
export type KeptSource = { readonly revision: number; readonly source: string };

/** What is wanted of a service as a whole. */
export type Desired = "running" | "stopped" | "removed";

export type ServiceRecord = {
	readonly id: string;
	readonly namespace: string;
	readonly name: string;
	readonly version: string;
	/** Grows with each commit; a commit names the one that it replaces. */
	readonly stamp: number;
	/** The `seq` of the newest event. */
	readonly seq: number;
	readonly desired: Desired;
	/** Being created synchronously: nobody sees it yet, and a restart of the server removes it. */
	readonly hidden?: boolean;
	/** The revision that became Running last (or that ended well), whose build `build://name:version` is. */
	readonly live: number | null;
	/** The number of the newest revision. */
	readonly newest: number;
	readonly url: string | null;
	readonly metadata: Readonly<Record<string, string>>;
	/** In the synchronous flow: the newest revisions whose source was run and can be run again, descending, one for each source. */
	readonly sources?: readonly KeptSource[];
	/** The live one, the newest one and all that have not ended, ascending. The others are in the store by number. */
	readonly revisions: readonly RevisionRecord[];
	readonly createdAt: string;
	readonly updatedAt: string;
};

export type ServiceEvent = {
	readonly seq: number;
	readonly time: string;
	readonly revision: number;
	readonly from: Status | null;
	readonly to: Status;
	readonly error?: RevisionError;
};

export type SourceRecord = {
	readonly namespace: string;
	readonly id: string;
	readonly sha256: string;
	readonly size: number;
	readonly createdAt: string;
};

/** How a person names a service. */
export type ServiceName = { readonly namespace: string; readonly name: string; readonly version: string };

/** Where a source's bytes are in its namespace's blobs. */
export function sourceKey(id: string): string {
	return `source/${id}`;
}

/** Where a build's bytes are in its namespace's blobs; never by name, so that a namesake shares nothing. */
export function buildKey(serviceId: string, revision: number): string {
	return `build/${serviceId}/${revision}`;
}

/** Under which revision its build log is kept: one that shares its predecessor's build shares its log. */
export function logRevision({ build, revision }: RevisionRecord): number {
	return build?.revision ?? revision;
}

/** The id in `source://<id>`. */
export function sourceId(source: string): string {
	return source.slice("source://".length);
}

/** The uploaded sources that a service may still need: of its live, its newest, its active revisions, and those to go back to. */
export function sourceIdsOf(service: ServiceRecord): string[] {
	const needed = [...service.revisions, ...(service.sources ?? [])].map(({ source }) => source);
	const sources = needed.filter((source) => source.startsWith("source://"));
	return [...new Set(sources.map(sourceId))];
}

export function revisionOf(service: ServiceRecord, revision: number | null): RevisionRecord | undefined {
	return service.revisions.find((candidate) => candidate.revision === revision);
}

/** An error with nothing but words. */
export function revisionError(
	code: RevisionErrorCode,
	phase: Phase,
	message: string,
	more: Partial<Pick<RevisionError, "retryable" | "diagnostics" | "exitCode" | "lastLines">> = {},
): RevisionError {
	return { code, phase, message, retryable: false, diagnostics: [], ...more };
}
