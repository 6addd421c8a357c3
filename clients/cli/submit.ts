import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Api } from "./api.ts";
import { isCliError } from "./errors.ts";
import { newestRevision, type Service, toService } from "./shapes.ts";

/** A request that makes or changes a service. */
export type Change = {
	readonly method: "POST" | "PUT" | "PATCH";
	readonly path: string;
	readonly body: Readonly<Record<string, unknown>>;
	readonly signal?: AbortSignal | undefined;
};

/** `revision` is the new one; undefined where nothing had to be made. */
export type Submitted = { readonly service: Service; readonly revision: number | undefined };

const ATTEMPTS = 8;
/** A server without a builder answers when the program runs. */
const ANSWER_LIMIT = 30 * 60_000;

/**
 * Sends the change under an `Idempotency-Key` of its own. When the answer is lost the same request is simply sent again:
 * the server makes nothing twice under one key. `before` is the service as it was.
 */
export async function submit(
	api: Api,
	{ method, path, body, signal }: Change,
	before: Service | undefined,
): Promise<Submitted> {
	const headers = { "idempotency-key": randomUUID() };
	const contentType = method === "PATCH" ? "application/merge-patch+json" : "application/json";
	let pause = 250;
	for (let attempt = 1; ; attempt++) {
		try {
			const options = { body, contentType, headers, signal, timeout: ANSWER_LIMIT };
			const answer = await api.call(method, path, options);
			const service = toService(answer.body);
			const revision = newestRevision(service);
			// 200 is also the answer when the new revision runs (profile dev).
			const newer = answer.status !== 200 || before === undefined || revision > newestRevision(before);
			const made = newer && Object.keys(body).some((key) => key !== "metadata");
			return { service, revision: made ? revision : undefined };
		} catch (error) {
			if (signal?.aborted) throw signal.reason;
			if (!isCliError(error, "unreachable", "unavailable") || attempt >= ATTEMPTS) throw error;
		}
		await sleep(pause, undefined, { signal }).catch(() => signal?.throwIfAborted());
		pause = Math.min(pause * 2, 4000);
	}
}
