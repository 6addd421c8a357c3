import { mkdir, open } from "node:fs/promises";
import { join, posix } from "node:path";
import { AppError, cancelled, isAppError, systemCode } from "../../errors.ts";
import { EntryNames } from "../entry-names.ts";
import { DEFAULT_UNPACK_LIMITS, type UnpackLimits } from "../unpack.ts";
import { GitFailure, type GitWorkspace } from "./git.ts";

export type ContentLimits = Pick<UnpackLimits, "entries" | "path" | "segment" | "bytes">;

export const DEFAULT_CONTENT_LIMITS: ContentLimits = DEFAULT_UNPACK_LIMITS;

type Blob = { readonly hash: string; readonly size: number; readonly executable: boolean };
type Listed = {
	readonly files: ReadonlyMap<string, Blob>;
	readonly links: ReadonlyMap<string, string>;
	readonly modules: readonly string[];
};
export type ContentFile = Blob & { readonly path: string };
export type Contents = { readonly folders: readonly string[]; readonly files: readonly ContentFile[] };

const LINK_LIMIT = 4096;
const LINK_DEPTH = 8;

function refuse(path: string, why: string): AppError {
	return new AppError("invalid_argument", `the repository's ${JSON.stringify(path.slice(0, 200))} ${why}`, {
		field: "source",
	});
}

/**
 * What of a commit is written to disk: files and folders, by the rules that uploaded archives are unpacked by. Nothing is run
 * and nothing converted on the way: no hooks, no filters (a file in Git LFS stays the pointer that it is), no line ends.
 *
 * A symbolic link that leads out of the repository is refused. One to a file or a folder in it becomes a copy of that, counted
 * against the limits; one that leads to nothing is left out. A submodule becomes an empty folder, as `git clone` leaves it.
 */
export async function planContents(
	workspace: GitWorkspace,
	commit: string,
	limits: ContentLimits,
	signal: AbortSignal,
): Promise<Contents> {
	const listed = await list(workspace, commit, limits, signal);
	const files = expand(listed, limits);
	const names = new EntryNames(limits);
	const folders: string[] = [];
	let bytes = 0;
	try {
		for (const path of listed.modules) folders.push(...names.add(path, "directory").folders);
		for (const file of files) {
			folders.push(...names.add(file.path, "file").folders);
			bytes += file.size;
			if (bytes > limits.bytes)
				throw new AppError("invalid_argument", `the archive has more than ${limits.bytes} bytes of files`);
		}
	} catch (error) {
		if (!isAppError(error, "invalid_argument")) throw error;
		const { hint } = error;
		throw new AppError("invalid_argument", error.message.replace("the archive", "the repository"), {
			field: "source",
			cause: error,
			...(hint === undefined ? {} : { hint }),
		});
	}
	return { folders, files };
}

async function list(
	workspace: GitWorkspace,
	commit: string,
	limits: ContentLimits,
	signal: AbortSignal,
): Promise<Listed> {
	const output = await workspace.text(["ls-tree", "-r", "-z", "-l", "--full-tree", commit], signal);
	const files = new Map<string, Blob>();
	const linked: { path: string; hash: string }[] = [];
	const modules: string[] = [];
	for (const line of output.split("\0")) {
		if (line === "") continue;
		const [, mode, hash = "", size = "", path = ""] = /^(\d{6}) \w+ ([0-9a-f]{40}) +(\d+|-)\t(.*)$/s.exec(line) ?? [];
		if (files.size + linked.length + modules.length > limits.entries)
			throw new AppError("invalid_argument", `the repository has more than ${limits.entries} files`, {
				field: "source",
			});
		switch (mode) {
			case "100644":
			case "100664":
			case "100755":
				files.set(path, { hash, size: Number(size), executable: mode === "100755" });
				break;
			case "120000":
				if (Number(size) > LINK_LIMIT) throw refuse(path, "is a symbolic link that is too long");
				linked.push({ path, hash });
				break;
			case "160000":
				modules.push(path);
				break;
			default:
				throw refuse(path, "is of a kind that is not known");
		}
	}
	const links = new Map<string, string>();
	const targets = linked[Symbol.iterator]();
	await readBlobs(
		workspace,
		linked.map(({ hash }) => hash),
		signal,
		async (body) => {
			const { value } = targets.next();
			const chunks: Buffer[] = [];
			for await (const chunk of body) chunks.push(Buffer.from(chunk));
			if (value !== undefined) links.set(value.path, Buffer.concat(chunks).toString("utf8"));
		},
	);
	return { files, links, modules };
}

