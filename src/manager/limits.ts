import { AppError } from "../errors.ts";
import type { RevisionRecord, WantedLimits } from "./model.ts";

/** The most that may be asked for; null where the runtime cannot hold a program to anything. */
export type Ceiling = Required<WantedLimits> | null;

const NAMES = ["memory", "cpu", "processes"] as const;
const UNITS: Readonly<Record<keyof WantedLimits, string>> = { memory: "MiB", cpu: "cores", processes: "processes" };

/** Rejects limits that a request names and this server cannot or may not give, with `invalid_argument` naming the field. */
export function checkLimits(
	limits: { readonly [K in keyof WantedLimits]?: number | null } | undefined,
	ceiling: Ceiling,
): void {
	for (const name of NAMES) {
		const asked = limits?.[name];
		if (asked === undefined || asked === null) continue;
		const field = `limits/${name}`;
		if (ceiling === null)
			throw new AppError("invalid_argument", "programs that run as processes have no limits", {
				field,
				hint: "Leave limits away, or use a server of the profile docker.",
			});
		if (asked > ceiling[name])
			throw new AppError(
				"invalid_argument",
				`this server gives at most ${ceiling[name]} ${UNITS[name]}, and ${asked} were asked for`,
				{ field, hint: "Ask for less, or ask the operator for more." },
			);
	}
}

/**
 * Rejects a new run of limits that nobody names with it: they were given when the operator gave more. What runs is not
 * asked. `invalid_argument` names the first field and says all of them.
 */
export function checkKeptLimits(
	{ revision, limits = {} }: Pick<RevisionRecord, "revision" | "limits">,
	ceiling: Ceiling,
	verb: "update" | "rollback" | "start",
): void {
	const over = NAMES.filter((name) => (limits[name] ?? 0) > (ceiling?.[name] ?? 0));
	const [first] = over;
	if (first === undefined) return;
	const listed = (values: WantedLimits) => over.map((name) => `${values[name]} ${UNITS[name]}`).join(" and ");
	const given =
		ceiling === null ? "programs that run as processes have no limits" : `this server gives at most ${listed(ceiling)}`;
	const fields = over.map((name) => `limits/${name}`).join(" and ");
	const fits = ceiling === null ? `null for ${fields}` : `less for ${fields}, or null for the server's default`;
	const how = {
		update: "Send",
		rollback: "Update the service with that revision's source instead, and send",
		start: "Update the service, and send",
	};
	throw new AppError("invalid_argument", `revision ${revision} has a limit of ${listed(limits)}, and ${given}`, {
		field: `limits/${first}`,
		hint: `${how[verb]} ${fits}${ceiling === null ? "" : "; or ask the operator for more"}.`,
	});
}
