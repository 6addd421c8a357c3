import { BuildError } from "../builders/builder.ts";
import { isAppError } from "../errors.ts";
import { StoreFailure } from "./maker.ts";
import { type RevisionError, revisionError } from "./model.ts";

/** What a revision says of the error that its build ended with. */
export function failureOf(error: unknown): RevisionError {
	if (error instanceof BuildError) {
		const { code, message, diagnostics, retryable, exitCode } = error;
		const phase = code === "source_invalid" ? "source" : "build";
		return revisionError(code, phase, message, {
			diagnostics,
			retryable,
			...(exitCode === undefined ? {} : { exitCode }),
		});
	}
	if (error instanceof StoreFailure)
		return revisionError("internal", "build_store", `the build could not be stored: ${reason(error.cause)}`, {
			retryable: true,
		});
	if (isAppError(error, "invalid_argument") || isAppError(error, "too_large"))
		return revisionError("source_invalid", "source", error.message);
	// A remote says what is wrong with itself.
	if (isAppError(error) && error.field === "source" && error.code !== "internal") {
		const retryable = error.code === "unavailable";
		return revisionError(retryable ? "unavailable" : "source_invalid", "source", error.message, { retryable });
	}
	if (isAppError(error, "not_found"))
		return revisionError("source_invalid", "source", "the source is no longer stored; upload it again");
	return revisionError("internal", "build", "the build failed for a reason of the server's; its log has it", {
		retryable: true,
	});
}

function reason(error: unknown): string {
	if (isAppError(error, "no_space")) return "the server's disk is full";
	if (isAppError(error, "unavailable")) return "the build store cannot be reached";
	return "the server's log has the reason";
}
