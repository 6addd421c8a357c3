import { AppError } from "../errors.ts";

export type NameLimits = {
	/** Entries and the folders that they imply, together. */
	readonly entries: number;
	/** Bytes of a whole path. */
	readonly path: number;
	/** Bytes of one segment of a path. */
	readonly segment: number;
};

type Folder = { readonly name: string; readonly children: Map<string, Folder | string> };

/** The error for an entry that is refused. */
export function refusal(name: string, why: string, cause?: unknown): AppError {
	const shown = name.length > 200 ? `${name.slice(0, 200)}…` : name;
	return new AppError("invalid_argument", `the archive's entry ${JSON.stringify(shown)} ${why}`, { cause });
}

/**
 * Every name of an archive, as a tree: it says where an entry may be written, or why it may not.
 *
 * Names are compared as a case-insensitive, normalising file system would compare them, so that an archive means the same
 * everywhere. A tree of segments instead of a set of paths bounds what a hostile archive can make us remember.
 */
export class EntryNames {
	readonly #limits: NameLimits;
	readonly #root: Folder = { name: "", children: new Map() };
	#count = 0;

	constructor(limits: NameLimits) {
		this.#limits = limits;
	}

	/**
	 * Takes an entry's name. Returns the folders to make, outermost first, and the entry's own path; an empty path is the
	 * root itself. Rejects with `invalid_argument`.
	 */
	add(raw: string, kind: "file" | "directory"): { readonly folders: readonly string[]; readonly path: string } {
		const segments = this.#split(raw, kind);
		const last = segments.pop();
		const folders: string[] = [];
		let folder = this.#root;
		let path = "";
		const enter = (segment: string) => {
			path = path === "" ? segment : `${path}/${segment}`;
			const key = fold(segment);
			const known = folder.children.get(key);
			const knownName = typeof known === "string" ? known : known?.name;
			if (knownName !== undefined && knownName !== segment)
				throw refusal(raw, `differs from ${JSON.stringify(knownName)} only in case or in how it is encoded`);
			if (typeof known === "string") throw refusal(raw, `needs a folder where the archive has a file: ${path}`);
			if (known !== undefined) {
				folder = known;
				return;
			}
			this.#countOne(raw);
			const made: Folder = { name: segment, children: new Map() };
			folder.children.set(key, made);
			folder = made;
			folders.push(path);
		};
		for (const segment of segments) enter(segment);
		if (last === undefined) return { folders, path: "" };
		if (kind === "directory") {
			enter(last);
			return { folders, path };
		}
		const key = fold(last);
		const known = folder.children.get(key);
		if (known !== undefined) {
			const name = typeof known === "string" ? known : known.name;
			if (name !== last)
				throw refusal(raw, `differs from ${JSON.stringify(name)} only in case or in how it is encoded`);
			throw refusal(raw, typeof known === "string" ? "is there twice" : "is a file where the archive has a folder");
		}
		this.#countOne(raw);
		folder.children.set(key, last);
		return { folders, path: path === "" ? last : `${path}/${last}` };
	}

	#countOne(raw: string): void {
		this.#count++;
		if (this.#count > this.#limits.entries)
			throw new AppError("invalid_argument", `the archive has more than ${this.#limits.entries} files and folders`, {
				hint: `It was refused at ${JSON.stringify(raw.slice(0, 200))}. Leave out what the build does not need, with .runtimeignore for example.`,
			});
	}

	#split(raw: string, kind: "file" | "directory"): string[] {
		if (raw === "") throw refusal(raw, "has an empty name");
		if (raw.includes("\0")) throw refusal(raw, "has a NUL character in its name");
		if (raw.includes("\\")) throw refusal(raw, "has a backslash in its name");
		if (raw.includes("\uFFFD")) throw refusal(raw, "has a name that is not UTF-8");
		if (raw.startsWith("/") || /^[A-Za-z]:\//.test(raw)) throw refusal(raw, "has an absolute name");
		const bytes = Buffer.byteLength(raw);
		if (bytes > this.#limits.path)
			throw refusal(raw, `has a name of ${bytes} bytes; at most ${this.#limits.path} are allowed`);
		const trimmed = kind === "directory" && raw.endsWith("/") ? raw.slice(0, -1) : raw;
		const segments: string[] = [];
		for (const segment of trimmed.split("/")) {
			if (segment === ".") continue;
			if (segment === "") throw refusal(raw, "has an empty part in its name");
			if (segment === "..") throw refusal(raw, "leads out of the archive with `..`");
			if (Buffer.byteLength(segment) > this.#limits.segment)
				throw refusal(raw, `has a part of more than ${this.#limits.segment} bytes in its name`);
			segments.push(segment);
		}
		if (kind === "file" && segments.length === 0) throw refusal(raw, "is a file without a name");
		return segments;
	}
}

/** Lower case first: it is context-dependent (final sigma), and upper case makes both forms equal again. */
function fold(segment: string): string {
	return segment.normalize("NFC").toLowerCase().toUpperCase().normalize("NFC");
}
