import type { RestartPolicy, RevisionPhase, RuntimeFailure } from "../runtime.ts";
import type { Exit } from "./engine.ts";
import { failedLater, failedStart, failure, lostItsPort, whyNotLoaded } from "./failures.ts";
import type { CompanionSettings } from "./settings.ts";

/** How a run stands. */
export type Standing = {
	readonly phase: RevisionPhase;
	readonly failure: RuntimeFailure | null;
	/** It has been ready once, so it may have the requests. */
	readonly everReady: boolean;
	/** Starts that ended before it was ever ready. */
	readonly failedStarts: number;
	/** When programs that had been ready ended, lately. */
	readonly exits: readonly number[];
	/** Slots that ended with 0 and are not started again. */
	readonly endedSlots: readonly number[];
};

/** How the program of a slot ended. */
export type Ending = Exit & {
	readonly slot: number;
	/** It lives, but was not ready in time. */
	readonly late: RuntimeFailure | null;
	readonly port: number;
	readonly lastLines: readonly string[];
	/** By the clock of `exits`, milliseconds. */
	readonly at: number;
};

export type Rules = Pick<CompanionSettings, "failedStarts" | "crashLoop"> & {
	readonly restart: RestartPolicy;
	readonly slots: number;
	/** Whether another revision has the requests. */
	readonly anotherServes: boolean;
};

export type Verdict = { readonly standing: Standing /** Start it again. */; readonly again: boolean };

/** Nothing of it runs or will run again. */
export function isOver({ phase, failure: why }: Pick<Standing, "phase" | "failure">): boolean {
	return phase === "ended" || (phase === "failed" && why?.code !== "crash_loop");
}

/** What the end of a program means for its run. */
export function judge(standing: Standing, ending: Ending, rules: Rules): Verdict {
	const { exitCode, late } = ending;
	if (standing.phase === "stopping" || isOver(standing)) return { standing, again: false };
	if (ending.refused !== undefined)
		return end(standing, "failed", failure("internal", ending.refused, exitCode, ending.lastLines));
	if (ending.excused === true)
		return { standing: standing.phase === "ready" ? { ...standing, phase: "starting" } : standing, again: true };
	const done = late === null && exitCode === 0 && rules.restart !== "always";
	return standing.everReady ? judgeProven(standing, ending, rules, done) : judgeStart(standing, ending, rules, done);
}

/** It was never ready. */
function judgeStart(standing: Standing, ending: Ending, rules: Rules, done: boolean): Verdict {
	if (done && !rules.anotherServes) return end(standing, "ended", null);
	if (ending.late !== null) return end(standing, "failed", ending.late);
	const failedStarts = standing.failedStarts + 1;
	const why = failedStart(ending, ending.port, failedStarts);
	const next: Standing = { ...standing, failedStarts, failure: why };
	// The loader has tried again and again for all of its time.
	if (whyNotLoaded(ending.exitCode, ending.lastLines) !== null) return end(next, "failed", why);
	const last = rules.restart === "never" && !lostItsPort(ending.lastLines, ending.port);
	if (done || last || failedStarts >= rules.failedStarts) return end(next, "failed", why);
	return { standing: next, again: true };
}

/** It was ready before. */
function judgeProven(standing: Standing, ending: Ending, rules: Rules, done: boolean): Verdict {
	const { exitCode, lastLines, at } = ending;
	if (done) {
		const endedSlots = [...standing.endedSlots, ending.slot];
		const next = { ...standing, endedSlots };
		return endedSlots.length >= rules.slots ? end(next, "ended", null) : { standing: next, again: false };
	}
	const why = ending.late ?? failedLater(ending, lastLines);
	if (rules.restart === "never") return end(standing, "failed", why);
	const { exits: most, withinMs } = rules.crashLoop;
	const exits = [...standing.exits, at].filter((time) => at - time <= withinMs).slice(-most);
	if (exits.length < most) return { standing: { ...standing, exits, phase: "starting", failure: why }, again: true };
	const message = `${exits.length} exits within ${minutes(withinMs)}: ${why.message}`;
	const loop = failure("crash_loop", message, exitCode, lastLines);
	return { standing: { ...standing, exits, phase: "failed", failure: loop }, again: true };
}

function end(standing: Standing, phase: "ended" | "failed", why: RuntimeFailure | null): Verdict {
	return { standing: { ...standing, phase, failure: why }, again: false };
}

function minutes(ms: number): string {
	return ms >= 60_000 ? `${Math.round(ms / 60_000)} min` : `${ms / 1000} s`;
}
