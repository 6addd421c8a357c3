import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { systemCode } from "../../errors.ts";
import { BuildError } from "../builder.ts";

/** What a build needs to know of a go.mod. */
export type GoModule = {
	/** Absolute path of its folder. */
	readonly folder: string;
	/** go.mod, relative to the source's root. */
	readonly file: string;
	/** The `go` directive: `1.21`, or undefined. */
	readonly goVersion: { readonly version: string; readonly line: number } | undefined;
	readonly vendored: boolean;
};

const MAX_GO_MOD = 4 * 1024 ** 2;
const MAX_SUGGESTIONS = 5;
const MAX_FOLDERS = 2000;

export async function isFolder(path: string): Promise<boolean> {
	return (await kindOf(path)) === "folder";
}

async function kindOf(path: string): Promise<"file" | "folder" | "none"> {
	try {
		return (await stat(path)).isDirectory() ? "folder" : "file";
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOENT" || code === "ENOTDIR") return "none";
		throw error;
	}
}

/** The folder of the nearest go.mod at or above `entrypoint`, never above `root`. */
export async function findModuleFolder(root: string, entrypoint: string): Promise<string | undefined> {
	let folder = join(root, entrypoint);
	for (;;) {
		if ((await kindOf(join(folder, "go.mod"))) === "file") return folder;
		if (folder === root || !isInside(root, folder)) return undefined;
		folder = dirname(folder);
	}
}

/** Reads what matters of a go.mod. Rejects with BuildError where it replaces a module by a folder outside the source. */
export async function readModule(root: string, folder: string): Promise<GoModule> {
	const path = join(folder, "go.mod");
	const file = relative(root, path).split(sep).join("/");
	if ((await stat(path)).size > MAX_GO_MOD) throw invalid(file, 0, `${file} is too large to be a go.mod`);
	const lines = (await readFile(path, "utf8")).split(/\r?\n/);
	let goVersion: GoModule["goVersion"];
	let block = "";
	for (const [index, text] of lines.entries()) {
		const words = tokens(text);
		if (block !== "" && words[0] === ")") block = "";
		else if (words[1] === "(" && words.length === 2) block = words[0] ?? "";
		else {
			const [verb, ...rest] = block === "" ? words : [block, ...words];
			if (verb === "go" && rest[0] !== undefined) goVersion = { version: rest[0], line: index + 1 };
			if (verb === "replace") refuseEscape(root, folder, file, index + 1, text, rest);
		}
	}
	return { folder, file, goVersion, vendored: (await kindOf(join(folder, "vendor", "modules.txt"))) === "file" };
}

function refuseEscape(
	root: string,
	folder: string,
	file: string,
	line: number,
	text: string,
	words: readonly string[],
) {
	const target = words[words.indexOf("=>") + 1];
	if (target === undefined || !words.includes("=>")) return;
	const local = target === "." || target === ".." || /^\.\.?[\\/]/.test(target) || isAbsolute(target);
	if (!local || isInside(root, resolve(folder, target))) return;
	throw invalid(
		file,
		line,
		`${file}:${line}: \`${text.trim()}\` points outside the source; move that module into the uploaded folder, or upload a folder that holds both`,
	);
}

function invalid(file: string, line: number, message: string): BuildError {
	return new BuildError("source_invalid", message, { diagnostics: [{ file, line, column: 0, message }] });
}

/** The words of a go.mod line: bare, "quoted" or `raw`; comments dropped. */
function tokens(text: string): string[] {
	const words: string[] = [];
	const pattern = /\s*(?:\/\/.*$|"((?:[^"\\]|\\.)*)"|`([^`]*)`|([()])|([^\s()"`]+))/gy;
	for (const [, quoted, raw, bracket, bare] of text.matchAll(pattern)) {
		const comment = bare?.indexOf("//") ?? -1;
		const word = quoted?.replace(/\\(.)/g, "$1") ?? raw ?? bracket ?? (comment >= 0 ? bare?.slice(0, comment) : bare);
		if (word !== undefined && word !== "") words.push(word);
		if (comment >= 0) break;
	}
	return words;
}

function isInside(root: string, path: string): boolean {
	const way = relative(root, path);
	return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

/** Folders of the source that hold `package main`, nearest to the root first; for words, so it gives up early. */
export async function mainFolders(root: string): Promise<string[]> {
	const found: string[] = [];
	const queue = ["."];
	for (let seen = 0; seen < MAX_FOLDERS && found.length < MAX_SUGGESTIONS; seen++) {
		const folder = queue.shift();
		if (folder === undefined) break;
		const entries = await readdir(join(root, folder), { withFileTypes: true });
		let isMain = false;
		for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
			const ignored = /^[._]|^(vendor|testdata|node_modules)$/.test(entry.name);
			if (entry.isDirectory() && !ignored) queue.push(folder === "." ? entry.name : `${folder}/${entry.name}`);
			if (!isMain && entry.isFile() && /^[^._].*(?<!_test)\.go$/.test(entry.name))
				isMain = await saysMain(join(root, folder, entry.name));
		}
		if (isMain) found.push(folder);
	}
	return found;
}

async function saysMain(path: string): Promise<boolean> {
	if ((await stat(path)).size > MAX_GO_MOD) return false;
	const text = await readFile(path, "utf8");
	// No \s: it goes on over the lines' ends, from each line again, and a file of empty lines takes hours.
	return /^[ \t]*package[ \t]+main\b/m.test(text) && !/^\/\/go:build ignore\b/m.test(text);
}

/** Whether toolchain `have` (`go1.26.8`) is older than `needed` (`1.27`, `1.27rc1`). Unknown forms are left to Go. */
export function isOlder(have: string, needed: string): boolean {
	const [a, b] = [numbers(have), numbers(needed)];
	if (a === undefined || b === undefined) return false;
	for (const [index, part] of b.entries()) {
		const own = a[index] ?? 0;
		if (own !== part) return own < part;
	}
	return false;
}

function numbers(version: string): number[] | undefined {
	const match = /^(?:go)?(\d+)\.(\d+)(?:\.(\d+))?/.exec(version);
	return match === null ? undefined : match.slice(1).map((part) => Number(part ?? 0));
}
