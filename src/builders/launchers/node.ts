import { existsSync } from "node:fs";
import { rename } from "node:fs/promises";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Detected, Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { install } from "../node/install.ts";
import { findNpm, type Npm } from "../node/npm.ts";
import { shell } from "./shell-command.ts";
import { readText } from "./text-file.ts";
import { inPlace, type Tools } from "./tools.ts";

const LOCK = "package-lock.json";

/** A package.json with a start script. Dependencies are installed without their install scripts. */
export class NodeLauncher implements Launcher {
	readonly name = "node";
	readonly markers = ["package.json"];
	readonly #tools: Tools;
	#npm: Npm | undefined;

	constructor(tools: Tools) {
		this.#tools = tools;
	}

	/** A package.json may be there for another's sake: one without a start script is left to the others. */
	async detect(root: string, entrypoint: string): Promise<Detected> {
		try {
			return (await manifestOf(root, entrypoint)) !== undefined;
		} catch (error) {
			if (error instanceof BuildError && error.code === "source_invalid") return { lacking: error.message };
			throw error;
		}
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const folder = path.join(root, options.entrypoint);
		const manifest = await manifestOf(root, options.entrypoint);
		if (manifest === undefined) throw new BuildError("source_invalid", `${options.entrypoint} has no package.json`);
		const { start, dependencies } = manifest;
		const bin = path.join(folder, "node_modules", ".bin");
		const before = `PATH='${bin.replaceAll("'", "'\\''")}':"$PATH"; export PATH; `;
		const command = await shell(start, `scripts.start of ${manifest.file}`, call, before);
		if (Object.keys(dependencies ?? {}).length > 0) await this.#install(root, folder, options.namespace, call);
		call.log(`start: ${start}`);
		return { command, folder: options.entrypoint, launcher: this.name, requires: "node" };
	}

	async #install(root: string, folder: string, namespace: string, call: Call & { readonly log: BuildLog }) {
		const tools = this.#tools;
		const { sandbox } = tools;
		this.#npm ??= await findNpm(tools.npmCommand ?? "npm", tools.serverEnv, call);
		const npm = this.#npm;
		const lock = existsSync(path.join(folder, LOCK)) ? { file: LOCK } : undefined;
		await inPlace(tools, { namespace, kind: "npm" }, async ({ home, cache, env }) => {
			const plan = { npm, lock, folder, tree: root, cache, env, writes: [home], scripts: false };
			if (sandbox.name === "none") return install({ ...plan, repositories: true }, sandbox, call);
			return without(path.join(folder, ".npmrc"), path.join(home, "npmrc"), call.log, () =>
				install(plan, sandbox, call),
			);
		});
	}
}

/** A project's settings could have npm print the operator's: `registry=https://…/${TOKEN}`. */
async function without(file: string, aside: string, log: BuildLog, work: () => Promise<void>): Promise<void> {
	if (!existsSync(file)) return work();
	log(`${path.basename(file)} of the source is left out`);
	await rename(file, aside);
	try {
		await work();
	} finally {
		await rename(aside, file);
	}
}

/** What is needed of the package.json, or undefined where there is none. BuildError `source_invalid` says what it lacks. */
async function manifestOf(root: string, entrypoint: string) {
	const file = path.posix.join(entrypoint, "package.json");
	const text = await readText(root, file);
	if (text === undefined) return undefined;
	const manifest = parse(text, file);
	const start = member(member(manifest, "scripts"), "start");
	if (typeof start !== "string" || start.trim() === "")
		throw new BuildError("source_invalid", `${file} has no scripts.start; add "scripts": { "start": "node main.js" }`);
	return { file, start, dependencies: member(manifest, "dependencies") };
}

function parse(text: string, file: string): unknown {
	try {
		return JSON.parse(text);
	} catch (cause) {
		throw new BuildError("source_invalid", `${file} is not JSON`, { cause });
	}
}

function member(value: unknown, name: string): unknown {
	if (typeof value !== "object" || value === null) return undefined;
	return Object.entries(value).find(([key]) => key === name)?.[1];
}
