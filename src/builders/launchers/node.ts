import { existsSync } from "node:fs";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Detected, Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { shell } from "./shell-command.ts";
import { readText } from "./text-file.ts";
import { runTool, type Tools } from "./tools.ts";

/** A package.json with a start script. Dependencies are installed without their install scripts. */
export class NodeLauncher implements Launcher {
	readonly name = "node";
	readonly markers = ["package.json"];
	readonly #tools: Tools;

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
		if (Object.keys(dependencies ?? {}).length > 0) {
			const locked = existsSync(path.join(folder, "package-lock.json"));
			const args = [locked ? "ci" : "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"];
			await runTool("npm", args, { cwd: folder, tools: this.#tools, install: "install Node.js with npm" }, call);
		}
		call.log(`start: ${start}`);
		const bin = path.join(folder, "node_modules", ".bin");
		return {
			command: shell(`PATH='${bin.replaceAll("'", "'\\''")}':"$PATH"; export PATH; ${start}`),
			folder: options.entrypoint,
			launcher: this.name,
			requires: "node",
		};
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
	return { start, dependencies: member(manifest, "dependencies") };
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
