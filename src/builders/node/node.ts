import { constants } from "node:fs";
import { cp, mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { basename, delimiter, dirname, join, relative, resolve } from "node:path";
import { cancelled } from "../../errors.ts";
import { removeTree } from "../../remove-tree.ts";
import {
	type Build,
	BuildError,
	type Builder,
	type BuildLog,
	type BuildOptions,
	type Call,
	type SourceTree,
} from "../builder.ts";
import { builtFile } from "../built-file.ts";
import { cacheFolderOf } from "../caches.ts";
import { OpenSandbox } from "../sandbox/open.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { bundle } from "./bundle.ts";
import { findEntry } from "./entry.ts";
import { install } from "./install.ts";
import { findLock, refuseForeign } from "./lockfile.ts";
import { findNpm, type Npm } from "./npm.ts";
import { findAbove, kindOf, readPackage, shown } from "./package.ts";

export type NodeBuilderOptions = {
	/** Holds the downloads that a namespace's builds share. Made where it does not exist. */
	readonly cacheFolder: string;
	/** Each build has a folder of its own below it while it runs; what is left there by a crash may be removed at a start. */
	readonly workFolder: string;
	/** Where npm and esbuild run; without it, with all that the server's user may do. */
	readonly sandbox?: Sandbox;
	/** A name that is looked up on the server's PATH, or an absolute path; `npm` by default. */
	readonly npmCommand?: string;
	/** What npm is asked in and its settings are read from; this process's own by default. */
	readonly serverEnv?: Readonly<Record<string, string | undefined>>;
};

const MARKER = "package.json";
const SYSTEM_PATH = ["/usr/local/bin", "/usr/bin", "/bin"];
/** Never of the source: what is installed, and what would configure npm. */
const LEFT_OUT = new Set(["node_modules", ".npmrc", ".git"]);

/** Bundles a package.json project, JavaScript or TypeScript, to one file that starts with `#!/usr/bin/env node`. */
export function createNodeBuilder(options: NodeBuilderOptions): Builder {
	return new NodeBuilder(options);
}

class NodeBuilder implements Builder {
	readonly name = "node";
	readonly markers = [MARKER];
	readonly #options: NodeBuilderOptions;
	readonly #sandbox: Sandbox;
	#npm: Npm | undefined;

	constructor(options: NodeBuilderOptions) {
		this.#options = options;
		this.#sandbox = options.sandbox ?? new OpenSandbox();
	}

	async detect(source: SourceTree, entrypoint: string, call: Call): Promise<boolean> {
		const root = await source.directory(call);
		return (await findAbove(root, join(root, entrypoint), [MARKER])) !== undefined;
	}

	async build(source: SourceTree, options: BuildOptions, call: Call & { readonly log: BuildLog }): Promise<Build> {
		const root = await source.directory(call);
		const from = join(root, options.entrypoint);
		if ((await kindOf(from)) !== "folder")
			throw new BuildError("source_invalid", `there is no folder ${options.entrypoint} in the source`);
		const pack = await readPackage(root, from);
		if (pack === undefined) {
			const where = options.entrypoint === "." ? "the source's root" : `${options.entrypoint} or a folder above it`;
			throw new BuildError("source_invalid", `there is no ${MARKER} in ${where}; run \`npm init\``);
		}
		const entry = await findEntry(root, pack);
		refuseForeign(root, pack);
		const lock = await findLock(root, pack, async () => {
			const { registries, replaced } = await this.#npmFor(call);
			return { registries: registries.map(({ origin }) => origin), replaced };
		});
		for (const name of Object.keys(options.env)) call.log(`${name} is not passed to the Node build`);
		for (const note of entry.notes) call.log(note);

		await mkdir(this.#options.workFolder, { recursive: true });
		const work = await mkdtemp(join(resolve(this.#options.workFolder), "node-"));
		const remove = () => removeTree(work);
		try {
			const [tree, out, home, tmp] = ["tree", "out", "home", "tmp"].map((name) => join(work, name));
			if (tree === undefined || out === undefined || home === undefined || tmp === undefined) throw new Error(work);
			for (const folder of [out, home, tmp]) await mkdir(folder);
			// A package.json or tsconfig.json further up must have no say.
			for (const name of [MARKER, "tsconfig.json"]) await writeFile(join(work, name), "{}\n");
			await copySource(root, tree, call);
			const env = { ...{ HOME: home, TMPDIR: tmp, LANG: "C.UTF-8", CI: "true" }, PATH: ownPath() };
			if (lock !== undefined) {
				const cache = join(cacheFolderOf(resolve(this.#options.cacheFolder), options.namespace, "npm"));
				await mkdir(cache, { recursive: true });
				const folder = join(tree, relative(root, lock.folder));
				const plan = { npm: await this.#npmFor(call), lock, folder, tree, cache, env, writes: [home, tmp] };
				await install({ ...plan, scripts: pack.installScripts }, this.#sandbox, call);
			}
			call.log(`bundling ${entry.file} (Node ${process.versions.node})`);
			await bundle({ tree, entry: entry.file, pack, out, env, writes: [home, tmp] }, this.#sandbox, call);
			return await builtFile(join(out, "program"), { builder: this.name, requires: "node", remove }, call);
		} catch (error) {
			await remove();
			throw error;
		}
	}

	/** Asked again after a failure: somebody may have installed it since. */
	async #npmFor(call: Call): Promise<Npm> {
		this.#npm ??= await findNpm(this.#options.npmCommand ?? "npm", this.#options.serverEnv ?? process.env, call);
		return this.#npm;
	}
}

function ownPath(): string {
	return [dirname(process.execPath), ...SYSTEM_PATH].join(delimiter);
}

/** npm and install scripts write beside what they read, and the source is not theirs. */
async function copySource(root: string, tree: string, call: Call & { readonly log: BuildLog }): Promise<void> {
	await cp(root, tree, {
		recursive: true,
		mode: constants.COPYFILE_FICLONE,
		filter: (path) => {
			if (call.signal.aborted) throw cancelled(call.signal);
			const left = LEFT_OUT.has(basename(path)) && path !== root;
			if (left && basename(path) !== ".git") call.log(`${shown(root, path)} of the source is left out`);
			return !left;
		},
	});
}
