import { AppError, isAppError, messageOf, systemCode } from "../errors.ts";

/** The five characters that PostgreSQL (or `pg`) gives an error, or undefined. */
export function stateOf(error: unknown): string | undefined {
	const code = systemCode(error);
	return code !== undefined && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

/** Another transaction was in the way, and nothing was done: a deadlock, a serialization failure. */
export function isTransient(error: unknown): boolean {
	return ["40001", "40P01"].includes(stateOf(error) ?? "");
}

/** What a failed statement means for the caller. The message is the log's; it never holds values or the password. */
export function failure(error: unknown, what: string): AppError {
	if (isAppError(error)) return error;
	const state = stateOf(error);
	const message = `${what}: ${messageOf(error)}`;
	if (state === "53100") return new AppError("no_space", message, { cause: error });
	if (state === "23505") return new AppError("conflict", message, { cause: error });
	// Wrong user, password or database: it may be mended while the server runs.
	const away = state === undefined || /^(08|28|3D|53|55P03|57|58|40|25006)/.test(state);
	return new AppError(away ? "unavailable" : "internal", message, { cause: error });
}
