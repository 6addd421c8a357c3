import { AppError } from "../../errors.ts";
import { type CompanionOptions, CompanionRuntime } from "../companion/runtime.ts";
import { DEFAULT_SETTINGS } from "../companion/settings.ts";
import type { Call, Runtime, ServiceSpec } from "../runtime.ts";
import { materialise } from "./programs.ts";

export type ProcessRuntimeOptions = CompanionOptions;

export type ProcessRuntime = Runtime & {
	/** Ends every program of every service. Addresses and logs are kept. */
	stopAll(call: Call): Promise<void>;
};

/**
 * Runs services as processes of this machine, as this user: for programs that trust one another. They belong to a
 * companion process of the data folder; disposing the runtime, or the end of this process, leaves them running.
 * Rejects with `invalid_argument` for a range of ports without a port.
 */
export function createProcessRuntime(options: ProcessRuntimeOptions): Promise<ProcessRuntime> {
	const path = options.path ?? process.env.PATH ?? DEFAULT_SETTINGS.path;
	return CompanionRuntime.open(
		{
			name: "process",
			trust: "one_namespace",
			target: { os: process.platform, arch: process.arch === "x64" ? "amd64" : process.arch },
			prepare,
		},
		options,
		{ engine: { kind: "process" }, path },
	);
}

async function prepare({ program, limits }: ServiceSpec, programs: string, call: Call) {
	if (limits !== undefined)
		throw new AppError("invalid_argument", "programs that run as processes have no limits; use the docker profile", {
			field: "limits",
		});
	if (program.kind === "build") await materialise(programs, program, call);
	return {};
}
