import type { Observed, RevisionObserved } from "../runtimes/runtime.ts";
import type { Draft } from "./draft.ts";
import { type RevisionError, type RevisionRecord, revisionError, revisionOf, type ServiceRecord } from "./model.ts";
import { isOnItsWay } from "./transitions.ts";

/** Moves a draft to where the runtime says that the service is. Pure; legal moves only. */
export function reconcile(draft: Draft, observed: Observed): void {
	if (observed.url !== null && observed.url !== draft.service.url) draft.set({ url: observed.url });
	for (const { revision } of draft.service.revisions) {
		const record = revisionOf(draft.service, revision);
		if (record === undefined) continue;
		const seen = observed.revisions.find(
			(candidate) => candidate.revision === revision && candidate.generation === record.generation,
		);
		if (record.status === "Stopping") {
			// A revision that was replaced, or a stop that was asked for: the runtime has ended all its processes.
			if (!observed.revisions.some((other) => other.revision === revision && holdsProcesses(other)))
				if (draft.service.desired !== "removed") draft.move(revision, "Stopped");
		} else if (seen !== undefined && isWatched(record)) {
			follow(draft, record, seen, observed);
		}
	}
}

/** What the runtime holds but nobody wants: revisions that failed, were superseded, cancelled or stopped. */
export function unwanted(service: ServiceRecord, observed: Observed): number[] {
	return observed.revisions
		.filter((seen) => {
			const record = revisionOf(service, seen.revision);
			const wanted = record !== undefined && (isWatched(record) || record.status === "Stopping");
			return !wanted && seen.revision !== observed.serving && (seen.phase === "starting" || seen.phase === "ready");
		})
		.map((seen) => seen.revision);
}

/**
 * Whether the runtime serves a revision that nobody wants although no other is there to go back to: one that was cancelled
 * or superseded in the moment in which it became ready.
 */
export function servesUnwanted(service: ServiceRecord, observed: Observed): boolean {
	const serving = revisionOf(service, observed.serving);
	if (observed.serving === null || (serving !== undefined && (isWatched(serving) || serving.status === "Stopping")))
		return false;
	const live = revisionOf(service, service.live);
	return live === undefined || !isWatched(live);
}

/** A start failed. A restart leaves the service what it was, where the run before it serves on. */
export function failStart(draft: Draft, record: RevisionRecord, error: RevisionError, observed: Observed): void {
	const before = observed.revisions.find(
		(other) => other.revision === record.revision && other.generation < record.generation && other.phase === "ready",
	);
	if (before !== undefined && record.status === "Starting")
		draft.move(record.revision, "Running", error, { generation: before.generation });
	else if (!(record.status === "Error" && sameError(record.error, error))) draft.move(record.revision, "Error", error);
}

/** Whether the runtime decides this revision's state. */
export function isWatched(record: RevisionRecord): boolean {
	switch (record.status) {
		case "Starting":
		case "Running":
		case "Unknown":
			return true;
		case "Error":
			return record.error?.code === "crash_loop";
		default:
			return false;
	}
}

/**
 * Whether programs of this revision may be at work, or be started (again): it is on its way, it is the service, or it serves
 * its last requests. What failed, was stopped or removed may not; what crashes again and again is still tried.
 */
export function mayBeAtWork(service: ServiceRecord, revision: number): boolean {
	const record = revisionOf(service, revision);
	if (record === undefined || service.desired !== "running") return false;
	return isOnItsWay(record.status) || isWatched(record) || record.status === "Stopping";
}

function holdsProcesses(seen: RevisionObserved): boolean {
	return seen.phase !== "ended" && seen.phase !== "failed";
}

function follow(draft: Draft, record: RevisionRecord, seen: RevisionObserved, observed: Observed): void {
	const { revision } = record;
	const failure = failureOf(record, seen);
	switch (seen.phase) {
		case "ready":
			if (record.status === "Running") return;
			draft.move(revision, "Running");
			replace(draft, revision);
			return;
		case "starting":
			// It was up and ended: it is being started again, and the reason is shown. A crash loop stays one until it is ready.
			if (record.status === "Running" || record.status === "Unknown") draft.move(revision, "Starting", failure);
			// What it waits for may be another thing than what it ended of.
			else if (draft.service.live === revision && record.status === "Starting" && failure !== null)
				if (!sameError(record.error, failure)) draft.amend({ ...record, error: failure });
			return;
		case "ended":
			draft.move(revision, "Stopped");
			replace(draft, revision);
			return;
		case "failed":
			failStart(draft, record, failure ?? revisionError("internal", "run", "the runtime gave no reason"), observed);
			return;
		case "stopping":
			return;
	}
}

/** This revision is now the service; the one before it, if still at work, is being drained. */
function replace(draft: Draft, revision: number): void {
	const previous = revisionOf(draft.service, draft.service.live);
	if (draft.service.live === revision) return;
	if (previous !== undefined && isWatched(previous)) draft.move(previous.revision, "Stopping");
	draft.set({ live: revision });
}

function failureOf(record: RevisionRecord, seen: RevisionObserved): RevisionError | null {
	const { failure } = seen;
	if (failure === null) return null;
	const phase = record.status === "Starting" && record.error === null ? "start" : "run";
	return revisionError(failure.code, phase, failure.message, {
		retryable: failure.code === "internal" || failure.code === "crash_loop",
		lastLines: failure.lastLines,
		...(failure.exitCode === null ? {} : { exitCode: failure.exitCode }),
	});
}

function sameError(a: RevisionError | null, b: RevisionError | null): boolean {
	return a?.code === b?.code && a?.message === b?.message;
}

/** The revision that the runtime should be told of: the one that is starting, else the live one where it is not there. */
export function wantsApply(service: ServiceRecord, observed: Observed): RevisionRecord | undefined {
	if (service.desired !== "running") return undefined;
	const newest = revisionOf(service, service.newest);
	const wanted = newest?.status === "Starting" ? newest : revisionOf(service, service.live);
	if (wanted === undefined || !isWatched(wanted)) return undefined;
	const seen = observed.revisions.find(
		(candidate) => candidate.revision === wanted.revision && candidate.generation === wanted.generation,
	);
	return seen === undefined || seen.phase === "stopping" ? wanted : undefined;
}
