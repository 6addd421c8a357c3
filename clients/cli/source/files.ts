import { isUtf8 } from "node:buffer";
import { spawn } from "node:child_process";
import { lstatSync, readdirSync, type Stats } from "node:fs";
import { join } from "node:path";
import { CliError, systemCode, usage } from "../errors.ts";
import { IgnoreFiles } from "./ignored.ts";

export type SourceFile = {
	/** Relative to the root, `/`-separated. */
	readonly path: string;
	readonly absolute: string;
	/** Bytes when it was listed. */
	readonly size: number;
	readonly executable: boolean;
};

export type SourceFiles = {
	/** In byte order of their paths. */
	readonly files: readonly SourceFile[];
	readonly size: number;
	/** Left out with a word: symbolic links, sockets, names that are no UTF-8. */
	readonly skipped: readonly { readonly path: string; readonly why: string }[];
	/** How the list was made; for `-v`. */
	readonly by: "git" | "walk";
};

/**
 * What is uploaded of a root: what git has or would take (`git ls-files`), or without git what `.gitignore` files leave;
 * and of that, what `.runtimeignore` files leave. Never `.git`; without git no `node_modules` beside a package.json.
 */
export async function listFiles(root: string, signal: AbortSignal): Promise<SourceFiles> {
	const listed = await gitFiles(root, signal);
	const list = new Listing(root);
	if (listed === undefined) list.walk("", new IgnoreFiles(root, ".gitignore"));
	else await list.addGit("", listed, signal);
	return list.finish(listed === undefined ? "walk" : "git");
}

class Listing {
	readonly #root: string;
	readonly #unwanted: IgnoreFiles;
	readonly #files = new Map<string, SourceFile>();
	readonly #skipped: { path: string; why: string }[] = [];

	constructor(root: string) {
		this.#root = root;
		this.#unwanted = new IgnoreFiles(root, ".runtimeignore");
	}

