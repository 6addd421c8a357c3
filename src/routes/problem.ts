import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { InvalidRequest } from "../contract/bind.ts";
import type { components } from "../contract/types.gen.ts";
import { AppError, type ErrorCode } from "../errors.ts";
import { RevisionFailed } from "../manager/synchronous.ts";
import { errorOf } from "./service-view.ts";

type Problem = components["schemas"]["Problem"];

type Row = { readonly status: number; readonly title: string };

/** The one place that knows which HTTP status an error has. */
const PROBLEMS: Readonly<Record<Exclude<ErrorCode, "cancelled">, Row>> = {
	invalid_argument: { status: 400, title: "Invalid argument" },
	unauthenticated: { status: 401, title: "Not signed in" },
	permission_denied: { status: 403, title: "Not allowed" },
	not_found: { status: 404, title: "Not found" },
	method_not_allowed: { status: 405, title: "Method not allowed" },
	not_acceptable: { status: 406, title: "Not acceptable" },
	conflict: { status: 409, title: "Conflict" },
	gone: { status: 410, title: "Gone" },
	precondition_failed: { status: 412, title: "Precondition failed" },
	too_large: { status: 413, title: "Too large" },
	unsupported_media: { status: 415, title: "Unsupported media type" },
	range: { status: 416, title: "Range not satisfiable" },
	build_failed: { status: 422, title: "The build failed" },
	key_reused: { status: 422, title: "Idempotency key reused" },
	exhausted: { status: 429, title: "Too many requests" },
	internal: { status: 500, title: "Internal error" },
	damaged: { status: 500, title: "Damaged" },
	unavailable: { status: 503, title: "Unavailable" },
	deadline: { status: 504, title: "Deadline exceeded" },
	no_space: { status: 507, title: "No space left" },
};

/** What a 5xx says; the cause is in the server's log alone. */
const SERVER_SIDE: Partial<Record<ErrorCode, { readonly detail: string; readonly hint: string }>> = {
	internal: { detail: "something went wrong in the server", hint: "The server's log has it under this requestId." },
	damaged: {
		detail: "what the server has stored is damaged: its bytes are not those that were stored",
		hint: "Update the service so that it is built again, or roll back to another revision.",
	},
	unavailable: { detail: "the server cannot do this right now", hint: "Try again in a moment." },
	deadline: { detail: "it took longer than the server allows", hint: "Try again." },
	no_space: { detail: "the server's disk is full", hint: "Remove services or free space, then try again." },
};

/** Answers an error as `application/problem+json`. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
	const known = asAppError(error);
	// Whoever cancelled is gone, or the server is going down: the words are for proxies.
	const code = known.code === "cancelled" ? "unavailable" : known.code;
	const { status, title } = PROBLEMS[code];
	if (status >= 500) {
		const level = known.code === "cancelled" ? "info" : "error";
		request.log[level]({ err: error }, "a request failed");
	}
	const words = SERVER_SIDE[code] ?? { detail: known.message, hint: known.hint };
	const problem: Problem = {
		type: `urn:runtime-builds:problem:${code}`,
		title,
		status,
		code,
		detail: words.detail,
		...(words.hint === undefined ? {} : { hint: words.hint }),
		...(known.field === undefined ? {} : { field: known.field }),
		...(known instanceof RevisionFailed ? { error: errorOf(known.error) } : {}),
		...(known instanceof InvalidRequest ? { errors: [...known.errors] } : {}),
		requestId: request.id,
	};
	if (status === 401) reply.header("www-authenticate", 'Bearer realm="runtime"');
	// The rest of a body that stalled is not waited for.
	if (code === "deadline") reply.header("connection", "close");
	if (status === 503 || status === 429) reply.header("retry-after", "1");
	return reply.code(status).type("application/problem+json").send(problem);
}

/** Fastify's own errors, in our words; everything unknown is internal. */
function asAppError(error: unknown): AppError {
	if (error instanceof AppError) return error;
	const { code, statusCode } = fastifyParts(error);
	switch (code) {
		case "FST_ERR_CTP_BODY_TOO_LARGE":
			return new AppError("too_large", "the body is larger than the server takes", { cause: error, field: "body" });
		case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
			return new AppError("unsupported_media", "the body is of a type that is not taken here", {
				cause: error,
				field: "Content-Type",
			});
		case "FST_ERR_CTP_EMPTY_JSON_BODY":
		case "FST_ERR_CTP_INVALID_JSON_BODY":
		case "FST_ERR_CTP_INVALID_CONTENT_LENGTH":
			return new AppError("invalid_argument", "the body is not JSON", { cause: error, field: "body" });
		case "FST_ERR_BAD_URL":
		case "FST_ERR_MAX_PARAM_LENGTH":
			return new AppError("invalid_argument", "the path is malformed or too long", { cause: error, field: "path" });
	}
	if (statusCode === 404) return new AppError("not_found", "there is nothing at this path", { cause: error });
	if (statusCode === 413)
		return new AppError("too_large", "the body is larger than the server takes", { cause: error });
	if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
		return new AppError("invalid_argument", "the request is malformed", { cause: error, field: "body" });
	return new AppError("internal", "unexpected", { cause: error });
}

function fastifyParts(error: unknown): Partial<Pick<FastifyError, "code" | "statusCode">> {
	if (!(error instanceof Error)) return {};
	return {
		...("code" in error && typeof error.code === "string" ? { code: error.code } : {}),
		...("statusCode" in error && typeof error.statusCode === "number" ? { statusCode: error.statusCode } : {}),
	};
}
