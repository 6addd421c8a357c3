import { setTimeout as sleep } from "node:timers/promises";
import { type Api, servicePath } from "./api.ts";
import { isCliError } from "./errors.ts";
import type { Settings } from "./settings.ts";
import { newestRevision, type Service, toRevisions, toService } from "./shapes.ts";

export type Submission = {
	readonly verb: "run" | "update" | "deploy";
	readonly name: string;
	readonly version: string;
	readonly settings: Settings;
	/** The service as it was before. */
	readonly before: Service | undefined;
};

/** `revision` is the new one; undefined where nothing had to be made. */
export type Submitted = { readonly service: Service; readonly revision: number | undefined };

const ATTEMPTS = 8;

/**
 * Sends the create or the change. When the answer is lost, the service is asked whether it has a revision of our own
 * source before the request is sent again: a lost answer makes no second revision.
 */
export async function submit(api: Api, submission: Submission): Promise<Submitted> {
	let pause = 250;
	for (let attempt = 1; ; attempt++) {
		try {
			return await send(api, submission);
		} catch (error) {
			const conflict = attempt > 1 && isCliError(error, "conflict");
			const lost = isCliError(error, "unreachable", "unavailable");
			if ((!lost && !conflict) || submission.settings.source === undefined) throw error;
			const found = await recover(api, submission).catch((problem: unknown) => {
				if (isCliError(problem, "unreachable", "unavailable")) return undefined;
				throw problem;
			});
			if (found !== undefined) return found;
			if (conflict || attempt >= ATTEMPTS) throw error;
		}
		await sleep(pause);
		pause = Math.min(pause * 2, 4000);
	}
}

async function send(api: Api, { verb, name, version, settings }: Submission): Promise<Submitted> {
	const path = servicePath(name, version);
	const answer =
		verb === "run"
			? await api.call("POST", "/services", { body: { name, version, ...settings } })
			: verb === "update"
				? await api.call("PATCH", path, { body: settings, contentType: "application/merge-patch+json" })
				: await api.call("PUT", path, { body: settings });
	const service = toService(answer.body);
	return { service, revision: answer.status === 200 ? undefined : newestRevision(service) };
}

/** An upload's key is unique: a new revision that has it is ours. */
async function recover(api: Api, { name, version, settings, before }: Submission): Promise<Submitted | undefined> {
	try {
		const service = await api.service(name, version);
		const answer = await api.call("GET", servicePath(name, version, "/revisions"), { query: { limit: 10 } });
		const known = before !== undefined && before.id === service.id ? newestRevision(before) : 0;
		const own = toRevisions(answer.body).find((entry) => entry.source === settings.source && entry.revision > known);
		return own === undefined ? undefined : { service, revision: own.revision };
	} catch (error) {
		if (isCliError(error, "not_found")) return undefined;
		throw error;
	}
}
