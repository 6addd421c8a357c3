import t from "tap";
import { failedLater, failedStart, failure, notListening } from "../../src/runtimes/companion/failures.ts";
import { type Ending, judge, type Rules, type Standing } from "../../src/runtimes/companion/verdict.ts";
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
const NOT_LOADED = {
	exitCode: 95,
	lastLines: ["runtime-loader: the build could not be loaded within 5s: nobody there"],
};

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
	{
		...{ name: "a start whose build could not be loaded", from: FRESH, ending: NOT_LOADED },
		...{ phase: "failed", code: "internal", again: false, more: { failedStarts: 1 } },
	},
	{
		...{ name: "the program's own 95", from: FRESH, ending: { exitCode: 95, lastLines: ["I am done"] } },
		...{ phase: "starting", code: "exited", again: true, more: { failedStarts: 1 } },
	},
	{
		...{ name: "a restart whose build could not be loaded", from: PROVEN, ending: NOT_LOADED },
		...{ phase: "starting", code: "internal", again: true, more: { exits: [1_000] } },
	},
	{
		name: "refused",
		from: PROVEN,
		ending: { refused: "the build was altered" },
		phase: "failed",
		code: "internal",
		again: false,
	},
	{ name: "excused", from: PROVEN, ending: { excused: true }, restart: "never", phase: "starting", again: true },
	{
		...{ name: "excused before it was ready", from: FRESH, standing: { failedStarts: 2 } },
		...{ ending: { excused: true }, phase: "starting", again: true, more: { failedStarts: 2 } },
	},
	{
		...{ name: "excused in the middle of other exits", from: PROVEN, standing: loop },
		...{ ending: { excused: true }, phase: "starting", again: true, more: loop },
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

t.test("a build that could not be loaded is not the program's fault", async (t) => {
	const words = "the build could not be loaded within 5s: nobody there";
	t.equal(failedStart(NOT_LOADED, 2000, 3).message, `${words} (3 starts)`);
	t.equal(failedLater(NOT_LOADED, NOT_LOADED.lastLines).message, words);
	t.match(failedStart({ exitCode: 95, lastLines: ["of the program's own"] }, 2000, 1), { code: "exited" });
	t.match(failedStart({ ...NOT_LOADED, exitCode: 1 }, 2000, 1), { code: "exited" });
	const late = (line: string) => notListening(2000, 7, [], null, ["before", line]);
	for (const [line, why] of [
		["runtime-loader: 192.0.2.1:7 does not answer; trying again", "192.0.2.1:7 does not answer"],
		["runtime-loader: the server is slow (1 of 9 bytes so far); going on", "the server is slow (1 of 9 bytes so far)"],
	] as const)
		t.match(late(line), { code: "internal", message: `the build could not be loaded within 7 s: ${why}` });
	for (const line of ["runtime-loader: the build is loaded", "waiting; trying again", ""])
		t.match(late(line), { code: "not_listening", message: /nothing listened on \$PORT/ });
});
