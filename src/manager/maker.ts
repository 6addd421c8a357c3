import { BuildError, type BuildLog, type Call, type SourceTree } from "../builders/builder.ts";
import type { Launch } from "../builders/launcher.ts";
import type { BuildRecord, RevisionRecord, ServiceRecord } from "./model.ts";

/** What a revision runs: a stored build, or its own folder. */
export type Made = { readonly build: BuildRecord | null; readonly launch: Launch | null };

export type MakeCall = {
	readonly signal: AbortSignal;
	readonly log: BuildLog;
	/** Takes what is to be disposed of when what came of the call is recorded. */
	readonly keep: (thing: AsyncDisposable) => void;
};

/** Makes what a revision runs of its source. One of the two flows; which one, the configuration says. */
export interface Maker {
	/** Rejects with BuildError, StoreFailure, what the source rejects with, or `cancelled`; then nothing is left behind but what was kept. */
	make(service: ServiceRecord, revision: RevisionRecord, source: SourceTree, call: MakeCall): Promise<Made>;
	/** Removes what was made, for a revision that does not have it and never will. Idempotent. */
	discard(service: ServiceRecord, revision: number, call: Call): Promise<void>;
}

/** Row 16: the build was made but could not be kept. */
export class StoreFailure extends Error {
	constructor(cause: unknown) {
		super("the build could not be stored", { cause });
	}
}

/** None of those that could do something with the folder is for it. */
export function nothingToRun(
	what: "build" | "run",
	entrypoint: string,
	candidates: readonly { readonly markers: readonly string[] }[],
): BuildError {
	const markers = candidates.flatMap((candidate) => candidate.markers).join(", ");
	return new BuildError("source_invalid", `there is nothing to ${what} in ${entrypoint}: it has none of ${markers}`);
}
