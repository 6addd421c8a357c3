import { join, normalize, resolve } from "node:path";
import { BuildError } from "../builder.ts";
import { readText } from "../launchers/text-file.ts";
import { invalid, isInside, kindOf, type NodePackage, record, shown } from "./package.ts";
import { parseStart } from "./start.ts";

export type Entry = {
	/** Relative to the source's root. */
	readonly file: string;
	/** For the build log: what named it, and what of it does not count. */
	readonly notes: readonly string[];
};

const EXTENSIONS = [".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx", ".jsx"];
/** Where there is nothing that names a file; `server.js` is npm's own default. */
const USUAL = ["server", "index", "main", "app", "src/server", "src/index", "src/main", "src/app"];
const COMPILED = ["dist", "build", "out", "lib"];
const SCRIPT = /\.[cm]?[jt]sx?$/;

/**
 * The file that the program starts with: what `scripts.start` names (`node server.js`, `tsx src/main.ts`); else package.json's
 * `main`, `exports`, `bin`; else one with a usual name. For compiled code that was not uploaded its source stands.
 * Rejects with BuildError `source_invalid` that says what was looked for.
 */
export async function findEntry(root: string, pack: NodePackage): Promise<Entry> {
	const tsconfig = await readText(pack.folder, "tsconfig.json");
	const find = (name: string) => fileFor(root, pack, name, tsconfig ?? "");
	const looked: string[] = [];
	const notes: string[] = [];
	const start = pack.start === undefined ? undefined : parseStart(pack.start);
	if (start !== undefined && "file" in start) {
		notes.push(...start.notes);
		const file = start.file === "." ? undefined : await find(start.file);
		if (file !== undefined) return entry(root, file, "scripts.start", start.file, notes);
		if (start.file !== ".")
			throw invalid(
				pack.file,
				`${pack.file} starts with ${start.file} (scripts.start: \`${pack.start}\`), and there is no such file, nor a source that it is compiled from; upload it, or name the one to start with`,
			);
	} else if (start !== undefined) looked.push(`scripts.start (\`${pack.start}\`: ${start.why})`);
	const named: (readonly [string, string | undefined])[] = [
		["main", pack.main],
		["exports", fromExports(pack.exports)],
		["bin", fromBin(pack.bin)],
	];
	for (const [field, name] of named) {
		if (name === undefined) continue;
		const file = await find(name);
		if (file !== undefined) return entry(root, file, field, name, notes);
		looked.push(`${field} (${name})`);
	}
	for (const name of USUAL) {
		const file = await find(name);
		if (file !== undefined) return entry(root, file, "its name", name, notes);
	}
	looked.push(`${USUAL.map((name) => `${name}.js`).join(", ")} and the same in TypeScript`);
	throw invalid(
		pack.file,
		`${pack.file} does not say what to start: looked for ${looked.join("; ")}. Add "scripts": { "start": "node FILE" } with a file of the source`,
	);
}

function entry(root: string, path: string, from: string, name: string, notes: readonly string[]): Entry {
	const file = shown(root, path);
	if (!SCRIPT.test(file))
		throw new BuildError(
			"source_invalid",
			`${file} (${from}) is no JavaScript or TypeScript file that could be started`,
		);
	return { file, notes: [`starts with ${file}, by ${from}${SCRIPT.test(name) ? "" : ` (${name})`}`, ...notes] };
}

async function fileFor(root: string, pack: NodePackage, name: string, tsconfig: string): Promise<string | undefined> {
	const own = normalize(name);
	for (const candidate of [own, ...sourcesOf(own, tsconfig)]) {
		const path = resolve(pack.folder, candidate);
		if (!isInside(root, path)) throw invalid(pack.file, `${pack.file} names ${name}, which is outside the source`);
		const found = await resolved(path);
		if (found !== undefined) return found;
	}
	return undefined;
}

/** As Node finds it, and its TypeScript source where only that is there. */
async function resolved(path: string): Promise<string | undefined> {
	if ((await kindOf(path)) === "file") return path;
	const stem = path.replace(/\.([cm]?)jsx?$/, "");
	const typed = stem === path ? [] : [".ts", ".mts", ".cts", ".tsx"].map((extension) => stem + extension);
	const candidates = [...EXTENSIONS.map((extension) => path + extension), ...typed];
	if ((await kindOf(path)) === "folder")
		candidates.push(...EXTENSIONS.map((extension) => join(path, `index${extension}`)));
	for (const candidate of candidates) if ((await kindOf(candidate)) === "file") return candidate;
	return undefined;
}

/** `dist/main.js` is compiled from `src/main.ts`, where tsconfig.json says so or by custom. */
function sourcesOf(name: string, tsconfig: string): string[] {
	const option = (key: string) => new RegExp(`^[^/\\n]*"${key}"\\s*:\\s*"([^"]+)"`, "m").exec(tsconfig)?.[1];
	const outDir = normalize(option("outDir") ?? "").replace(/\/$/, "");
	const folder = [outDir, ...COMPILED].find((out) => out !== "." && name.startsWith(`${out}/`));
	if (folder === undefined) return [];
	const rest = name.slice(folder.length + 1);
	return [...new Set([option("rootDir") ?? "src", "src", "."])].map((from) => join(from, rest));
}

function fromExports(value: unknown): string | undefined {
	if (typeof value === "string") return value;
	const entries = record(value);
	const inner = "." in entries ? entries["."] : entries;
	if (typeof inner === "string") return inner;
	for (const condition of ["node", "import", "require", "default"]) {
		const found = record(inner)[condition];
		if (found !== undefined) return fromExports(found);
	}
	return undefined;
}

/** One program; which of several is meant nobody could know. */
function fromBin(value: unknown): string | undefined {
	if (typeof value === "string") return value;
	const files = new Set(Object.values(record(value)));
	const [only] = files;
	return files.size === 1 && typeof only === "string" ? only : undefined;
}
