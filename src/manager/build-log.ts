import type { Call } from "../blob/store.ts";

/** A line of a build's output; `seq` counts from 1 for each revision and goes on where a build is begun again. */
export type BuildLogLine = { readonly seq: number; readonly time: string; readonly text: string };

/**
 * Keeps what builds print. Lines are readable as soon as they are appended, and after a restart of the server.
 */
export interface BuildLogs {
	/** Opens a revision's log to append to it; one writer at a time. */
	open(serviceId: string, revision: number): Promise<BuildLogWriter>;
	/** Lines with a greater seq; with `follow` until the signal is aborted or `ended` says so and all is read. */
	read(
		serviceId: string,
		revision: number,
		query: { readonly after: number; readonly follow: boolean; readonly ended: () => Promise<boolean> },
		call: Call,
	): AsyncIterable<BuildLogLine>;
	/** The revisions of a service that have a log, in any order. */
	revisions(serviceId: string): Promise<number[]>;
	/** Removes a revision's log, or all logs of a service. Idempotent. */
	remove(serviceId: string, revision?: number): Promise<void>;
}

export interface BuildLogWriter extends AsyncDisposable {
	/** Appends a line; never throws: a log that cannot be written must not fail a build. */
	append(text: string): void;
	/** Resolves when all that was appended can be read. */
	flush(): Promise<void>;
}
