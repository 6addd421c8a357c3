import t from "tap";
import { AppError } from "../../src/errors.ts";
import { systemClock } from "../../src/runtimes/companion/clock.ts";
import { untilReached } from "../../src/runtimes/companion/reach.ts";
import { DEFAULT_SETTINGS } from "../../src/runtimes/companion/settings.ts";

t.test("what is aborted while it waits for its turn is not done once more", async (t) => {
	const stop = new AbortController();
	const host = {
		engine: { onReachable: () => () => undefined },
		clock: systemClock,
		settings: () => ({ ...DEFAULT_SETTINGS, backoffFirstMs: 60_000 }),
	};
	let times = 0;
	const work = async () => {
		if (++times === 1) throw new AppError("unavailable", "the engine refuses");
		return "started";
	};
	const waits = () => void setImmediate(() => stop.abort());
	await t.rejects(untilReached(host, work, stop.signal, waits), { code: "unavailable" });
	t.equal(times, 1);
});
