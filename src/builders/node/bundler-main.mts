import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import type { BuildOptions, Message, Metafile, PartialMessage, Plugin } from "esbuild";

/**
 * Runs inside the sandbox: bundles what others wrote, by esbuild, and says in `<out>/result.json` how it went; the program
 * is `<out>/program`. It is all by itself: nothing else of the server's files is there. One argument, JSON of `Plan`.
 */
type Plan = {
	/** esbuild's main module. */
	readonly esbuild: string;
	/** Holds source and dependencies; all paths in the result are relative to it. */
	readonly tree: string;
	readonly entry: string;
	readonly format: "esm" | "cjs";
	readonly target: string;
	readonly banners: { readonly esm: string; readonly cjs: string };
	readonly out: string;
};
type Native = { readonly package: string; readonly why: string };
type Manifest = {
	readonly name?: string;
	readonly version?: string;
	readonly gypfile?: boolean;
	readonly cpu?: unknown;
	readonly optionalDependencies?: Readonly<Record<string, string>>;
	readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
};

const MAX_MESSAGES = 200;
const HASHBANG = "#!/usr/bin/env node\n";
/** Meant for people, and off by default in packages. */
const WARNED = ["unsupported-require-call", "require-resolve-not-external", "empty-import-meta"];
const TOP_LEVEL_AWAIT = /^Top-level await is (currently )?not supported with the "cjs"|contains a top-level await/;
const LOADERS = new Set(["bindings", "node-gyp-build", "node-pre-gyp", "@mapbox/node-pre-gyp", "pkg-prebuilds"]);

const plan: Plan = JSON.parse(process.argv[2] ?? "{}");
const { build }: typeof import("esbuild") = createRequire(import.meta.url)(plan.esbuild);
const entryFile = join(plan.tree, plan.entry);
const entryText = readFileSync(entryFile, "utf8");
const manifests = new Map<string, Manifest>();
const leftOut: PartialMessage[] = [];
const addons = new Map<string, Native>();

function manifestOf(folder: string): Manifest {
	let manifest = manifests.get(folder);
	if (manifest === undefined) {
		try {
			manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) ?? {};
		} catch {
			manifest = {};
		}
		manifests.set(folder, manifest ?? {});
	}
	return manifest ?? {};
}

/** The folder of the package that a file below node_modules belongs to. */
function packageOf(file: string): string | undefined {
	return /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/|$)/s.exec(file)?.[0];
}

function installed(name: string, from: string): string | undefined {
	for (let folder = from; ; folder = dirname(folder)) {
		const candidate = join(folder, "node_modules", name);
		if (existsSync(join(candidate, "package.json"))) return candidate;
		if (folder === plan.tree || folder === dirname(folder)) return undefined;
	}
}

function nativeReason(folder: string): string | undefined {
	const manifest = manifestOf(folder);
	if (existsSync(join(folder, "binding.gyp")) || manifest.gypfile === true) return "is compiled when it is installed";
	if (existsSync(join(folder, "prebuilds"))) return "comes with compiled code (its folder prebuilds)";
	for (const name of Object.keys(manifest.optionalDependencies ?? {})) {
		const part = installed(name, folder);
		if (part !== undefined && manifestOf(part).cpu !== undefined) return `needs compiled code (its part ${name})`;
	}
	return undefined;
}

function titleOf(folder: string): string {
	const { name = relative(plan.tree, folder), version } = manifestOf(folder);
	return version === undefined ? name : `${name}@${version}`;
}

function said(text: string, importer: string): PartialMessage {
	return { text, location: { file: relative(plan.tree, importer) } };
}

