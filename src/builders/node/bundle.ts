import { constants, existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf } from "../../errors.ts";
import { BuildError, type BuildLog, type Call, type Diagnostic } from "../builder.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { BANNERS } from "./banner.ts";
import { type NodePackage, record } from "./package.ts";

export type BundlePlan = {
	/** Absolute path of the folder with source and dependencies. */
	readonly tree: string;
	/** Relative to it. */
	readonly entry: string;
	readonly pack: NodePackage;
	/** Gets `program`; nothing else writes there. */
	readonly out: string;
	readonly env: Readonly<Record<string, string>>;
	/** Where temporary files may be. */
	readonly writes: readonly string[];
};

const MAX_RESULT = 8 * 1024 ** 2;
const MAX_DIAGNOSTICS = 100;
const MAX_SENTENCE = 400;

/** esbuild's module and its program for this machine. Rejects with BuildError `unavailable`. */
function findEsbuild(): { readonly main: string; readonly folder: string; readonly program: string } {
	try {
		const main = createRequire(import.meta.url).resolve("esbuild");
		const name = `@esbuild/${process.platform}-${process.arch}`;
		const program = createRequire(main).resolve(`${name}/bin/esbuild`);
		return { main, folder: dirname(dirname(main)), program };
	} catch (cause) {
		throw new BuildError(
			"unavailable",
			`esbuild is not installed for this machine (${messageOf(cause).split("\n")[0]}); install the server anew, optional dependencies included`,
			{ cause },
		);
	}
}

/** Bundles by esbuild, in the sandbox. Resolves when `<out>/program` is there; rejects with BuildError. */
export async function bundle(
	plan: BundlePlan,
	sandbox: Sandbox,
	call: Call & { readonly log: BuildLog },
): Promise<void> {
	const esbuild = findEsbuild();
	const { tree, entry, out, pack } = plan;
	const written = extname(import.meta.url) === ".ts" ? ".mts" : ".mjs";
	const script = fileURLToPath(new URL(`./bundler-main${written}`, import.meta.url));
	const format = formatOf(entry, pack);
	const target = `node${process.versions.node}`;
	let last = "";
	const ended = await sandbox.run(
		{
			file: process.execPath,
			args: [
				"--no-warnings",
				script,
				JSON.stringify({ esbuild: esbuild.main, tree, entry, format, target, banners: BANNERS, out }),
			],
			cwd: tree,
			env: { ...plan.env, ESBUILD_BINARY_PATH: esbuild.program },
			log: (line) => {
				if (line.trim() !== "") last = line.trim().replaceAll(`${tree}/`, "");
			},
			reads: [process.execPath, script, esbuild.folder, esbuild.program, tree],
			writes: [out, ...plan.writes],
			hosts: [],
		},
		call,
	);
	if (ended.ended !== undefined) throw new BuildError("build_failed", `bundling was ended: ${ended.ended}`);
	const result = await readResult(join(out, "result.json"));
	if (ended.exitCode !== 0 || result === undefined)
		throw new BuildError("build_failed", `esbuild ended with ${ended.exitCode}: ${last.slice(0, MAX_SENTENCE)}`, {
			exitCode: ended.exitCode,
		});
	report(result, plan, call.log);
}

/** As Node reads the file. */
function formatOf(entry: string, pack: NodePackage): "esm" | "cjs" {
	if (/\.m[jt]s$/.test(entry)) return "esm";
	return /\.c[jt]s$/.test(entry) || pack.type === "commonjs" ? "cjs" : "esm";
}

type Said = Diagnostic & { readonly notes: readonly string[] };
type Result = {
	readonly errors: readonly Said[];
	readonly warnings: readonly Said[];
	readonly more: number;
	readonly natives: readonly { readonly package: string; readonly why: string }[];
	readonly escaped: readonly string[];
	readonly own: readonly string[];
	readonly inputs: number;
};

/** What came out of the sandbox may be anything. */
async function readResult(path: string): Promise<Result | undefined> {
	if (!existsSync(path)) return undefined;
	await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
	const { size } = await file.stat();
	if (size > MAX_RESULT) return undefined;
	const { errors, warnings, natives, escaped, own, more, inputs } = record(JSON.parse(await file.readFile("utf8")));
	const number = (value: unknown) => (typeof value === "number" ? value : 0);
	return {
		...{ errors: messages(errors), warnings: messages(warnings), escaped: strings(escaped), own: strings(own) },
		...{ more: number(more), inputs: number(inputs) },
		natives: list(natives).map((native) => ({
			package: String(record(native).package),
			why: String(record(native).why),
		})),
	};
}

function messages(value: unknown): Said[] {
	return list(value).map((entry) => {
		const { text, file, line, column, notes } = record(entry);
		return {
			...{ message: String(text), file: String(file), line: Number(line) || 0, column: Number(column) || 0 },
			notes: strings(notes),
		};
	});
}

function list(value: unknown): readonly unknown[] {
	return Array.isArray(value) ? value : [];
}

function strings(value: unknown): string[] {
	return list(value).map(String);
}

function report(result: Result, plan: BundlePlan, log: BuildLog): void {
	for (const warning of result.warnings) log(`warning: ${line(warning)}`);
	if (result.more > 0) log(`warning: and ${result.more} more`);
	for (const file of result.own)
		log(`warning: ${file} uses its own place (__dirname, import.meta): files beside it are not in the build`);
	const [native] = result.natives;
	if (native !== undefined)
		throw new BuildError(
			"source_invalid",
			`${native.package} ${native.why}, and native addons cannot be put into one file that runs anywhere: use a package in plain JavaScript in its place` +
				(result.natives.length > 1
					? ` (as well as for ${result.natives
							.slice(1, 6)
							.map((other) => other.package)
							.join(", ")})`
					: ""),
		);
	const [escaped] = result.escaped;
	if (escaped !== undefined)
		throw new BuildError("source_invalid", `${plan.entry} reaches ${escaped}, which is outside the source`);
	if (result.errors.length === 0) {
		log(`bundled ${result.inputs} files`);
		return;
	}
	const diagnostics = result.errors.slice(0, MAX_DIAGNOSTICS).map((error) => explained(error, plan.pack));
	for (const diagnostic of diagnostics) log(line(diagnostic));
	const [first] = diagnostics;
	const more = result.errors.length > 1 ? ` (and ${result.errors.length - 1} more)` : "";
	const sentence = first === undefined ? "" : line(first);
	throw new BuildError("build_failed", `${sentence.slice(0, MAX_SENTENCE)}${more}`, { diagnostics });
}

function line({ file, line, column, message }: Diagnostic): string {
	const place = [file, line, column].filter((part) => part !== "" && part !== 0).join(":");
	return place === "" ? message : `${place}: ${message}`;
}

/** esbuild's advice is about its own options. */
function explained({ notes, ...error }: Said, pack: NodePackage): Diagnostic {
	const name = /^Could not resolve "((?:@[^/"]+\/)?[^./"][^/"]*)/.exec(error.message)?.[1];
	if (name === undefined) {
		const note = notes.find((text) => text !== "" && !/mark the path|esbuild|plugin/i.test(text));
		return note === undefined ? error : { ...error, message: `${error.message} (${note})` };
	}
	const hint = pack.devDependencies.has(name)
		? "it is in devDependencies, which are not installed: move it to dependencies"
		: pack.dependencies.has(name)
			? "it is in dependencies, but has no such file"
			: `add it with \`npm install ${name}\` and upload package.json and its lockfile`;
	return { ...error, message: `${error.message}: ${hint}` };
}
