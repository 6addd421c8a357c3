import type { Call } from "../blob/store.ts";
import type { Requires } from "../builders/builder.ts";

export type { Call };

/** Names a service to a runtime. `id` is unique for ever; the names are for labels and the program's environment. */
export type ServiceRef = {
	readonly id: string;
	readonly namespace: string;
	readonly name: string;
	readonly version: string;
};

export type Health = {
	/** `port`: listens on $PORT. `http`: answers GET `path` with 2xx or 3xx. `none`: alive for two seconds. */
	readonly type: "port" | "http" | "none";
	/** For `http`. */
	readonly path: string;
	/** Seconds from the start within which it must be ready. */
	readonly timeout: number;
};

export type RestartPolicy = "always" | "on-failure" | "never";

/** What the program is: bytes in the build store, or (the synchronous flow) a command in a folder. */
export type Program =
	| {
			readonly kind: "build";
			/** Lower-case hex SHA-256 of the file. */
			readonly sha256: string;
			readonly size: number;
			/** Opens the bytes. Called only when the runtime does not hold them yet. */
			readonly open: (call: Call) => Promise<AsyncIterable<Uint8Array>>;
	  }
	| { readonly kind: "directory"; readonly path: string; readonly command: readonly string[] };

/** What an instance may use at the most. */
export type Limits = {
	/** Bytes. */
	readonly memory: number;
	/** Thousandths of a core. */
	readonly cpu: number;
	/** Processes and threads. */
	readonly pids: number;
};

/** What is wanted of a service. `(id, revision, generation)` says which running of which revision this is. */
export type ServiceSpec = ServiceRef & {
	/** Counts from 1. */
	readonly revision: number;
	/** Grows with each restart that was asked for; the same revision with a new generation is rolled over anew. */
	readonly generation: number;
	readonly program: Program;
	readonly requires: Requires;
	readonly args: readonly string[];
	readonly env: Readonly<Record<string, string>>;
	readonly health: Health;
	readonly restart: RestartPolicy;
	readonly instances: number;
	/** Only for runtimes that can hold programs to them; the process runtime refuses a spec that has any. */
	readonly limits?: Partial<Limits>;
};

export type RuntimeFailureCode = "not_listening" | "exited" | "crash_loop" | "internal";

export type RuntimeFailure = {
	readonly code: RuntimeFailureCode;
	readonly message: string;
	readonly exitCode: number | null;
	/** The last lines of the program's output, at most 20, oldest first. */
	readonly lastLines: readonly string[];
};

/**
 * `starting` started, not ready yet, for the first time or again after an exit (`failure` then says how it ended) ·
 * `ready` all its instances are ready · `stopping` told to end · `ended` exit code 0 and not to be restarted ·
 * `failed` `failure` says why. A `crash_loop` failure is still retried and may be `ready` later; no other is.
 */
export type RevisionPhase = "starting" | "ready" | "stopping" | "ended" | "failed";

export type RevisionObserved = {
	readonly revision: number;
	readonly generation: number;
	readonly phase: RevisionPhase;
	readonly failure: RuntimeFailure | null;
	readonly instances: readonly { readonly instance: string; readonly pid: number | null; readonly ready: boolean }[];
};

export type Observed = {
	/** The service's address for life, or null before the first apply. */
	readonly url: string | null;
	/** The revision that requests go to, or would go to once it is ready again. */
	readonly serving: number | null;
	/** Every revision that the runtime still knows of, ascending. Empty: it knows nothing of this service. */
	readonly revisions: readonly RevisionObserved[];
};

/** One line of a program's output. `seq` grows per service id, over revisions, instances and restarts. */
export type LogLine = {
	readonly seq: number;
	/** ISO 8601 UTC, milliseconds. */
	readonly time: string;
	readonly revision: number;
	readonly instance: string;
	readonly stream: "stdout" | "stderr";
	readonly text: string;
};

/** A gap says that lines `from` to `to` (both inclusive) are no longer kept. */
export type LogItem = { readonly line: LogLine } | { readonly gap: { readonly from: number; readonly to: number } };

export type LogQuery = {
	/** Go on with what comes; ends when the signal is aborted. */
	readonly follow: boolean;
	/** Only the last so many lines (0: none of the past). */
	readonly tail?: number;
	/** Only lines at or after this time, ISO 8601. */
	readonly since?: string;
	/** Only lines whose seq is greater. */
	readonly after?: number;
};

/**
 * Runs services. Declarative: the same spec twice is a no-op.
 *
 * Every call rejects with `unavailable` where the runtime cannot be reached, and with `cancelled` when aborted.
 */
export interface Runtime extends AsyncDisposable {
	readonly name: string;
	/** What builds must be made for. */
	readonly target: { readonly os: string; readonly arch: string };
	/** `one_namespace`: its programs can reach each other's files, so that only one tenant's services may run side by side. */
	readonly trust: "one_namespace" | "many";
	/**
	 * Wants this spec. Resolves when the wish is durable and the bytes are in place and verified against `sha256` (rejects
	 * with `internal` where they differ); readiness is seen by `observe`. The adapter owns the switch: the revision that
	 * serves goes on until the new one is ready, then requests go to the new one, the old is drained and stopped. If the
	 * new one fails, its processes are stopped and the old goes on. A newer apply replaces one that is not ready yet.
	 */
	apply(spec: ServiceSpec, call: Call): Promise<void>;
	/** Gives up a revision that is not serving yet: its processes are stopped, what serves goes on. Idempotent. */
	abandon(service: ServiceRef, revision: number, call: Call): Promise<void>;
	/** What is so now. A service it does not know has no revisions; that is no error. */
	observe(service: ServiceRef, call: Call): Promise<Observed>;
	/** Yields a service whenever something about it may have changed, at least every time a phase does. Never ends by itself. */
	changes(call: Call): AsyncIterable<ServiceRef>;
	/** All that it runs, known to the caller or not. */
	list(call: Call): AsyncIterable<ServiceRef>;
	/** Past and coming output. A service without any yields nothing (and waits, with `follow`). */
	logs(service: ServiceRef, query: LogQuery, call: Call): AsyncIterable<LogItem>;
	/** Stops every process; the address and the logs are kept, `observe` shows no revisions. Resolves when nothing runs. Idempotent. */
	stop(service: ServiceRef, call: Call): Promise<void>;
	/** Stops everything and forgets the service: address, logs, files. Resolves when it is so. Idempotent. */
	remove(service: ServiceRef, call: Call): Promise<void>;
}