	async addGit(prefix: string, paths: readonly Buffer[], signal: AbortSignal): Promise<void> {
		for (const raw of paths) {
			const path = prefix + raw.toString("utf8").replace(/\/$/, "");
			if (!isUtf8(raw)) this.#skipped.push({ path, why: "its name is not UTF-8" });
			else if (!isGit(path) && !this.#unwanted.ignores(path)) {
				const stats = statOf(join(this.#root, path));
				// A submodule, or a repository inside this one: git names its folder only.
				if (stats?.isDirectory()) await this.#addInner(`${path}/`, signal);
				else if (stats !== undefined) this.#add(path, stats);
			}
		}
	}

	async #addInner(folder: string, signal: AbortSignal): Promise<void> {
		if (this.#unwanted.ignoresFolder(folder)) return;
		const inner = await gitFiles(join(this.#root, folder), signal);
		if (inner !== undefined) await this.addGit(folder, inner, signal);
		else this.walk(folder, new IgnoreFiles(this.#root, ".gitignore"));
	}

	walk(folder: string, ignored: IgnoreFiles): void {
		for (const raw of readdirSync(join(this.#root, folder), { withFileTypes: true, encoding: "buffer" })) {
			const path = folder + raw.name.toString("utf8");
			if (!isUtf8(raw.name)) this.#skipped.push({ path, why: "its name is not UTF-8" });
			else if (isGit(path)) continue;
			else if (raw.isDirectory()) {
				const inner = `${path}/`;
				if (isInstalled(this.#root, folder, raw.name.toString())) this.#skipped.push({ path, why: INSTALLED });
				else if (!ignored.ignoresFolder(inner) && !this.#unwanted.ignoresFolder(inner)) this.walk(inner, ignored);
			} else if (!ignored.ignores(path) && !this.#unwanted.ignores(path)) {
				const stats = statOf(join(this.#root, path));
				if (stats !== undefined) this.#add(path, stats);
			}
		}
	}

	#add(path: string, stats: Stats): void {
		if (stats.isSymbolicLink()) this.#skipped.push({ path, why: "a symbolic link" });
		else if (!stats.isFile()) this.#skipped.push({ path, why: "neither a file nor a folder" });
		else {
			const executable = (stats.mode & 0o100) !== 0;
			this.#files.set(path, { path, absolute: join(this.#root, path), size: stats.size, executable });
		}
	}

	finish(by: SourceFiles["by"]): SourceFiles {
		const files = [...this.#files.values()].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
		let size = 0;
		for (const file of files) size += file.size;
		if (files.length === 0) throw usage(`Every file in ${this.#root} is ignored`, ["Try:  runtime run --dry-run"]);
		return { files, size, skipped: this.#skipped, by };
	}
}

const INSTALLED = "the server installs packages itself";

/** What a .gitignore of nearly every project of Node names, where there is no git to read one. */
function isInstalled(root: string, folder: string, name: string): boolean {
	return name === "node_modules" && statOf(join(root, folder, "package.json")) !== undefined;
}

function isGit(path: string): boolean {
	return path === ".git" || path.endsWith("/.git") || path.startsWith(".git/") || path.includes("/.git/");
}

/** Undefined where git lists a file that is gone. */
function statOf(path: string): Stats | undefined {
	try {
		return lstatSync(path);
	} catch (error) {
		if (systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR") return undefined;
		throw error;
	}
}

const LONGEST_LIST = 512 * 1024 * 1024;

/** Undefined where this is no repository's own root, or there is no git, or git will not say. */
async function gitFiles(root: string, signal: AbortSignal): Promise<Buffer[] | undefined> {
	if (statOf(join(root, ".git")) === undefined) return undefined;
	const env: NodeJS.ProcessEnv = { LC_ALL: "C", GIT_OPTIONAL_LOCKS: "0" };
	// A hook that calls us has set these for its own repository.
	for (const [key, value] of Object.entries(process.env))
		if (!/^GIT_(DIR|WORK_TREE|INDEX_FILE|PREFIX)$/.test(key)) env[key] = value;
	const child = spawn("git", ["ls-files", "-coz", "--exclude-standard"], {
		cwd: root,
		env,
		stdio: ["ignore", "pipe", "ignore"],
		signal,
	});
	const done = new Promise<boolean>((resolve) => {
		child.once("error", () => resolve(false));
		child.once("close", (code) => resolve(code === 0));
	});
	const parts: Buffer[] = [];
	let total = 0;
	for await (const part of child.stdout) {
		const bytes = Buffer.from(part);
		total += bytes.length;
		if (total > LONGEST_LIST) throw new CliError("There are too many files to list", { code: "too_large" });
		parts.push(bytes);
	}
	const good = await done;
	signal.throwIfAborted();
	return good ? split(Buffer.concat(parts)) : undefined;
}

function split(list: Buffer): Buffer[] {
	const names: Buffer[] = [];
	for (let from = 0; from < list.length; ) {
		const end = list.indexOf(0, from);
		names.push(list.subarray(from, end < 0 ? list.length : end));
		from = end < 0 ? list.length : end + 1;
	}
	return names;
}

/** The biggest folders or files at the top, for the warning about a huge upload. */
export function biggest(
	files: readonly SourceFile[],
): { readonly path: string; readonly size: number; readonly files: number }[] {
	const sums = new Map<string, { size: number; files: number }>();
	for (const { path, size } of files) {
		const parts = path.split("/");
		const top = parts.length > 2 ? `${parts.slice(0, 2).join("/")}/` : path.includes("/") ? `${parts[0]}/` : path;
		const sum = sums.get(top) ?? { size: 0, files: 0 };
		sums.set(top, { size: sum.size + size, files: sum.files + 1 });
	}
	const list = [...sums].map(([path, sum]) => ({ path, ...sum }));
	const first = list.sort((a, b) => b.size - a.size || b.files - a.files).slice(0, 3);
	return first.filter((entry, index) => index === 0 || entry.size * 20 > (first[0]?.size ?? 0));
}
