import { AppError } from "../errors.ts";
import type { Draft } from "./draft.ts";
import {
	type Phase,
	type RevisionRecord,
	revisionError,
	revisionOf,
	type ServiceName,
	type ServiceRecord,
} from "./model.ts";
import { isWatched } from "./reconcile.ts";
import { isOnItsWay } from "./transitions.ts";

/** Ends what is on its way and begins to stop what runs. */
export function halt(draft: Draft): void {
	for (const { revision, status } of draft.service.revisions) {
		const record = revisionOf(draft.service, revision);
		if (record === undefined) continue;
		if (isOnItsWay(status) && revision !== draft.service.live)
			draft.move(revision, "Error", revisionError("cancelled", phaseOf(record), "cancelled by a stop of the service"));
		else if (isWatched(record)) draft.move(revision, "Stopping");
	}
}

/** Wants a service gone. */
export function discard(draft: Draft): void {
	if (draft.service.desired === "removed") return;
	halt(draft);
	draft.set({ desired: "removed" });
}

export function phaseOf(revision: RevisionRecord): Phase {
	if (revision.status === "Pending") return "pending";
	return revision.status === "Building" ? "build" : "start";
}

/** A newer revision takes the place of one that is still on its way. */
export function supersede(draft: Draft): void {
	const newest = onItsWay(draft.service);
	if (newest === undefined) return;
	const by = newest.revision + 1;
	draft.move(newest.revision, "Error", revisionError("superseded", phaseOf(newest), `revision ${by} took its place`));
}

/** The newest revision where it is on its way to its first Running. */
export function onItsWay(service: ServiceRecord): RevisionRecord | undefined {
	const newest = revisionOf(service, service.newest);
	return newest !== undefined && isOnItsWay(newest.status) && newest.revision !== service.live ? newest : undefined;
}

export function refuseRemoved(service: ServiceRecord): void {
	if (service.desired === "removed")
		throw new AppError("conflict", `${service.name}:${service.version} is being removed`, {
			hint: "Wait until it is gone, then create it again.",
		});
}

export function refuseWhileStopping(service: ServiceRecord): void {
	refuseRemoved(service);
	if (revisionOf(service, service.live)?.status === "Stopping")
		throw new AppError("conflict", `${service.name}:${service.version} is being stopped`, {
			hint: "Wait until it is Stopped.",
		});
}

/** Where there is nothing to go back to. */
export function refuseUnbuilt({ revision, build, launch }: RevisionRecord): void {
	if (build === null && launch === null)
		throw new AppError("conflict", `revision ${revision} was never built`, {
			field: "revision",
			hint: "The list of its revisions shows which ones have a build.",
		});
	if (build?.collected === true)
		throw new AppError("gone", `the build of revision ${revision} is no longer kept`, {
			field: "revision",
			hint: "Update the service with that revision's source instead.",
		});
}

export function missing(name: ServiceName): AppError {
	return new AppError("not_found", `there is no service ${name.name}:${name.version} in namespace ${name.namespace}`);
}

export function exists(service: Pick<ServiceRecord, "name" | "version"> & Partial<ServiceRecord>): AppError {
	const name = `${service.name}:${service.version}`;
	if (service.desired === "removed")
		return new AppError("conflict", `${name} is being removed`, { hint: "Wait until it is gone." });
	if (service.hidden === true)
		return new AppError("conflict", `${name} is being created`, {
			hint: "Wait for it: it is there when it runs, and its name is free when it fails.",
		});
	return new AppError("conflict", `${name} exists already`, {
		hint: "Change it with PATCH, or create-or-update it with PUT.",
	});
}

/** Cancels what is on its way. Throws `conflict` where nothing is, or another revision than was named. */
export function cancel(draft: Draft, revision: number | undefined): void {
	const newest = onItsWay(draft.service);
	if (newest === undefined || (revision !== undefined && revision !== newest.revision))
		throw new AppError("conflict", `revision ${revision ?? draft.service.newest} is not on its way`, {
			hint: "Read the service to see what it is doing.",
		});
	draft.move(newest.revision, "Error", revisionError("cancelled", phaseOf(newest), "cancelled on request"));
}

/** Cancels a revision for whom nobody waits any more, if it is still on its way. */
export function forsake(draft: Draft, revision: number): void {
	const pending = onItsWay(draft.service);
	if (pending?.revision !== revision) return;
	const why = revisionError("cancelled", phaseOf(pending), "whoever asked for it went away", { retryable: true });
	draft.move(revision, "Error", why);
}

/** Starts what stopped, or (`anew`) runs the live revision again. Answers the revision that is to run anew, if one is. */
export function begin(draft: Draft, anew: boolean): RevisionRecord | undefined {
	const { service } = draft;
	refuseWhileStopping(service);
	const pending = onItsWay(service);
	if (pending !== undefined) {
		if (!anew) return undefined;
		throw new AppError("conflict", `revision ${pending.revision} is on its way`, {
			hint: "Wait for it, or cancel it first.",
		});
	}
	const record = revisionOf(service, service.live ?? service.newest);
	if (record === undefined || (record.build === null && record.launch === null))
		throw new AppError("conflict", `${service.name}:${service.version} has no build that could be started`, {
			hint: "Update it with a source that builds.",
		});
	const runs = isWatched(record) && record.status !== "Error";
	draft.set({ desired: "running" });
	if (runs && !anew) return undefined;
	const generation = record.lastGeneration + 1;
	const change = { generation, lastGeneration: generation };
	// One that is starting (again) already stays so; only what is started is another one now.
	if (record.status === "Starting") draft.amend({ ...record, ...change, error: null });
	else draft.move(record.revision, "Starting", null, change);
	return record;
}

/** Whether a revision's programs are wanted, and with them its folder. */
export function mayRun(service: ServiceRecord, revision: number): boolean {
	const record = revisionOf(service, revision);
	return service.desired === "running" && record !== undefined && isWatched(record);
}

/** Whether a revision is to be built, or go on being built. */
export function mayBuild(service: ServiceRecord, revision: number): boolean {
	const status = revisionOf(service, revision)?.status;
	return service.desired === "running" && (status === "Pending" || status === "Building");
}
