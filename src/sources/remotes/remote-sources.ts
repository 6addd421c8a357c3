import type { Call, SourceTree } from "../../builders/builder.ts";
import { AppError } from "../../errors.ts";
import { parseRemote, type RemoteAddress } from "./address.ts";
import type { HostConfig, PinnedRemote, Remotes } from "./remotes.ts";

/** Remotes by the text that revisions keep. (The manager's `RemoteSources`.) */
export class GitSources {
	readonly #remotes: Remotes;
	readonly #hosts: readonly HostConfig[];

	constructor(remotes: Remotes, hosts: readonly HostConfig[]) {
		this.#remotes = remotes;
		this.#hosts = hosts;
	}

	async pin(text: string, call: Call) {
		return pinnedSource(await this.#remotes.resolve(this.#parse(text), call));
	}

	/** `commit`: that of a source as `pin` gave it; null of one as it was typed, which may end in a commit all the same. */
	open(
		source: string,
		commit: string | null,
	): SourceTree & { pinned?(call: Call): Promise<ReturnType<typeof pinnedSource>> } {
		if (commit !== null) {
			if (!source.endsWith(`@${commit}`)) throw new AppError("internal", "the pinned source is not of its commit");
			const url = source.slice(0, -commit.length - 1);
			return asTree(this.#remotes.open({ url, commit, ref: commit, folder: "." }));
		}
		const tree = this.#remotes.open(this.#parse(source));
		return { ...asTree(tree), pinned: async (call) => pinnedSource(await tree.pinned(call)) };
	}

	#parse(text: string): RemoteAddress {
		const address = parseRemote(text, { knownHosts: this.#hosts });
		if (address !== null) return address;
		throw new AppError("invalid_argument", "the source is neither an uploaded one nor a git remote", {
			field: "source",
			hint: "Send the key of POST /sources, or HOST/OWNER/REPOSITORY[/FOLDER][@REF].",
		});
	}
}

function asTree(tree: SourceTree): SourceTree {
	return {
		archiveType: tree.archiveType,
		archive: (call) => tree.archive(call),
		directory: (call) => tree.directory(call),
		[Symbol.asyncDispose]: () => tree[Symbol.asyncDispose](),
	};
}

function pinnedSource({ url, folder, ref, commit }: PinnedRemote) {
	return { source: `${url}@${commit}`, url, folder, ref, commit };
}
