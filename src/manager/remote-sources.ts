import type { Call, SourceTree } from "../builders/builder.ts";

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
	/** Opens what a revision keeps as its source: pinned, or as it was typed. */
	open(source: string): OpenedSource;
}

/** Whether a source is an uploaded archive. */
export function isUploaded(source: string): boolean {
	return source.startsWith("source://");
}

/** The commit of a pinned remote, or null. */
export function commitOf(source: string): string | null {
	return isUploaded(source) ? null : (/@([0-9a-f]{40})$/.exec(source)?.[1] ?? null);
}
