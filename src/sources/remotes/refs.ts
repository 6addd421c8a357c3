import { AppError } from "../../errors.ts";
import type { RemoteAddress } from "./address.ts";

/** What a remote has, as `git ls-remote` lists it. */
export type Refs = {
	/** Full name → commit; tags that are objects of their own are followed to what they name. */
	readonly commits: ReadonlyMap<string, string>;
	/** What HEAD points to (`refs/heads/main`), or null where that was not asked or it points to a commit. */
	readonly head: string | null;
};

/** A ref and a folder, once it is known which is which. */
export type Choice =
	| { readonly kind: "ref"; readonly ref: string; readonly commit: string; readonly folder: string }
	/** At least seven digits of a commit that is no ref's. */
	| { readonly kind: "digits"; readonly digits: string; readonly folder: string };

/** Reads the output of `git ls-remote --symref`. */
export function readRefs(output: string): Refs {
	const commits = new Map<string, string>();
	let head: string | null = null;
	for (const line of output.split("\n")) {
		const symbolic = /^ref: (\S+)\tHEAD$/.exec(line);
		if (symbolic !== null) head = symbolic[1] ?? null;
		const [, hash, name] = /^([0-9a-f]{40})\t(\S+)$/.exec(line) ?? [];
		// The line of a tag's object comes before the one of what it names.
		if (hash !== undefined && name !== undefined) commits.set(name.replace(/\^\{\}$/, ""), hash);
	}
	return { commits, head };
}

const isDigits = (text: string) => /^[0-9a-f]{7,40}$/.test(text);

/** Finds what is meant by the address's ref. Rejects with `not_found` (field `source`) where the remote has no such ref. */
export function choose(address: RemoteAddress, refs: Refs): Choice {
	const { ref, folder } = address;
	if (ref === null) {
		const commit = refs.commits.get("HEAD") ?? (refs.head === null ? undefined : refs.commits.get(refs.head));
		if (commit === undefined)
			throw new AppError("not_found", `the repository ${address.repository} has no default branch; is it empty?`, {
				field: "source",
				hint: "Push something, or name a branch with @BRANCH.",
			});
		return { kind: "ref", ref: shortName(refs.head ?? "HEAD"), commit, folder };
	}
	if (address.undecided !== "ref") return one(ref, folder, refs) ?? unknown(ref, address);
	const segments = [...ref.split("/"), ...(folder === "." ? [] : folder.split("/"))];
	for (let length = segments.length; length > 0; length--) {
		const rest = segments.slice(length).join("/");
		const found = one(segments.slice(0, length).join("/"), rest === "" ? "." : rest, refs);
		if (found !== null) return found;
	}
	return unknown(segments.join("/"), address);
}

function one(ref: string, folder: string, refs: Refs): Choice | null {
	for (const name of ref.startsWith("refs/") ? [ref] : [`refs/heads/${ref}`, `refs/tags/${ref}`]) {
		const commit = refs.commits.get(name);
		if (commit !== undefined) return { kind: "ref", ref: shortName(ref), commit, folder };
	}
	const digits = ref.toLowerCase();
	return isDigits(digits) ? { kind: "digits", digits, folder } : null;
}

function shortName(ref: string): string {
	return ref.replace(/^refs\/(heads|tags)\//, "");
}

function unknown(ref: string, address: RemoteAddress): never {
	throw unknownRef(ref, address.repository);
}

export function unknownRef(ref: string, repository: string): AppError {
	return new AppError("not_found", `the repository ${repository} has no branch, tag or commit ${ref}`, {
		field: "source",
		hint: "Name one that it has with @REF, or none for its default branch.",
	});
}

export function unknownRepository(host: string, repository: string, isKnownHost: boolean): AppError {
	return new AppError("not_found", `there is no repository ${repository} on ${host}, or this server may not see it`, {
		field: "source",
		hint: isKnownHost
			? "Check its name; for a private one an operator gives the server a token in the file of git hosts."
			: "Check its name; write .git behind the repository where a folder follows.",
	});
}

export function unknownFolder(folder: string, repository: string, ref: string): AppError {
	return new AppError("not_found", `the repository ${repository} has no folder ${folder} at ${ref}`, {
		field: "source",
		hint: "Name a folder that it has, or none for its root.",
	});
}
