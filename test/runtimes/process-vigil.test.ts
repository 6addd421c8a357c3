import t from "tap";
import { platformOf } from "../../src/platform/platform.ts";
import { CompanionLock } from "../../src/runtimes/companion/lock.ts";
import { until } from "../conformance/runtime.ts";
import { harness, spec } from "./process-harness.ts";
import { ask, call, reach, SERVICE } from "./runtime-harness.ts";

const QUICK = { checkMs: 50, askMs: 100 };

t.test("a program that closes its listener but lives is not ready until it listens again", async (t) => {
	const { runtime, folder } = await harness(t, QUICK);
	await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
	const first = await reach(runtime, 1, "ready");
	const pid = Number(await ask(`${first.url}/pid`));
	const instance = first.revisions[0]?.instances[0]?.instance;
	process.kill(pid, "SIGUSR2");
	const seen = await reach(runtime, 1, "starting");
	t.match(seen.revisions[0]?.failure, { code: "not_listening", message: /no longer listens on \$PORT \(\d+\)/ });
	t.match(seen.revisions[0]?.instances, [{ instance, ready: false }], "it was not started again");
	t.equal(await ask(`${first.url}/pid`), null);

	const companion = (await new CompanionLock(folder, platformOf()).holder())?.pid;
	if (companion === undefined) throw new Error("no companion");
	process.kill(companion, "SIGKILL");
	t.match((await reach(runtime, 1, "starting")).revisions[0]?.instances, [{ instance }], "nor by the next companion");

	process.kill(pid, "SIGUSR2");
	t.match((await reach(runtime, 1, "ready")).revisions[0], { failure: null, instances: [{ instance, ready: true }] });
	const answer = await until(
		() => ask(`${first.url}/pid`),
		(body) => body !== null,
		"it answers",
	);
	t.equal(Number(answer), pid);
});

t.test("one of two instances is out of the route meanwhile", async (t) => {
	const { runtime } = await harness(t, QUICK);
	await runtime.apply(spec(SERVICE, 1, ["serve"], { instances: 2 }), call);
	const { url } = await reach(runtime, 1, "ready");
	const pid = Number(await ask(`${url}/pid`));
	process.kill(pid, "SIGUSR2");
	await reach(runtime, 1, "starting");
	for (let request = 0; request < 6; request++) t.not(await ask(`${url}/pid`), String(pid));
	process.kill(pid, "SIGUSR2");
	await reach(runtime, 1, "ready");
});

t.test("with health http one that answers badly is not ready until it answers well", async (t) => {
	const { runtime } = await harness(t, QUICK);
	const health = { type: "http", path: "/health", timeout: 30 } as const;
	await runtime.apply(spec(SERVICE, 1, ["serve"], { health }), call);
	const { url } = await reach(runtime, 1, "ready");
	const pid = Number(await ask(`${url}/pid`));
	process.kill(pid, "SIGUSR1");
	const seen = await reach(runtime, 1, "starting");
	t.match(seen.revisions[0]?.failure, {
		code: "not_listening",
		message: /no longer healthy: GET \/health answered 503/,
	});
	process.kill(pid, "SIGUSR1");
	await reach(runtime, 1, "ready");
	t.equal(Number(await ask(`${url}/pid`)), pid);
});
