import { existsSync, realpathSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { hints, usage } from "../errors.ts";
import { quote } from "../format.ts";

/** A folder that is to be built, and what is uploaded for it. */
export type LocalSource = {
	/** As it was typed. */
	readonly typed: string;
	/** Real path of the folder that was meant. */
	readonly folder: string;
	/** Real path of what is uploaded: a repository's root, or the nearest project's. */
	readonly root: string;
	/** The program's folder in `root`, `/`-separated; `.` is the root itself. */
	readonly entrypoint: string;
	/** From the folder's base name; undefined where nothing of it can be kept. */
	readonly name: string | undefined;
	/** True where `name` is not the base name itself. */
	readonly renamed: boolean;
};

const PROJECT_FILES = ["go.mod", "package.json"];

/** Like an address of a git repository, and not a folder here. */
export function looksRemote(typed: string): boolean {
	if (/^(https?|ssh|git|git\+ssh|file):\/\//i.test(typed) || /^[\w.-]+@[\w.-]+:/.test(typed)) return true;
	// A host has a dot in its name or a port behind it; nobody calls the first folder of a path like that.
	const host = /^([a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(:\d{1,5})?|[a-z0-9-]+(\.[a-z0-9-]+)*:\d{1,5})$/i;
	const [first = "", ...path] = typed.split("/");
	return host.test(first) && path.filter((part) => part !== "").length >= 2;
}

/**
 * Where the source is: the nearest folder upwards with `.git`, else with go.mod or package.json, else the folder itself.
 * Never `/` or the home folder: those are refused when they are typed, and passed over when a search would end there.
 */
export function locate(typed: string, cwd: string, env: NodeJS.ProcessEnv, entrypoint?: string): LocalSource {
	const folder = folderOf(typed, cwd);
	const forbidden = refusedFolders(env);
	refuse(folder, forbidden);
	const root = nearestWith(folder, [".git"], forbidden) ?? nearestWith(folder, PROJECT_FILES, forbidden) ?? folder;
	const program = entrypoint === undefined ? folder : programFolder(folder, root, entrypoint);
	const base = basename(folder);
	const name = validName(base);
	return {
		typed,
		folder: program,
		root,
		entrypoint: relative(root, program).split(sep).join("/") || ".",
		name,
		renamed: name !== base,
	};
}

function folderOf(typed: string, cwd: string): string {
	const path = resolve(cwd, typed);
	if (!existsSync(path)) {
		throw usage(
			`There is no folder ${typed}`,
			typed.startsWith(".") || isAbsolute(typed)
				? ["Try:  runtime run ./FOLDER, with the folder of a program"]
				: hints([
						["A folder", "runtime run ./FOLDER"],
						["A service of that name", `runtime status ${quote(typed)}`],
					]),
		);
	}
	if (!statSync(path).isDirectory()) {
		throw usage(`${typed} is a file; name its folder`, [`Try:  runtime run ${quote(display(dirname(path), cwd))}`]);
	}
	return realpathSync(path);
}

function programFolder(folder: string, root: string, entrypoint: string): string {
	const path = resolve(folder, entrypoint);
	if (!existsSync(path) || !statSync(path).isDirectory())
		throw usage(`--entrypoint: there is no folder ${entrypoint} in the source`);
	const real = realpathSync(path);
	if (real !== root && !real.startsWith(root + sep))
		throw usage(`--entrypoint: ${entrypoint} is outside of the source (${root})`);
	return real;
}

type Refused = ReadonlyMap<string, string>;

function refusedFolders(env: NodeJS.ProcessEnv): Refused {
	const refused = new Map<string, string>([[resolve("/"), "the whole file system"]]);
	for (const home of [env.HOME, homedir()]) {
		if (home === undefined || home === "" || !existsSync(home)) continue;
		const real = realpathSync(home);
		if (!refused.has(real)) refused.set(real, "your home folder");
	}
	return refused;
}

function refuse(folder: string, refused: Refused): void {
	const what = refused.get(folder);
	if (what === undefined) return;
	throw usage(`Refusing to upload ${what} (${folder})`, [
		"Try:  runtime run ./FOLDER",
		"with the folder of the program",
	]);
}

function nearestWith(folder: string, names: readonly string[], refused: Refused): string | undefined {
	for (let at = folder; ; at = dirname(at)) {
		if (!refused.has(at) && names.some((name) => existsSync(join(at, name)))) return at;
		if (dirname(at) === at) return undefined;
	}
}

/** Lower case; runs of anything else become `-`. */
export function validName(base: string): string | undefined {
	const name = base
		.toLowerCase()
		.replace(/[^a-z0-9]+/g, "-")
		.slice(0, 63)
		.replace(/^-+|-+$/g, "");
	return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name) ? name : undefined;
}

/** A path as it would be typed here: `./cmd/api`, `../x`, `.`. */
export function display(path: string, cwd: string): string {
	const way = relative(cwd, path);
	if (way === "") return ".";
	return way.startsWith("..") || isAbsolute(way) ? way : `.${sep}${way}`;
}
