import type { Api } from "./api.ts";
import { CliError, isCliError } from "./errors.ts";
import { isRecord } from "./shapes.ts";
import type { RemoteSource } from "./source/remote.ts";

/**
 * Asks the server whether repository, folder and ref exist, before anything is created; → what it found, in words, or
 * undefined where the host cannot be asked now: then the server looks while it builds. Rejects with the server's refusal.
 */
export async function resolveRemote(api: Api, remote: RemoteSource, signal: AbortSignal): Promise<string | undefined> {
	try {
		const { body } = await api.call("GET", "/remotes", { query: { source: remote.typed }, signal });
		if (!isRecord(body) || typeof body.commit !== "string") return undefined;
		const parts = [body.url, body.folder === "." ? "" : body.folder, body.ref];
		const words = parts.filter((part) => typeof part === "string" && part !== "").join(", ");
		return `${words} at ${body.commit.slice(0, 12)}`;
	} catch (error) {
		if (isCliError(error, "unavailable", "deadline", "exhausted")) return undefined;
		if (isCliError(error, "not_found") && error.problem?.field === undefined && error.message.includes("/remotes"))
			throw new CliError("This server takes no git repositories; nothing was created", {
				code: "not_found",
				lines: [`Try:  git clone ${remote.typed} source && runtime run ./source`],
			});
		throw error;
	}
}
