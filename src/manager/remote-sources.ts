import type { Call, SourceTree } from "../builders/builder.ts";
import type { RemoteState, Wish } from "./model.ts";

/** A remote whose repository, folder and commit are known. */
export type PinnedSource = {
	/** What a revision keeps as its source: `URL@COMMIT`. */
	readonly source: string;
	readonly url: string;
	/** The program's folder in the repository; `.` is its root. */
	readonly folder: string;
	/** The branch, tag or commit that was asked for, or the remote's own branch. */
	readonly ref: string;
	/** 40 hex digits. */
	readonly commit: string;
};

/** A source that is a remote and was not pinned yet pins itself when it is first needed. */
export type OpenedSource = SourceTree & { pinned?(call: Call): Promise<PinnedSource> };

/** Git repositories elsewhere, as the manager needs them. */
export interface RemoteSources {
	/**
	 * Checks a remote as it was typed and settles its commit. Rejects, with field `source`, with `invalid_argument` (no remote,
	 * or malformed), `not_found`, `permission_denied`, and `unavailable` where the host does not answer as it should: then the
	 * source may be right all the same.
	 */
	pin(text: string, call: Call): Promise<PinnedSource>;
	/** Opens what a revision keeps as its source: pinned to `commit`, or, where that is null, as it was typed. */
	open(source: string, commit: string | null): OpenedSource;
}

/** Whether a source is an uploaded archive. */
export function isUploaded(source: string): boolean {
	return source.startsWith("source://");
}

type SourceOfWish = Pick<Wish, "source" | "entrypoint" | "remote">;

/** How far the remote of a wish is settled; null of an uploaded source. */
export function remoteOf({ source, entrypoint, remote }: SourceOfWish): RemoteState | null {
	if (isUploaded(source)) return null;
	if (remote !== undefined && remote !== null) return remote;
	// Records of before it was kept: all that is left to go by is the text.
	const commit = /^https?:\/\/.+@([0-9a-f]{40})$/.exec(source)?.[1];
	if (commit !== undefined) return { state: "pinned", commit };
	return { state: "deferred", entrypoint: entrypoint === "." ? "typed_folder" : "given" };
}

/** The commit of a pinned remote, or null. */
export function commitOf(wish: SourceOfWish): string | null {
	const remote = remoteOf(wish);
	return remote?.state === "pinned" ? remote.commit : null;
}
