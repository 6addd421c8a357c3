import { closeSync, existsSync, openSync, readdirSync, readSync } from "node:fs";
import { dirname, join } from "node:path";
import { type CliError, hints, usage } from "../errors.ts";
import { quote } from "../format.ts";
import { display, type LocalSource } from "./root.ts";

export type BuilderInfo = { readonly name: string; readonly markers: readonly string[] };

/** What a server builds as far as we know without asking one. */
export const KNOWN_BUILDERS: readonly BuilderInfo[] = [
	{ name: "go", markers: ["go.mod"] },
	{ name: "node", markers: ["package.json"] },
];

/** What a server without builders (profile dev) runs. */
const RUN_IN_PLACE = ["Procfile", "main.py"];

/** Where a marker above the folder counts, since the folder holds files of that kind. */
const PROGRAM_FILES: Readonly<Record<string, RegExp>> = {
	"go.mod": /(?<!_test)\.go$/,
	"package.json": /\.[cm]?[jt]s$/,
	"Cargo.toml": /\.rs$/,
	"pyproject.toml": /\.py$/,
	"requirements.txt": /\.py$/,
};

/** The builder that a folder is for, or undefined. */
export function builderOf(
	source: Pick<LocalSource, "folder" | "root">,
	builders: readonly BuilderInfo[],
): string | undefined {
	const names = filesOf(source.folder);
	for (const { name, markers } of builders) {
		for (const marker of markers) {
			const program = PROGRAM_FILES[marker];
			const here = names.has(marker);
			// A go.mod alone is a module's root; its programs are in folders with Go files.
			if (here && (marker !== "go.mod" || program === undefined || some(names, program))) return name;
			if (!here && program !== undefined && some(names, program) && above(source, marker)) return name;
		}
	}
	return undefined;
}

/** The refusal for a folder without anything to build, with what there is nearby. Done before anything is sent. */
export function nothingToBuild(source: LocalSource, builders: readonly BuilderInfo[], cwd: string): CliError {
	const markers = [...new Set(builders.flatMap((builder) => builder.markers))];
	const here = markers.filter((marker) => existsSync(join(source.folder, marker)));
	const why = here.length > 0 ? `${here.join(", ")}, but no program beside it` : `no ${markers.join(", ")}`;
	const where = display(source.folder, cwd);
	const inPlace = RUN_IN_PLACE.filter((file) => !markers.includes(file) && existsSync(join(source.folder, file)));
	if (inPlace.length > 0)
		return usage(`Nothing to build in ${where} (${why})`, [
			`Its ${inPlace.join(" and ")} is run as it is by a server of profile dev:  runtime server --profile dev`,
		]);
	const near = programsBelow(source, builders).map((folder) => display(folder, cwd));
	const first = near[0];
	if (first === undefined)
		return usage(`Nothing to build in ${where} (${why})`, ["Try:  runtime run ./FOLDER, with the folder of a program"]);
	return usage(`Nothing to build in ${where} (${why})`, [
		...hints([["Found nearby", near.slice(0, 5).join("  ") + (near.length > 5 ? "  …" : "")]]),
		...hints([["Try", `runtime run ${quote(first)}`]]),
	]);
}

const SKIPPED = new Set(["node_modules", "vendor", "testdata", "dist", "internal"]);
const MOST_FOLDERS = 2000;

/** Folders that would build: first below the one that was meant, then anywhere in the root. */
function programsBelow(source: LocalSource, builders: readonly BuilderInfo[]): string[] {
	const found: string[] = [];
	let looked = 0;
	for (const start of source.root === source.folder ? [source.folder] : [source.folder, source.root]) {
		if (found.length > 0) break;
		let level = [start];
		for (let depth = 0; depth < 5 && level.length > 0 && found.length <= 5; depth++) {
			const next: string[] = [];
			for (const folder of level) {
				looked += 1;
				if (looked > MOST_FOLDERS) return found;
				if (!found.includes(folder) && isProgram(folder, source.root, builders)) found.push(folder);
				for (const entry of entriesOf(folder)) {
					if (entry.isDirectory() && !entry.name.startsWith(".") && !SKIPPED.has(entry.name))
						next.push(join(folder, entry.name));
				}
			}
			level = next.sort();
		}
	}
	return found;
}

function isProgram(folder: string, root: string, builders: readonly BuilderInfo[]): boolean {
	const builder = builderOf({ folder, root }, builders);
	const names = filesOf(folder);
	if (builder !== "go")
		return (
			folder !== root &&
			builders.some(({ name, markers }) => name === builder && markers.some((marker) => names.has(marker)))
		);
	return [...names].some((name) => /(?<!_test)\.go$/.test(name) && isMainPackage(join(folder, name)));
}

function isMainPackage(path: string): boolean {
	const buffer = Buffer.alloc(8192);
	const file = openSync(path, "r");
	try {
		return /^package\s+main\b/m.test(buffer.toString("utf8", 0, readSync(file, buffer, 0, buffer.length, 0)));
	} finally {
		closeSync(file);
	}
}

function above(source: Pick<LocalSource, "folder" | "root">, marker: string): boolean {
	for (let at = source.folder; at !== source.root; ) {
		at = dirname(at);
		if (existsSync(join(at, marker))) return true;
		if (dirname(at) === at) return false;
	}
	return false;
}

function some(names: ReadonlySet<string>, pattern: RegExp): boolean {
	for (const name of names) if (pattern.test(name)) return true;
	return false;
}

function filesOf(folder: string): Set<string> {
	return new Set(
		entriesOf(folder)
			.filter((entry) => entry.isFile())
			.map((entry) => entry.name),
	);
}

/** A folder that may not be read holds nothing that can be suggested. */
function entriesOf(folder: string) {
	try {
		return readdirSync(folder, { withFileTypes: true });
	} catch {
		return [];
	}
}
