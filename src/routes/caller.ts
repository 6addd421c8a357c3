import type { FastifyRequest } from "fastify";
import { type Account, authenticate, type TokenStore } from "../accounts/tokens.ts";
import { AppError } from "../errors.ts";

declare module "fastify" {
	interface FastifyRequest {
		/** Who is asking; set for every operation that needs a token. */
		caller: Account | null;
	}
}

/** A check for each request: who is asking, and may they act in the namespace that they name? */
export function authorizer(tokens: TokenStore): (request: FastifyRequest) => Promise<void> {
	return async (request) => {
		request.caller = await authenticate(tokens, request.headers.authorization);
	};
}

/** Who is asking. */
export function callerOf(request: FastifyRequest): Account {
	if (request.caller === null) throw new AppError("unauthenticated", "this needs a token");
	return request.caller;
}

/** Rejects with `permission_denied` what would build the source of somebody whose sources are not built here. */
export function admitBuild(request: FastifyRequest, buildsFor: "everyone" | "administrator"): void {
	const caller = callerOf(request);
	if (buildsFor === "everyone" || caller.administrator) return;
	throw new AppError(
		"permission_denied",
		`this server has no sandbox for builds, and builds nothing for ${caller.name}`,
		{
			hint: "Its administrator can install bubblewrap there, or allow it with --open-builds.",
		},
	);
}

/** The namespace to act in: the header's, else the account's own. Rejects with `permission_denied`. */
export function namespaceOf(request: FastifyRequest): string {
	const caller = callerOf(request);
	const named = request.headers["runtime-namespace"];
	if (typeof named !== "string" || named === caller.namespace) return caller.namespace;
	if (!caller.administrator)
		throw new AppError("permission_denied", `${caller.name} may not act in namespace ${named}`, {
			field: "Runtime-Namespace",
		});
	return named;
}
