import type { Handler } from "../contract/bind.ts";
import type { RemoteSources } from "../manager/remote-sources.ts";
import { namespaceOf } from "./caller.ts";

/** `GET /remotes`: what a git remote means now. */
export function resolveRemote(remotes: RemoteSources): Handler<"resolveRemote"> {
	return async ({ request, query, signal }) => {
		namespaceOf(request);
		return { status: 200, body: await remotes.pin(query.source, { signal }) };
	};
}
