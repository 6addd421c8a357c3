import type { components } from "../../src/contract/types.gen.ts";

export type Problem = components["schemas"]["Problem"];
/** In a problem's shape, with a code of our own where the server was never asked. */
export type LocalProblem = Omit<Problem, "code"> & { code: string };

/** What the shell is told. `pending` is for `wait --timeout` and for a signal that made us leave early. */
export const EXIT = {
	ok: 0,
	failed: 1,
	usage: 2,
	unreachable: 3,
	unauthenticated: 4,
	pending: 8,
	cancelled: 130,
} as const;

export type CliErrorOptions = {
	readonly exit?: number;
	/** Stable; a problem's code, or one of ours: usage, unreachable, connection_lost, source_changed, … */
	readonly code?: string;
	/** What to do next: finished lines, without the indentation. */
	readonly lines?: readonly string[];
	/** What the server answered. */
	readonly problem?: Problem;
	readonly cause?: unknown;
};

/** An error that a person reads: one sentence of cause, then what to do. */
export class CliError extends Error {
	override readonly name = "CliError";
	readonly exit: number;
	readonly code: string;
	readonly lines: readonly string[];
	readonly problem: Problem | undefined;

	constructor(message: string, options: CliErrorOptions = {}) {
		super(message, options.cause === undefined ? undefined : { cause: options.cause });
		this.exit = options.exit ?? EXIT.failed;
		this.code = options.code ?? "failed";
		this.lines = options.lines ?? [];
		this.problem = options.problem;
	}

	/** What `--json` prints: the server's own problem, or ours in its shape. */
	toProblem(): LocalProblem {
		if (this.problem !== undefined) return this.problem;
		const hint = this.lines.map((line) => line.trim()).join("; ");
		const body: LocalProblem = {
			type: "about:blank",
			title: this.message,
			status: 0,
			code: this.code,
			detail: this.message,
		};
		return hint === "" ? body : { ...body, hint };
	}
}

/** A mistake on the command line or in the folder: exit 2. */
export function usage(message: string, lines: readonly string[] = []): CliError {
	return new CliError(message, { exit: EXIT.usage, code: "usage", lines });
}

export function isCliError(error: unknown, ...codes: string[]): error is CliError {
	return error instanceof CliError && (codes.length === 0 || codes.includes(error.code));
}

/** Labels in a column of their own: `Start one:    runtime server`. */
export function hints(pairs: readonly (readonly [label: string, text: string])[]): string[] {
	const width = Math.max(0, ...pairs.map(([label]) => label.length));
	return pairs.map(([label, text]) => `${`${label}:`.padEnd(width + 1)}  ${text}`);
}

export function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

/** The `code` of a system error (`ENOENT`), or undefined. */
export function systemCode(error: unknown): string | undefined {
	if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
	return typeof error.code === "string" ? error.code : undefined;
}
