import t from "tap";
import { failure } from "../../src/runtimes/process/failures.ts";
import { type Ending, judge, type Rules, type Standing } from "../../src/runtimes/process/verdict.ts";
import type { RestartPolicy } from "../../src/runtimes/runtime.ts";

const FRESH: Standing = {
	phase: "starting",
	failure: null,
	everReady: false,
	failedStarts: 0,
	exits: [],
	endedSlots: [],
};
const PROVEN: Standing = { ...FRESH, phase: "ready", everReady: true };
const LATE = failure("not_listening", "nothing listened");

type Row = {
	readonly name: string;
	readonly standing?: Partial<Standing>;
	readonly from: Standing;
	readonly ending?: Partial<Ending>;
	readonly restart?: RestartPolicy;
	readonly rules?: Partial<Rules>;
	readonly phase: Standing["phase"];
	readonly code?: string;
	readonly again: boolean;
	readonly more?: Partial<Standing>;
};

const loop = { exits: [700, 800, 900, 950] };
const ROWS: readonly Row[] = [
	{
		name: "a first start that fails",
		from: FRESH,
		phase: "starting",
		code: "exited",
		again: true,
		more: { failedStarts: 1 },
	},
	{ name: "the third", from: FRESH, standing: { failedStarts: 2 }, phase: "failed", code: "exited", again: false },
	{ name: "a start, never restarted", from: FRESH, restart: "never", phase: "failed", code: "exited", again: false },
	{
		...{ name: "a start that lost its port, never restarted", from: FRESH, restart: "never" },
		ending: { lastLines: ["listen tcp 127.0.0.1:2000: bind: address already in use"] },
		...{ phase: "starting", code: "not_listening", again: true },
	},
	{
		name: "a start that is late",
		from: FRESH,
		ending: { late: LATE },
		phase: "failed",
		code: "not_listening",
		again: false,
	},
	{ name: "a job that is done", from: FRESH, ending: { exitCode: 0 }, phase: "ended", again: false },
	{
		...{ name: "done before it was ready, while another serves", from: FRESH, ending: { exitCode: 0 } },
		...{ rules: { anotherServes: true }, phase: "failed", code: "exited", again: false },
	},
	{
		name: "done, always restarted",
		from: FRESH,
		ending: { exitCode: 0 },
		restart: "always",
		phase: "starting",
		code: "exited",
		again: true,
	},
	{
		name: "an exit after ready",
		from: PROVEN,
		phase: "starting",
		code: "exited",
		again: true,
		more: { exits: [1_000] },
	},
	{
		name: "an exit after ready, never restarted",
		from: PROVEN,
		restart: "never",
		phase: "failed",
		code: "exited",
		again: false,
	},
	{ name: "the fifth exit", from: PROVEN, standing: loop, phase: "failed", code: "crash_loop", again: true },
	{
		...{ name: "the fifth exit, the first long ago", from: PROVEN, standing: { exits: [1, 800, 900, 950] } },
		...{ phase: "starting", code: "exited", again: true, more: { exits: [800, 900, 950, 1_000] } },
	},
	{
		name: "an exit in a crash loop",
		from: PROVEN,
		standing: { ...loop, phase: "failed", failure: failure("crash_loop", "") },
		phase: "failed",
		code: "crash_loop",
		again: true,
	},
	{
		name: "done after ready",
		from: PROVEN,
		ending: { exitCode: 0 },
		phase: "ended",
		again: false,
		more: { endedSlots: [0] },
	},
	{
		name: "one of two done",
		from: PROVEN,
		ending: { exitCode: 0 },
		rules: { slots: 2 },
		phase: "ready",
		again: false,
		more: { endedSlots: [0] },
	},
	{
		name: "done after ready, always restarted",
		from: PROVEN,
		ending: { exitCode: 0 },
		restart: "always",
		phase: "starting",
		code: "exited",
		again: true,
	},
	{
		name: "late after it was ready before",
		from: PROVEN,
		ending: { late: LATE, exitCode: null },
		phase: "starting",
		code: "not_listening",
		again: true,
	},
	{ name: "while it is being stopped", from: PROVEN, standing: { phase: "stopping" }, phase: "stopping", again: false },
	{
		name: "after it failed",
		from: FRESH,
		standing: { phase: "failed", failure: LATE },
		phase: "failed",
		code: "not_listening",
		again: false,
	},
];

for (const { name, from, standing, ending, restart, rules, phase, code, again, more } of ROWS)
	t.test(`${name}: ${phase}, ${again ? "started again" : "not started again"}`, async (t) => {
		const verdict = judge(
			{ ...from, ...standing },
			{ slot: 0, exitCode: 3, late: null, port: 2_000, lastLines: [], at: 1_000, ...ending },
			{
				...{ restart: restart ?? "on-failure", slots: 1, anotherServes: false, failedStarts: 3 },
				...{ crashLoop: { exits: 5, withinMs: 500 }, ...rules },
			},
		);
		t.equal(verdict.again, again);
		t.match(verdict.standing, { phase, ...more });
		t.equal(verdict.standing.failure?.code, code);
	});
