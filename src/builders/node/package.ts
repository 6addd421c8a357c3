import { readFile, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, relative, sep } from "node:path";
import { systemCode } from "../../errors.ts";
import { BuildError } from "../builder.ts";

/** A package.json, as far as a build needs it. */
export type NodePackage = {
	/** Absolute path of its folder. */
	readonly folder: string;
	/** package.json, relative to the source's root. */
	readonly file: string;
	readonly type: "module" | "commonjs";
	readonly main: string | undefined;
	readonly exports: unknown;
	readonly bin: unknown;
	readonly start: string | undefined;
	/** Names and what is asked of each; `optional` ones among them. */
	readonly dependencies: ReadonlyMap<string, string>;
	readonly devDependencies: ReadonlyMap<string, string>;
	readonly hasWorkspaces: boolean;
	/** `"runtime": { "installScripts": true }`. */
	readonly installScripts: boolean;
};

const MAX_MANIFEST = 1024 ** 2;

/** What is at a path, links not told apart. */
export async function kindOf(path: string): Promise<"file" | "folder" | "none"> {
	try {
		const found = await stat(path);
		return found.isDirectory() ? "folder" : found.isFile() ? "file" : "none";
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOENT" || code === "ENOTDIR" || code === "ENAMETOOLONG") return "none";
		throw error;
	}
}

export function isInside(root: string, path: string): boolean {
	const way = relative(root, path);
	return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

/** As people write it: relative to the source's root, `/`-separated, `.` for the root. */
export function shown(root: string, path: string): string {
	return relative(root, path).split(sep).join("/") || ".";
}

/** The nearest folder at or above `from`, never above `root`, that holds one of these files, and which. */
export async function findAbove(
	root: string,
	from: string,
	names: readonly string[],
): Promise<{ readonly folder: string; readonly name: string } | undefined> {
	for (let folder = from; isInside(root, folder); folder = dirname(folder)) {
		for (const name of names) if ((await kindOf(join(folder, name))) === "file") return { folder, name };
		if (folder === root) return undefined;
	}
	return undefined;
}

/** The nearest package.json at or above a folder. Rejects with BuildError `source_invalid` where it is broken. */
export async function readPackage(root: string, from: string): Promise<NodePackage | undefined> {
	const found = await findAbove(root, from, ["package.json"]);
	if (found === undefined) return undefined;
	const path = join(found.folder, found.name);
	const file = shown(root, path);
	const manifest = record(await readJson(path, file, MAX_MANIFEST));
	const runtime = record(manifest.runtime);
	const { installScripts = false } = runtime;
	if (typeof installScripts !== "boolean") throw invalid(file, `${file}: runtime.installScripts must be true or false`);
	const start = record(manifest.scripts).start;
	return {
		...{ folder: found.folder, file, installScripts },
		type: manifest.type === "module" ? "module" : "commonjs",
		main: typeof manifest.main === "string" && manifest.main !== "" ? manifest.main : undefined,
		...{ exports: manifest.exports, bin: manifest.bin },
		start: typeof start === "string" && start.trim() !== "" ? start.trim() : undefined,
		dependencies: new Map([...texts(manifest.dependencies), ...texts(manifest.optionalDependencies)]),
		devDependencies: new Map(texts(manifest.devDependencies)),
		hasWorkspaces: manifest.workspaces !== undefined,
	};
}

/** JSON of a stranger's: of limited size, and an error that names the file. */
export async function readJson(path: string, file: string, most: number): Promise<unknown> {
	const { size } = await stat(path);
	if (size > most) throw invalid(file, `${file} has ${size} bytes, and at most ${most} are read`);
	const text = await readFile(path, "utf8");
	try {
		return JSON.parse(text.replace(/^\uFEFF/, ""));
	} catch (cause) {
		throw invalid(file, `${file} is not JSON: ${cause instanceof Error ? cause.message : ""}`);
	}
}

export function invalid(file: string, message: string): BuildError {
	return new BuildError("source_invalid", message, { diagnostics: [{ file, line: 0, column: 0, message }] });
}

/** The members of a JSON object; of anything else none. */
export function record(value: unknown): Readonly<Record<string, unknown>> {
	return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
}

function texts(value: unknown): [string, string][] {
	return Object.entries(record(value)).flatMap(([name, text]) => (typeof text === "string" ? [[name, text]] : []));
}