/** Every file that is written, in order of its path, with links replaced by what they lead to. */
function expand({ files, links }: Listed, limits: ContentLimits): ContentFile[] {
	const found: ContentFile[] = [...files].map(([path, blob]) => ({ path, ...blob }));
	if (links.size > 0) {
		const below = childrenOf(files, links);
		const copy = (from: string, to: string, depth: number) => {
			if (depth > LINK_DEPTH) throw refuse(to, "is a symbolic link that leads round in a circle or too far");
			const real = follow(from, links, depth);
			if (real === null) return;
			const file = files.get(real);
			if (file !== undefined) {
				found.push({ path: to, ...file });
				if (found.length > limits.entries)
					throw new AppError(
						"invalid_argument",
						`the repository's symbolic links make more than ${limits.entries} files`,
						{
							field: "source",
						},
					);
			}
			for (const name of below.get(real) ?? []) {
				const inner = real === "" ? name : `${real}/${name}`;
				copy(inner, `${to}/${name}`, links.has(inner) ? depth + 1 : depth);
			}
		};
		for (const path of links.keys()) copy(path, path, 1);
	}
	return found.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

/** Names in each folder, the root being the empty path. */
function childrenOf(files: ReadonlyMap<string, unknown>, links: ReadonlyMap<string, string>): Map<string, Set<string>> {
	const below = new Map<string, Set<string>>();
	for (const path of [...files.keys(), ...links.keys()])
		for (let at = path; at !== ""; ) {
			const cut = at.lastIndexOf("/");
			const parent = cut === -1 ? "" : at.slice(0, cut);
			const names = below.get(parent) ?? new Set<string>();
			below.set(parent, names.add(at.slice(cut + 1)));
			at = parent;
		}
	return below;
}

/** The path that `path` stands for once every link in it has been followed; null where links lead round in a circle. */
function follow(path: string, links: ReadonlyMap<string, string>, depth: number): string | null {
	let left = path.split("/");
	const done: string[] = [];
	for (let steps = depth; left.length > 0; ) {
		const [segment = "", ...rest] = left;
		left = rest;
		if (segment === "" || segment === ".") continue;
		if (segment === "..") {
			if (done.pop() === undefined) throw refuse(path, "is a symbolic link that leads out of the repository");
			continue;
		}
		const here = [...done, segment].join("/");
		const target = links.get(here);
		if (target === undefined) {
			done.push(segment);
			continue;
		}
		if (posix.isAbsolute(target) || /^[A-Za-z]:|\\/.test(target))
			throw refuse(
				here,
				`is a symbolic link that leads out of the repository, to ${JSON.stringify(target.slice(0, 200))}`,
			);
		if (++steps > LINK_DEPTH + depth) return null;
		left = [...target.split("/"), ...left];
	}
	return done.join("/");
}

/** Writes what was planned into the folder `into`, which is made. The caller removes it after an error. */
export async function writeContents(
	workspace: GitWorkspace,
	contents: Contents,
	into: string,
	signal: AbortSignal,
): Promise<void> {
	try {
		await mkdir(into, { mode: 0o755 });
		for (const folder of contents.folders) await mkdir(join(into, folder), { mode: 0o755 });
		const files = contents.files[Symbol.iterator]();
		await readBlobs(
			workspace,
			contents.files.map(({ hash }) => hash),
			signal,
			async (body) => {
				const { value } = files.next();
				if (value === undefined) throw new AppError("internal", "git gave more files than it was asked for");
				const mode = value.executable ? 0o755 : 0o644;
				await using file = await open(join(into, value.path), "wx", mode);
				for await (const chunk of body)
					for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at, chunk.length - at)).bytesWritten;
				await file.chmod(mode);
			},
		);
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOSPC" || code === "EDQUOT")
			throw new AppError("no_space", "the disk is full while fetching the source", { cause: error });
		if (code === "ENAMETOOLONG" || code === "EILSEQ" || code === "EEXIST")
			throw new AppError("invalid_argument", `the repository has a name that cannot be written here (${code})`, {
				field: "source",
				cause: error,
			});
		throw error;
	}
}

/** Gives each blob's bytes to `take`, in order; `take` reads them to their end. */
async function readBlobs(
	workspace: GitWorkspace,
	hashes: readonly string[],
	signal: AbortSignal,
	take: (body: AsyncIterable<Buffer>) => Promise<void>,
): Promise<void> {
	if (hashes.length === 0) return;
	await workspace.run(["cat-file", "--batch", "--buffer"], {
		signal,
		input: hashes.map((hash) => `${hash}\n`),
		read: async (output) => {
			const reader = new BatchReader(output);
			for (const hash of hashes) {
				if (signal.aborted) throw cancelled(signal);
				const header = await reader.line();
				const [, size] = new RegExp(`^${hash} blob (\\d+)$`).exec(header) ?? [];
				if (size === undefined) throw new GitFailure(`git has no file ${hash}`, null);
				await take(reader.bytes(Number(size)));
				await reader.line();
			}
		},
	});
}

/** Takes the output of `git cat-file --batch` apart. */
class BatchReader {
	readonly #chunks: AsyncIterator<Buffer>;
	#rest: Buffer = Buffer.alloc(0);

	constructor(output: AsyncIterable<Buffer>) {
		this.#chunks = output[Symbol.asyncIterator]();
	}

	async line(): Promise<string> {
		for (;;) {
			const end = this.#rest.indexOf(10);
			if (end !== -1) {
				const line = this.#rest.toString("latin1", 0, end);
				this.#rest = this.#rest.subarray(end + 1);
				return line;
			}
			if (this.#rest.length > 1024) throw new GitFailure("git gave no header", null);
			this.#rest = Buffer.concat([this.#rest, await this.#next()]);
		}
	}

	async *bytes(size: number): AsyncGenerator<Buffer> {
		for (let left = size; left > 0; ) {
			if (this.#rest.length === 0) this.#rest = await this.#next();
			const part = this.#rest.subarray(0, left);
			this.#rest = this.#rest.subarray(part.length);
			left -= part.length;
			yield part;
		}
	}

	async #next(): Promise<Buffer> {
		const { value, done } = await this.#chunks.next();
		if (done === true || value === undefined) throw new GitFailure("git ended too early", null);
		return value;
	}
}
