import { join } from "node:path";
import type { Call } from "../../blob/store.ts";
import type { SourceTree } from "../../builders/builder.ts";
import { AppError, cancelled } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { RemoteAddress } from "./address.ts";
import { archiveFiles } from "./archive.ts";
import { type ContentFile, type ContentLimits, planContents, writeContents } from "./contents.ts";
import { GitFailure, GitWorkspace } from "./git.ts";
import { unknownFolder } from "./refs.ts";
import type { PinnedRemote, Resolver } from "./resolver.ts";
import { Shared } from "./shared.ts";

export type RemoteLimits = ContentLimits & {
	/** Bytes that git may fetch, compressed as it sends them. */
	readonly fetchBytes: number;
	/** Milliseconds from the start of the fetch to the last file on disk. */
	readonly timeMs: number;
};

export type RemoteTree = SourceTree & {
	/** What is, or will be, checked out. Rejects as `Remotes.resolve`, and looks at neither folder nor, of a full one, commit. */
	pinned(call: Call): Promise<PinnedRemote>;
};

type Checkout = { readonly path: string; readonly files: readonly ContentFile[] };

/** A source that is fetched from its remote when somebody asks for it. Nothing happens before. */
export class CheckedOutTree implements RemoteTree {
	readonly archiveType = "targz";
	readonly #remote: PinnedRemote | RemoteAddress;
	readonly #resolver: Resolver;
	readonly #workFolder: string;
	readonly #git: string;
	readonly #limits: RemoteLimits;
	readonly #disposed = new AbortController();
	readonly #pinned: Shared<PinnedRemote>;
	readonly #checkout: Shared<Checkout>;
	#workspace: GitWorkspace | undefined;

	constructor(
		remote: PinnedRemote | RemoteAddress,
		options: {
			readonly resolver: Resolver;
			readonly workFolder: string;
			readonly git: string;
			readonly limits: RemoteLimits;
		},
	) {
		this.#remote = remote;
		this.#resolver = options.resolver;
		this.#workFolder = options.workFolder;
		this.#git = options.git;
		this.#limits = options.limits;
		this.#pinned = new Shared((signal) => this.#pin(signal));
		this.#checkout = new Shared((signal) => this.#fetch(signal));
	}

	async pinned(call: Call): Promise<PinnedRemote> {
		return this.#pinned.get(this.#check(call));
	}

	async directory(call: Call): Promise<string> {
		return (await this.#checkout.get(this.#check(call))).path;
	}

	async archive(call: Call): Promise<AsyncIterable<Uint8Array>> {
		const { path, files } = await this.#checkout.get(this.#check(call));
		return archiveFiles(path, files, AbortSignal.any([call.signal, this.#disposed.signal]));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#disposed.abort();
		await Promise.allSettled([this.#pinned.settled(), this.#checkout.settled()]);
		await this.#workspace?.[Symbol.asyncDispose]();
		this.#workspace = undefined;
	}

	#check(call: Call): AbortSignal {
		if (this.#disposed.signal.aborted) throw new AppError("internal", "the source tree was disposed of");
		if (call.signal.aborted) throw cancelled(call.signal);
		return AbortSignal.any([call.signal, this.#disposed.signal]);
	}

	async #pin(signal: AbortSignal): Promise<PinnedRemote> {
		if ("commit" in this.#remote) return this.#remote;
		return this.#resolver.pin(this.#remote, "git", signal);
	}

	async #fetch(callers: AbortSignal): Promise<Checkout> {
		const late = AbortSignal.timeout(this.#limits.timeMs);
		const signal = AbortSignal.any([callers, late]);
		try {
			const pinned = await this.#pinned.get(signal);
			this.#workspace = await GitWorkspace.create(this.#workFolder, this.#git, signal);
			return await this.#checkOut(this.#workspace, pinned, signal);
		} catch (error) {
			await this.#workspace?.[Symbol.asyncDispose]();
			this.#workspace = undefined;
			if (callers.aborted) throw cancelled(callers);
			if (late.aborted)
				throw new AppError("unavailable", `the source was not fetched within ${this.#limits.timeMs / 1000} s`, {
					field: "source",
					cause: error,
				});
			if (error instanceof GitFailure)
				throw new AppError("unavailable", `git could not read what it fetched: ${error.message}`, {
					field: "source",
					cause: error,
				});
			throw error;
		}
	}

	async #checkOut(workspace: GitWorkspace, pinned: PinnedRemote, signal: AbortSignal): Promise<Checkout> {
		await this.#resolver.fetch(workspace, pinned, this.#limits.fetchBytes, signal);
		failpoint("source.fetched");
		const contents = await planContents(workspace, pinned.commit, this.#limits, signal);
		if (pinned.folder !== "." && !contents.folders.includes(pinned.folder))
			throw unknownFolder(pinned.folder, new URL(pinned.url).pathname.slice(1), pinned.ref);
		const path = join(workspace.folder, "tree");
		await writeContents(workspace, contents, path, signal);
		await workspace.forget();
		failpoint("source.checked_out");
		return { path, files: contents.files };
	}
}
