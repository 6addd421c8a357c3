import { AppError, isAppError } from "../../errors.ts";
import type { RemoteAddress } from "./address.ts";
import { type Forge, openForge } from "./forges.ts";
import { GitFailure, GitWorkspace } from "./git.ts";
import { cloneUrl, type GitAccess } from "./git-settings.ts";
import { authority, defaultPort, type HostConfig, hostFor, type Origin, originOf } from "./hosts.ts";
import { holdsFolder, INSPECT_BYTES, peel, seesFolder } from "./inspection.ts";
import type { Outbound } from "./outbound.ts";
import { probe } from "./probe.ts";
import { choose, type Refs, readRefs, unknownFolder, unknownRef, unknownRepository } from "./refs.ts";

/** A remote whose commit is settled: the same bytes for ever. */
export type PinnedRemote = {
	/** What git is given: https, without credentials. */
	readonly url: string;
	/** `/`-separated; `.` is the root. */
	readonly folder: string;
	/** The branch, tag or commit that was asked for, or the default branch's name. */
	readonly ref: string;
	/** 40 hexadecimal digits. */
	readonly commit: string;
};

/** Where a repository is, once it is known how much of a path names it. */
type Located = { readonly url: string; readonly path: string; readonly folder: string };
/** `forge` also asks the host's API, and looks whether the folder is there; `git` leaves the folder to the checkout. */
export type ResolveMode = "forge" | "git";

const MAX_NESTING = 8;
const EVERYTHING = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
/** Git's number for a depth without end: it also lifts the limit of an earlier fetch into the same repository. */
const ALL_HISTORY = "--depth=2147483647";

export class Resolver {
	readonly #hosts: readonly HostConfig[];
	readonly #outbound: Outbound;
	readonly #workFolder: string;
	readonly #git: string;

	constructor(options: {
		readonly hosts: readonly HostConfig[];
		readonly outbound: Outbound;
		readonly workFolder: string;
		readonly git: string;
	}) {
		this.#hosts = options.hosts;
		this.#outbound = options.outbound;
		this.#workFolder = options.workFolder;
		this.#git = options.git;
	}

