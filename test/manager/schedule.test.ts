import t from "tap";
import { Schedule, type Step } from "../../src/manager/schedule.ts";
import { until } from "../harness/core.ts";

const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

function schedule(step: Step, retryMs = { first: 1, most: 8 }): Schedule {
	return new Schedule(step, { log, retryMs });
}

t.test("a service has one step at a time, and one more for all that happened meanwhile", async (t) => {
	const open: (() => void)[] = [];
	let most = 0;
	let active = 0;
	let steps = 0;
	const all = schedule(async () => {
		steps++;
		most = Math.max(most, ++active);
		await new Promise<void>((resolve) => open.push(resolve));
		active--;
		return undefined;
	});
	for (let count = 0; count < 5; count++) all.wake("a");
	await until(
		() => open.length === 1,
		() => "the first step",
	);
	open[0]?.();
	await until(
		() => open.length === 2,
		() => "the second step",
	);
	open[1]?.();
	await all.ended();
	t.equal(steps, 2);
	t.equal(most, 1);
});

t.test("what fails is tried again, later each time, and at the first pause after it worked", (t) => {
	const all = schedule(async () => undefined);
	t.same(
		[1, 2, 3, 4, 5].map(() => all.failed("a", new Error("x"))),
		[1, 2, 4, 8, 8],
	);
	t.equal(all.failed("b", new Error("x")), 1, "each service by itself");
	all.succeeded("a");
	t.equal(all.failed("a", new Error("x")), 1);
	t.end();
});

t.test("a step that throws comes again; an earlier turn takes the place of a later one", async (t) => {
	const seen: string[] = [];
	const all = schedule(async (id) => {
		seen.push(id);
		if (seen.length === 1) throw new Error("not yet");
		return undefined;
	});
	all.wake("a");
	await until(
		() => seen.length === 2,
		() => "the step again",
	);
	all.wakeLater("b", 3_600_000);
	all.wake("b");
	await until(
		() => seen.includes("b"),
		() => "the earlier turn",
	);
	await all.ended();
	t.same(seen, ["a", "a", "b"]);
});

t.test("a turn that comes while a step is under way does not keep the next one from being set", async (t) => {
	let steps = 0;
	const all = schedule(async (id) => {
		steps++;
		if (steps === 1) {
			all.wakeLater(id, 0);
			await new Promise((resolve) => setTimeout(resolve, 30));
		}
		if (steps === 2) throw new Error("not yet");
		return undefined;
	});
	all.wake("a");
	await until(
		() => steps === 3,
		() => `a third step, after ${steps}`,
	);
	await all.ended();
	t.equal(steps, 3);
});

t.test("sixteen services have a step at once; one that waits for programs to end leaves its place", async (t) => {
	const open: (() => void)[] = [];
	const leave: (() => void)[] = [];
	const all = schedule(async (_id, _signal, give) => {
		leave.push(give);
		await new Promise<void>((resolve) => open.push(resolve));
		return undefined;
	});
	for (let count = 0; count < 18; count++) all.wake(`${count}`);
	await until(
		() => open.length === 16,
		() => "sixteen steps",
	);
	leave[0]?.();
	await until(
		() => open.length === 17,
		() => "one more in its place",
	);
	open[1]?.();
	await until(
		() => open.length === 18,
		() => "the last",
	);
	for (const end of open) end();
	await all.ended();
	t.equal(open.length, 18);
});

t.test("the end waits for what a step began while it was ended", async (t) => {
	let over = false;
	const all = schedule(async (_id, signal) => {
		await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
		const work = new Promise<void>((resolve) => setTimeout(resolve, 30));
		all.track(
			work.then(() => {
				over = true;
			}),
		);
		return undefined;
	});
	all.wake("a");
	await new Promise((resolve) => setImmediate(resolve));
	all.stop();
	await all.ended();
	t.ok(over);
});

t.test("after the end there are no turns, and who was at it is told", async (t) => {
	let steps = 0;
	const all = schedule(async (_id, signal) => {
		steps++;
		await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
		throw new Error("aborted");
	});
	all.wake("a");
	await until(
		() => steps === 1,
		() => "the step",
	);
	all.wake("a");
	all.stop();
	all.wake("b");
	all.wakeLater("c", 0);
	await all.ended();
	t.equal(steps, 1);
});
