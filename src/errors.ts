/**
 * The errors that cross a port. Callers act on `code`, never on `message`.
 *
 * The closed list mirrors the problem codes of the contract (RFC 9457 `code` member); which HTTP status
 * a code has is known to `src/routes/problem.ts` alone.
 */
export const ERROR_CODES = [
	"invalid_argument",
	"unauthenticated",
	"permission_denied",
	"not_found",
	"method_not_allowed",
	"not_acceptable",
	"conflict",
	"gone",
	"precondition_failed",
	"too_large",
	"unsupported_media",
	"range",
	"build_failed",
	"key_reused",
	"exhausted",
	"cancelled",
	"internal",
	"damaged",
	"unavailable",
	"deadline",
	"no_space",
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

export type AppErrorOptions = {
	readonly cause?: unknown;
	/** The request field that is to blame, as a JSON pointer-like path without the leading slash: `env/FOO`. */
	readonly field?: string;
	/** What the reader can do next, as one sentence or a command. */
	readonly hint?: string;
};

/** An error with a stable code. The message is for people and may change; it never holds a secret. */
export class AppError extends Error {
	override readonly name = "AppError";
	readonly code: ErrorCode;
	readonly field: string | undefined;
	readonly hint: string | undefined;

	constructor(code: ErrorCode, message: string, options: AppErrorOptions = {}) {
		super(message, options.cause === undefined ? undefined : { cause: options.cause });
		this.code = code;
		this.field = options.field;
		this.hint = options.hint;
	}
}

/** True for an AppError, and for one with that code where a code is given. */
export function isAppError(error: unknown, code?: ErrorCode): error is AppError {
	return error instanceof AppError && (code === undefined || error.code === code);
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

/** The `code` of a system or library error (`ENOENT`, `LEVEL_LOCKED`), or undefined. */
export function systemCode(error: unknown): string | undefined {
	if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
	return typeof error.code === "string" ? error.code : undefined;
}

/** The error an aborted call rejects with: code `cancelled`, with the signal's reason as its cause. */
export function cancelled(signal: AbortSignal): AppError {
	if (signal.reason instanceof AppError) return signal.reason;
	return new AppError("cancelled", "the call was cancelled", { cause: signal.reason });
}

/** Settles as `work` does, or rejects as an aborted call does: for work that cannot be aborted itself, and goes on. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
	return new Promise((resolve, reject) => {
		const onAbort = () => reject(cancelled(signal));
		signal.addEventListener("abort", onAbort, { once: true });
		if (signal.aborted) onAbort();
		work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
	});
}