	async pin(address: RemoteAddress, mode: ResolveMode, signal: AbortSignal): Promise<PinnedRemote> {
		const scheme = address.scheme ?? "https";
		const origin: Origin = { scheme, host: address.host, port: address.port ?? defaultPort(scheme) };
		const config = this.#config(origin);
		const forge = openForge(config, this.#outbound);
		const asked = mode === "forge" ? forge : null;
		const located =
			asked === null
				? await this.#probeAll(address, origin, config, signal)
				: await this.#ask(asked, address, origin, signal);
		const settled = { ...address, repository: located.path, folder: located.folder };
		await using workspace = await GitWorkspace.create(this.#workFolder, this.#git, signal);
		const access = await this.#access(origin, config, signal);
		const refs = await this.#refs(workspace, located, address.ref, access, signal);
		const choice = choose(settled, refs);
		const { folder } = choice;
		if (choice.kind === "ref") {
			const { ref, commit } = choice;
			const pinned = { url: located.url, folder, ref, commit };
			if (folder === "." || mode === "git") return pinned;
			const there =
				asked === null
					? await seesFolder(workspace, pinned, access, signal)
					: await asked.folder(located.path, commit, folder, signal);
			if (!there) throw unknownFolder(folder, located.path, ref);
			return pinned;
		}
		const commit = await this.#commit(choice.digits, { workspace, located, refs, access, forge, mode, signal });
		const pinned = { url: located.url, folder, ref: commit, commit };
		if (folder === "." || mode === "git") return pinned;
		const there =
			asked === null
				? await holdsFolder(workspace, pinned, signal)
				: await asked.folder(located.path, commit, folder, signal);
		if (!there) throw unknownFolder(folder, located.path, commit);
		return pinned;
	}

	/** Fetches a pinned commit, its history left out where the server allows that. Rejects as `Remotes.resolve` does. */
	async fetch(workspace: GitWorkspace, pinned: PinnedRemote, bytes: number, signal: AbortSignal): Promise<void> {
		if (!/^[0-9a-f]{40}$/.test(pinned.commit)) throw new AppError("internal", "the pinned commit is not 40 digits");
		const origin = URL.canParse(pinned.url) ? originOf(new URL(pinned.url)) : null;
		if (origin === null) throw new AppError("internal", "the pinned source is not an https URL");
		const access = await this.#access(origin, this.#config(origin), signal);
		const call = { signal, bytes };
		const ways: readonly { readonly what: readonly string[]; readonly options: readonly string[] }[] = [
			{ what: [pinned.commit], options: ["--depth=1"] },
			// For servers that give out nothing but what a ref names, and then for a ref that has moved on.
			...(pinned.ref === pinned.commit || pinned.ref === "HEAD"
				? []
				: [{ what: [`+${pinned.ref}:refs/runtime/pinned`], options: ["--depth=1"] }]),
			{ what: EVERYTHING, options: [ALL_HISTORY] },
		];
		let failure: GitFailure | undefined;
		for (const { what, options } of ways) {
			try {
				await workspace.fetch(pinned.url, what, options, access, call);
				if ((await peel(workspace, pinned.commit, signal)) === pinned.commit) return;
			} catch (error) {
				if (!(error instanceof GitFailure)) throw error;
				failure ??= error;
				const problem = await probe(this.#outbound, pinned.url, origin, access.config, signal);
				if (problem !== null) throw problem;
			}
		}
		throw new AppError("not_found", `the commit ${pinned.commit} can no longer be fetched from ${pinned.url}`, {
			field: "source",
			...(failure === undefined ? {} : { cause: failure }),
		});
	}

	#config(origin: Origin): HostConfig {
		return hostFor(this.#hosts, origin) ?? { host: authority(origin), kind: "git" };
	}

	async #access(origin: Origin, config: HostConfig, signal: AbortSignal): Promise<GitAccess> {
		return { origin, config, addresses: await this.#outbound.vet(origin, signal) };
	}

	/** Asks the host's API for the repository, the shortest path first: a group cannot have a project's name. */
	async #ask(forge: Forge, address: RemoteAddress, origin: Origin, signal: AbortSignal): Promise<Located> {
		for (const { path, folder } of candidates(address)) {
			const own = await forge.repository(path, signal);
			if (own !== null) return { url: cloneUrl(origin, `${own}.git`), path: own, folder };
		}
		throw unknownRepository(authority(origin), address.repository, true);
	}

	/** Finds the repository by git's own protocol. */
	async #probeAll(address: RemoteAddress, origin: Origin, config: HostConfig, signal: AbortSignal): Promise<Located> {
		// Forges answer to both forms, or redirect to this one.
		const suffixes = config.kind === "git" ? [".git", ""] : [".git"];
		const tries = candidates(address).flatMap(({ path, folder }) =>
			suffixes.map((suffix) => ({ path, folder, url: cloneUrl(origin, path + suffix) })),
		);
		const problems = await Promise.all(tries.map(({ url }) => probe(this.#outbound, url, origin, config, signal)));
		const found = tries.find((_, index) => problems[index] === null);
		if (found !== undefined) return found;
		const worst = (["unavailable", "permission_denied", "invalid_argument"] as const)
			.map((code) => problems.find((problem) => isAppError(problem, code)))
			.find((problem) => problem !== undefined);
		throw worst ?? unknownRepository(authority(origin), address.repository, config.kind !== "git");
	}

	async #refs(
		workspace: GitWorkspace,
		{ url }: Located,
		ref: string | null,
		access: GitAccess,
		signal: AbortSignal,
	): Promise<Refs> {
		// Only these two are filtered by the server; a large repository has a hundred thousand others.
		const filter = ref === null ? ["--symref"] : ref.startsWith("refs/") ? [] : ["--heads", "--tags"];
		const patterns = ref === null ? ["HEAD"] : [];
		try {
			return readRefs(
				await workspace.text(["ls-remote", "--quiet", ...filter, "--", url, ...patterns], signal, access),
			);
		} catch (error) {
			if (!(error instanceof GitFailure)) throw error;
			const problem = await probe(this.#outbound, url, access.origin, access.config, signal);
			if (isAppError(problem, "not_found"))
				throw unknownRepository(authority(access.origin), new URL(url).pathname.slice(1), true);
			throw problem ?? unreachable(access.origin, error);
		}
	}

	/** The full name of a commit of which some digits were given. */
	async #commit(
		digits: string,
		at: {
			readonly workspace: GitWorkspace;
			readonly located: Located;
			readonly refs: Refs;
			readonly access: GitAccess;
			readonly forge: Forge | null;
			readonly mode: ResolveMode;
			readonly signal: AbortSignal;
		},
	): Promise<string> {
		const { located, forge, signal } = at;
		const isWhole = digits.length === 40;
		// The checkout says whether it is there.
		if (isWhole && at.mode === "git") return digits;
		if (forge !== null) {
			const commit = await forge.commit(located.path, digits, signal);
			if (commit === null || !commit.startsWith(digits)) throw unknownRef(digits, located.path);
			return commit;
		}
		if (!isWhole) {
			const tips = new Set([...at.refs.commits.values()].filter((commit) => commit.startsWith(digits)));
			const [only, ...others] = tips;
			if (only !== undefined && others.length === 0) return this.#verify(only, at);
			throw new AppError(
				"invalid_argument",
				`${digits} is no branch or tag of ${located.path}, and too short for a commit`,
				{
					field: "source",
					hint: "Write all 40 characters of the commit.",
				},
			);
		}
		return this.#verify(digits, at);
	}

	/** Looks for a commit on a host without an API: its trees are fetched, its files not. */
	async #verify(
		commit: string,
		at: {
			readonly workspace: GitWorkspace;
			readonly located: Located;
			readonly access: GitAccess;
			readonly signal: AbortSignal;
		},
	): Promise<string> {
		const { workspace, located, access, signal } = at;
		const call = { signal, bytes: INSPECT_BYTES };
		const ways = [
			{ what: [commit], options: ["--depth=1", "--filter=blob:none"] },
			{ what: EVERYTHING, options: [ALL_HISTORY, "--filter=blob:none"] },
		];
		for (const { what, options } of ways) {
			try {
				await workspace.fetch(located.url, what, options, access, call);
				const found = await peel(workspace, commit, signal);
				if (found !== null) return found;
			} catch (error) {
				if (isAppError(error, "invalid_argument"))
					throw new AppError("unavailable", "the repository is too large to look for the commit now", {
						field: "source",
						cause: error,
					});
				if (!(error instanceof GitFailure)) throw error;
				const problem = await probe(this.#outbound, located.url, access.origin, access.config, signal);
				if (problem !== null) throw problem;
			}
		}
		throw unknownRef(commit, located.path);
	}
}

function candidates(address: RemoteAddress): readonly { readonly path: string; readonly folder: string }[] {
	const { repository, folder } = address;
	if (address.undecided !== "repository" || folder === ".") return [{ path: repository, folder }];
	const least = repository.split("/").length;
	const segments = [...repository.split("/"), ...folder.split("/")];
	return segments.slice(least - 1, MAX_NESTING).map((_, index) => {
		const length = least + index;
		return { path: segments.slice(0, length).join("/"), folder: segments.slice(length).join("/") || "." };
	});
}

function unreachable(origin: Origin, error: GitFailure): AppError {
	return new AppError("unavailable", `git cannot read the repository on ${authority(origin)}: ${error.message}`, {
		field: "source",
	});
}