const nativeAddons: Plugin = {
	name: "native-addons",
	setup: ({ onResolve }) => {
		onResolve({ filter: /\.node$/ }, ({ path, resolveDir, importer }) => {
			const file = path.startsWith(".") ? join(resolveDir, path) : (installed(path, resolveDir) ?? join("/", path));
			if (!existsSync(file)) leftOut.push(said(`the native addon ${path} is not there and is left out`, importer));
			else {
				const folder = packageOf(file);
				const native = { package: folder === undefined ? relative(plan.tree, file) : titleOf(folder) };
				addons.set(native.package, { ...native, why: `loads ${relative(plan.tree, file)}` });
			}
			return { path, external: true };
		});
		// What does without an optional package can do without a native one.
		onResolve({ filter: /^[^./]/ }, ({ path, importer, resolveDir, kind }) => {
			if (kind === "entry-point" || importer === "") return undefined;
			const name = /^(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? path;
			const owner = packageOf(importer);
			if (owner === undefined) return undefined;
			const { optionalDependencies, peerDependenciesMeta } = manifestOf(owner);
			const optional = optionalDependencies?.[name] !== undefined || peerDependenciesMeta?.[name]?.optional === true;
			const folder = optional ? installed(name, resolveDir) : undefined;
			if (folder === undefined || nativeReason(folder) === undefined) return undefined;
			leftOut.push(
				said(`${titleOf(owner)} can do without ${titleOf(folder)}, which is native and is left out`, importer),
			);
			return { path, external: true };
		});
	},
};

/** In a bundle a CommonJS entry has a `module` of its own, which is never `require.main`. Positions stay as they are. */
const mainModule: Plugin = {
	name: "main-module",
	setup: ({ onLoad }) => {
		const filter = new RegExp(`^${entryFile.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`);
		onLoad({ filter }, () => {
			const padded = (word: string, whole: string) => word + " ".repeat(Math.max(0, whole.length - word.length));
			const contents = entryText
				.replaceAll(/\brequire\.main ?={2,3} ?module\b/g, (whole) => padded("true", whole))
				.replaceAll(/\brequire\.main ?!={1,2} ?module\b/g, (whole) => padded("false", whole));
			return contents === entryText ? undefined : { contents, loader: "default" };
		});
	},
};

function optionsFor(format: "esm" | "cjs"): BuildOptions & { metafile: true; write: false } {
	const define: Record<string, string> =
		format === "esm"
			? { __filename: "globalThis.__bundle.filename", __dirname: "globalThis.__bundle.dirname" }
			: {
					"import.meta.url": "globalThis.__bundle.url",
					"import.meta.filename": "__filename",
					"import.meta.dirname": "__dirname",
				};
	return {
		absWorkingDir: plan.tree,
		entryPoints: [plan.entry.startsWith(".") ? plan.entry : `./${plan.entry}`],
		// Beside the sources, for the sake of the paths in the source map. Nothing is written there.
		outfile: join(plan.tree, "program"),
		...{ bundle: true, platform: "node", target: plan.target, format, keepNames: true, charset: "utf8" },
		...{ sourcemap: "inline", sourcesContent: false, metafile: true, write: false, logLevel: "silent", logLimit: 0 },
		// Without it esbuild would take `module`, which Node does not.
		conditions: [],
		mainFields: ["main"],
		loader: { ".node": "empty" },
		banner: { js: (entryText.startsWith("#!") ? "" : HASHBANG) + plan.banners[format] },
		define,
		logOverride: Object.fromEntries(WARNED.map((id) => [id, "warning"])),
		plugins: [nativeAddons, ...(format === "cjs" ? [mainModule] : [])],
	};
}

async function bundle(format: "esm" | "cjs"): Promise<void> {
	leftOut.length = 0;
	try {
		const { outputFiles, metafile, warnings } = await build(optionsFor(format));
		const text = Buffer.from(outputFiles?.[0]?.contents ?? []);
		const isOther = entryText.startsWith("#!");
		const body = isOther ? text.subarray(text.indexOf("\n") + 1) : text;
		writeFileSync(join(plan.out, "program"), isOther ? Buffer.concat([Buffer.from(HASHBANG), body]) : body);
		finish({ format, errors: [], warnings: [...warnings, ...leftOut], ...inspected(metafile) });
	} catch (error) {
		const errors: readonly Message[] = error instanceof Error && "errors" in error ? (error.errors as Message[]) : [];
		if (errors.length === 0) throw error;
		if (format === "cjs" && errors.every(({ text }) => TOP_LEVEL_AWAIT.test(text))) return bundle("esm");
		const natives = [...addons.values()];
		finish({ format, errors, warnings: [], natives, escaped: [], own: [], bytes: 0 });
	}
}

/** What cannot be seen from the messages. */
function inspected(metafile: Metafile) {
	const natives = new Map(addons);
	const escaped: string[] = [];
	const own: string[] = [];
	const packages = new Set<string>();
	for (const path of Object.keys(metafile.inputs)) {
		const file = path.replace(/^\(disabled\):/, "");
		if (file.startsWith("../") || file.startsWith("/")) escaped.push(file);
		const folder = packageOf(join(plan.tree, file));
		if (folder !== undefined) packages.add(folder);
		else if (
			/__dirname|import\.meta\.dirname|new URL\([^)]*import\.meta\.url/.test(
				readFileSync(join(plan.tree, file), "utf8"),
			)
		)
			own.push(file);
	}
	for (const folder of packages) {
		const why = LOADERS.has(manifestOf(folder).name ?? "") ? undefined : nativeReason(folder);
		if (why !== undefined) natives.set(titleOf(folder), { package: titleOf(folder), why });
	}
	return { natives: [...natives.values()], escaped, own, inputs: Object.keys(metafile.inputs).length };
}

function finish(result: Record<string, unknown> & { errors: readonly Message[]; warnings: readonly PartialMessage[] }) {
	const short = ({ text = "", location, notes = [] }: PartialMessage) => ({
		text: text.slice(0, 2000),
		file: location?.file ?? "",
		line: location?.line ?? 0,
		column: location?.line === undefined ? 0 : (location.column ?? 0) + 1,
		notes: notes.slice(0, 5).map((note) => (note.text ?? "").slice(0, 500)),
	});
	const errors = result.errors.slice(0, MAX_MESSAGES).map(short);
	const warnings = result.warnings.slice(0, MAX_MESSAGES).map(short);
	const more = Math.max(0, result.warnings.length - MAX_MESSAGES);
	writeFileSync(join(plan.out, "result.json"), JSON.stringify({ ...result, errors, warnings, more }));
}

await bundle(plan.format);
