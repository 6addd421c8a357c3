import { cancelled, isAppError } from "../../errors.ts";
import { GitFailure, type GitWorkspace } from "./git.ts";
import type { GitAccess } from "./git-settings.ts";
import type { PinnedRemote } from "./resolver.ts";

/** Trees without files; more than that is not worth a wait before the answer. */
export const INSPECT_BYTES = 64 * 1024 ** 2;

/** The reason of a signal that is aborted because the time for resolving is over. */
export class ResolveTimeout extends Error {
	override readonly name = "ResolveTimeout";
}

/** As `holdsFolder`, and true where that cannot be found out in time: the checkout looks again. */
export async function seesFolder(
	workspace: GitWorkspace,
	pinned: PinnedRemote,
	access: GitAccess,
	signal: AbortSignal,
): Promise<boolean> {
	const call = { signal, bytes: INSPECT_BYTES };
	try {
		await workspace.fetch(pinned.url, [pinned.commit], ["--depth=1", "--filter=blob:none"], access, call);
		return await holdsFolder(workspace, pinned, signal);
	} catch (error) {
		if (error instanceof GitFailure || isAppError(error, "invalid_argument")) return true;
		if (isAppError(error, "cancelled") && signal.reason instanceof ResolveTimeout) return true;
		throw error;
	}
}

/** Whether a folder is in a commit of which the trees at least are there. */
export async function holdsFolder(
	workspace: GitWorkspace,
	{ commit, folder }: PinnedRemote,
	signal: AbortSignal,
): Promise<boolean> {
	const listed = await workspace.text(["ls-tree", "-z", "--full-tree", commit, "--", folder], signal);
	return listed.startsWith("040000 tree ");
}

/** The commit that a name stands for, or null where the repository does not have it. */
export async function peel(workspace: GitWorkspace, name: string, signal: AbortSignal): Promise<string | null> {
	try {
		const found = (await workspace.text(["rev-parse", "--verify", "--quiet", `${name}^{commit}`], signal)).trim();
		return /^[0-9a-f]{40}$/.test(found) ? found : null;
	} catch (error) {
		if (error instanceof GitFailure) return null;
		if (signal.aborted) throw cancelled(signal);
		throw error;
	}
}
