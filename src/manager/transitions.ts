import type { RevisionErrorCode, Status } from "./model.ts";

/**
 * Which moves a revision may make. Nothing else moves one. Building → Pending is a build put back by a restart of the
 * server; Starting ↔ Running is a program that ended and is started again; Error → Starting is for what the runtime goes
 * on retrying (crash_loop, which may end in any way) and for `start`.
 */
const LEGAL: Readonly<Record<Status, readonly Status[]>> = {
	Pending: ["Building", "Starting", "Error"],
	Building: ["Pending", "Starting", "Error"],
	Starting: ["Running", "Stopping", "Stopped", "Error", "Unknown"],
	Running: ["Starting", "Stopping", "Stopped", "Error", "Unknown"],
	Stopping: ["Stopped", "Error"],
	Stopped: ["Starting"],
	Error: ["Starting", "Running", "Stopping", "Stopped", "Error"],
	Unknown: ["Starting", "Running", "Stopping", "Stopped", "Error"],
};

/** Errors that belong to the way to a build: such a revision never runs again. */
const FINAL_ERRORS: ReadonlySet<RevisionErrorCode> = new Set([
	"source_invalid",
	"build_failed",
	"build_timeout",
	"superseded",
]);

/** Whether a revision may go from one state to another. A first state has no predecessor and is Pending. */
export function isLegal(from: Status | null, to: Status, error: RevisionErrorCode | null = null): boolean {
	if (from === null) return to === "Pending";
	if (from === "Error" && error !== null && FINAL_ERRORS.has(error)) return false;
	// Only what is still retried can end once more.
	if (from === "Error" && !isActive(to) && error !== "crash_loop") return false;
	return LEGAL[from].includes(to);
}

/** Whether the state is one in which a revision may stay: not on its way anywhere. */
export function isSettled(status: Status): boolean {
	return status === "Running" || status === "Stopped" || status === "Error";
}

/** Whether something of this revision may still be at work: a build, a program, or its ending. */
export function isActive(status: Status): boolean {
	return status !== "Stopped" && status !== "Error";
}

/** Whether a revision is still on its way to Running for the first time. */
export function isOnItsWay(status: Status): boolean {
	return status === "Pending" || status === "Building" || status === "Starting";
}
