import { AppError } from "../errors.ts";
import type { WantedLimits } from "./model.ts";

/** The most that may be asked for; null where the runtime cannot hold a program to anything. */
export type Ceiling = Required<WantedLimits> | null;

const UNITS: Readonly<Record<keyof WantedLimits, string>> = { memory: "MiB", cpu: "cores", processes: "processes" };

/** Rejects limits that this server cannot or may not give, with `invalid_argument` naming the field. */
export function checkLimits(
	limits: { readonly [K in keyof WantedLimits]?: number | null } | undefined,
	ceiling: Ceiling,
): void {
	for (const name of ["memory", "cpu", "processes"] as const) {
		const asked = limits?.[name];
		if (asked === undefined || asked === null) continue;
		const field = `limits/${name}`;
		if (ceiling === null)
			throw new AppError("invalid_argument", "programs that run as processes have no limits", {
				field,
				hint: "Leave limits away, or use a server of the profile docker.",
			});
		if (asked > ceiling[name])
			throw new AppError("invalid_argument", `this server gives at most ${ceiling[name]} ${UNITS[name]}`, {
				field,
				hint: "Ask for less, or ask the operator for more.",
			});
	}
}
