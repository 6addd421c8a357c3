import type { Settings } from "./settings.ts";

type Limits = NonNullable<Settings["limits"]>;
type Limit = { readonly least: number; readonly most: number; readonly whole: boolean; readonly unit: string };

/** What the contract takes for each limit of an instance. */
const LIMITS: Readonly<Record<keyof Limits, Limit>> = {
	memory: { least: 16, most: 1_048_576, whole: true, unit: "MiB" },
	cpu: { least: 0.01, most: 1024, whole: false, unit: "cores" },
	processes: { least: 8, most: 4_194_304, whole: true, unit: "processes" },
};
export const LIMIT_NAMES = ["memory", "cpu", "processes"] as const satisfies readonly (keyof Limits)[];

export function isLimit(name: keyof Limits, value: unknown): value is number {
	const { least, most, whole } = LIMITS[name];
	return typeof value === "number" && value >= least && value <= most && (!whole || Number.isInteger(value));
}

/** `whole number of MiB from 16 to 1048576`. */
export function limitWords(name: keyof Limits): string {
	const { least, most, whole, unit } = LIMITS[name];
	return `${whole ? "whole number" : "number"} of ${unit} from ${least} to ${most}`;
}

const MIB = 1024 ** 2;
const POWERS: Readonly<Record<string, number>> = { k: 1, m: 2, g: 3, t: 4 };

/**
 * What was meant by a value of another notation: `512M`, `1GB` and `1.5Gi` are memory as Docker reads it, in powers of 1024;
 * `500m` is half a core, as for Kubernetes; `1,5` has another comma. Undefined where it is none of them.
 */
export function meantLimit(name: keyof Limits, text: string): number | undefined {
	const [, number = "", unit = ""] = /^(\d+(?:[.,]\d+)?) ?([a-z]*)$/i.exec(text) ?? [];
	const value = Number.parseFloat(number.replace(",", "."));
	const meant = name === "memory" ? mebibytes(value, unit) : unit === "m" ? value / 1000 : value;
	return number !== "" && isLimit(name, meant) ? meant : undefined;
}

function mebibytes(value: number, unit: string): number {
	const [, letter = ""] = /^([kmgt])i?b?$/i.exec(unit) ?? [];
	const power = POWERS[letter.toLowerCase()];
	return power === undefined ? Number.NaN : Math.ceil((value * 1024 ** power) / MIB);
}
