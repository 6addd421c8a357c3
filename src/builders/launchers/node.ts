import { existsSync } from "node:fs";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { readText, shell } from "./procfile.ts";
import { runTool, type Tools } from "./tools.ts";

/** A package.json with a start script. Dependencies are installed without their install scripts. */
export class NodeLauncher implements Launcher {
	readonly name = "node";
	readonly markers = ["package.json"];
	readonly #tools: Tools;

	constructor(tools: Tools) {
		this.#tools = tools;
	}

	async detect(root: string, entrypoint: string): Promise<boolean> {
		return (await readText(path.join(root, entrypoint, "package.json"))) !== undefined;
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const folder = path.join(root, options.entrypoint);
		const file = path.posix.join(options.entrypoint, "package.json");
		const manifest = parse((await readText(path.join(folder, "package.json"))) ?? "", file);
		const start = member(member(manifest, "scripts"), "start");
		if (typeof start !== "string" || start.trim() === "")
			throw new BuildError("source_invalid", `${file} has no start script; add "scripts": { "start": "node main.js" }`);
		if (Object.keys(member(manifest, "dependencies") ?? {}).length > 0) {
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
