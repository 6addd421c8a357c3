import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { Ballast } from "../../src/ballast.ts";
import { systemCode } from "../../src/errors.ts";
import type { Clock } from "../../src/runtimes/companion/clock.ts";
import type { OpenEngine } from "../../src/runtimes/companion/engine.ts";
import { DEFAULT_SETTINGS } from "../../src/runtimes/companion/settings.ts";
import type { SpecRecord } from "../../src/runtimes/companion/state-file.ts";
import { Supervisor } from "../../src/runtimes/companion/supervisor.ts";
import { ProcessEngine } from "../../src/runtimes/process/engine.ts";
import { until } from "../conformance/runtime.ts";
import { FAST, SERVICE } from "./runtime-harness.ts";

/** A supervisor within the test's own process; what it runs ends with the test. */
export async function openSupervisor(
	t: Test,
	options: {
		readonly clock?: Clock;
		readonly engine?: OpenEngine;
		readonly report?: (message: string, error: unknown) => void;
	} = {},
): Promise<{ supervisor: Supervisor; folder: string }> {
	const folder = await mkdtemp(join(tmpdir(), "supervisor-"));
	const supervisor = await Supervisor.open({
		folder,
		settings: { ...DEFAULT_SETTINGS, ...FAST, graceMs: 200 },
		engine: options.engine ?? ProcessEngine.open,
		ballast: new Ballast(join(folder, "ballast"), 0),
		report: options.report ?? (() => undefined),
		...(options.clock === undefined ? {} : { clock: options.clock }),
	});
	t.teardown(async () => {
		for (const { id } of supervisor.list()) await supervisor.remove(id);
		await supervisor.close();
		await rm(folder, { recursive: true, force: true });
	});
	return { supervisor, folder };
}

export function worker(folder: string, change: Partial<SpecRecord> = {}): SpecRecord {
	return {
		...SERVICE,
		revision: 1,
		generation: 1,
		program: { kind: "directory", path: folder, command: ["sleep", "1000"] },
		requires: "none",
		args: [],
		env: {},
		health: { type: "none", path: "/", timeout: 30 },
		restart: "on-failure",
		instances: 1,
		...change,
	};
}

/** From now on the service's state cannot be written. */
export async function refuseState(folder: string, id: string): Promise<void> {
	const inTheWay = join(folder, "services", id, "state.json.tmp");
	// Not while it is being written.
	await until(
		() =>
			mkdir(inTheWay).then(
				() => true,
				(error) => systemCode(error) !== "EEXIST" && Promise.reject(error),
			),
		(made) => made,
		"nobody writes",
	);
	await writeFile(join(inTheWay, "file"), "");
}
