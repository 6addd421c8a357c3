import { AppError, isAppError, messageOf, systemCode } from "../errors.ts";

/** The codes of an error and of its causes, outermost first. LevelDB's own reason is the cause of "not open". */
function* codesOf(error: unknown): Generator<string> {
	for (let current = error, depth = 0; current instanceof Error && depth < 5; current = current.cause, depth++) {
		const code = systemCode(current);
		if (code !== undefined) yield code;
	}
}

/** Whether a write failed because the disk, its inodes or a quota are used up. */
export function isNoSpace(error: unknown): boolean {
	for (let current = error, depth = 0; current instanceof Error && depth < 5; current = current.cause, depth++) {
		const code = systemCode(current);
		if (code === "ENOSPC" || code === "EDQUOT") return true;
		// LevelDB has one code for every I/O error and the reason in words only.
		if (code === "LEVEL_IO_ERROR" && /No space left on device|Disk quota exceeded/.test(messageOf(current)))
			return true;
	}
	return false;
}

/** What a write that failed rejects with: `no_space` or `unavailable`. */
export function writeFailure(cause: unknown, message: string): AppError {
	return isNoSpace(cause)
		? new AppError("no_space", `the disk is full; ${message}`, { cause, hint: "free some space" })
		: new AppError("unavailable", message, { cause });
}

/** Turns what the file system or LevelDB threw into an AppError; an AppError stays as it is. */
export function failure(error: unknown, message: string): AppError {
	if (isAppError(error)) return error;
	if (isNoSpace(error)) return writeFailure(error, message);
	for (const code of codesOf(error)) {
		switch (code) {
			case "LEVEL_LOCKED":
				return new AppError("conflict", `${message}: another server uses this data folder`, {
					cause: error,
					hint: "stop it, or choose another folder",
				});
			case "LEVEL_CORRUPTION":
				return new AppError("internal", `${message}: its files are damaged`, {
					cause: error,
					hint: "restore it from a backup",
				});
			case "EACCES":
			case "EPERM":
			case "EROFS":
				return new AppError("permission_denied", `${message}: it is not writable for this user`, { cause: error });
		}
	}
	return new AppError("unavailable", `${message}: ${messageOf(error)}`, { cause: error });
}
