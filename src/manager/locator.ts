import type { Call } from "../blob/store.ts";
import { isAppError } from "../errors.ts";
import type { RemoteState } from "./model.ts";
import { isUploaded, type RemoteSources } from "./remote-sources.ts";
import type { UpdateRequest } from "./wish.ts";

/** A request whose source is a commit, where it could be found out, and what is known of its remote. */
export type Located<T> = { readonly located: T; readonly remote: RemoteState | null };

/** Settles what a remote means now; one whose host does not answer is kept as it was typed, and settled by the build. */
export async function locate<T extends UpdateRequest>(
	remotes: RemoteSources,
	request: T,
	call: Call,
): Promise<Located<T>> {
	const { source: typed, entrypoint } = request;
	if (typed === undefined || isUploaded(typed)) return { located: request, remote: null };
	const metadata = { source: typed, ...request.metadata };
	try {
		const { source, folder, commit } = await remotes.pin(typed, call);
		const located = { ...request, source, metadata, entrypoint: entrypoint ?? folder };
		return { located, remote: { state: "pinned", commit } };
	} catch (error) {
		if (!isAppError(error, "unavailable")) throw error;
		const located = { ...request, metadata, entrypoint: entrypoint ?? "." };
		const remote = { state: "deferred", entrypoint: entrypoint === undefined ? "typed_folder" : "given" } as const;
		return { located, remote };
	}
}
