import { createHash } from "node:crypto";
import type { FastifyRequest } from "fastify";
import { AppError } from "../errors.ts";
import type { ChangeOptions } from "../manager/changes.ts";
import type { ServiceRecord } from "../manager/model.ts";

/** The entity tag of a service: another one after every commit, and for every namesake. */
export function tagOf(service: ServiceRecord): string {
	return `"${service.id}.${service.stamp}"`;
}

/** What the request's `If-Match` and `Idempotency-Key` ask of a change. */
export function changeOptions(request: FastifyRequest, namespace: string): ChangeOptions {
	const ifMatch = request.headers["if-match"];
	const key = request.headers["idempotency-key"];
	return {
		...(ifMatch === undefined ? {} : { guard: matching(ifMatch) }),
		...(typeof key === "string" ? { once: { key, hash: hashOf(request, namespace) } } : {}),
	};
}

function matching(header: string): (service: ServiceRecord) => void {
	const tags = header.split(",").map((tag) => tag.trim());
	return (service) => {
		if (tags.includes("*") || tags.includes(tagOf(service))) return;
		throw new AppError("precondition_failed", `${service.name}:${service.version} has changed since you read it`, {
			field: "If-Match",
			hint: "Read it again, look at what changed, and try with its new ETag.",
		});
	};
}

/** Two requests are the same when they ask the same of the same thing. */
function hashOf(request: FastifyRequest, namespace: string): string {
	const asked = [request.method, request.url, namespace, request.body ?? null];
	return createHash("sha256").update(JSON.stringify(asked)).digest("hex");
}
