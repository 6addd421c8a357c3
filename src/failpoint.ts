import { appendFileSync } from "node:fs";

/**
 * Named crash points, for the crash tests alone.
 *
 * `RUNTIME_FAILPOINTS=name:hit=action,…` with action `kill` (SIGKILL to ourselves, as a power cut would), `stop` (SIGSTOP),
 * `error` (throws) or `delay` (blocks for 200 ms); `hit` counts from 1. With `RUNTIME_FAILPOINT_LOG=file` each reached point
 * appends a line `name hit` there first, so that a test knows that its fault was reached. Costs one map look-up otherwise.
 */
type Action = "kill" | "stop" | "error" | "delay";

const plan = new Map<string, Map<number, Action>>();
const hits = new Map<string, number>();
const logFile = process.env.RUNTIME_FAILPOINT_LOG;

for (const entry of (process.env.RUNTIME_FAILPOINTS ?? "").split(",").filter((part) => part !== "")) {
	const match = /^([a-z0-9_.]+):(\d+)=(kill|stop|error|delay)$/.exec(entry);
	if (match === null)
		throw new Error(`RUNTIME_FAILPOINTS: cannot read "${entry}"; write name:hit=kill|stop|error|delay`);
	const [, name = "", hit = "", action = ""] = match;
	const actions = plan.get(name) ?? new Map<number, Action>();
	actions.set(Number(hit), action === "kill" || action === "stop" || action === "error" ? action : "delay");
	plan.set(name, actions);
}

const active = plan.size > 0 || logFile !== undefined;

/** Marks a point at which a crash is worth trying. Does nothing unless the environment asks for it. */
export function failpoint(name: string): void {
	if (!active) return;
	const hit = (hits.get(name) ?? 0) + 1;
	hits.set(name, hit);
	if (logFile !== undefined) appendFileSync(logFile, `${name} ${hit}\n`);
	switch (plan.get(name)?.get(hit)) {
		case "kill":
			process.kill(process.pid, "SIGKILL");
			Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
			break;
		case "stop":
			process.kill(process.pid, "SIGSTOP");
			break;
		case "error":
			throw new Error(`failpoint ${name}`);
		case "delay":
			Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
			break;
	}
}
