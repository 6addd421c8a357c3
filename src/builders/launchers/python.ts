import path from "node:path";
import type { BuildLog, Call } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { hasFile, readText } from "./text-file.ts";
import { findTool, runTool, type Tools } from "./tools.ts";

const INSTALL = "install Python 3 with venv";

/** A main.py; what requirements.txt names is installed into a virtual environment beside it. */
export class PythonLauncher implements Launcher {
	readonly name = "python";
	readonly markers = ["main.py"];
	readonly #tools: Tools;

	constructor(tools: Tools) {
		this.#tools = tools;
	}

	async detect(root: string, entrypoint: string): Promise<boolean> {
		return hasFile(root, path.posix.join(entrypoint, "main.py"));
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const cwd = path.join(root, options.entrypoint);
		const requirements = (await readText(root, path.posix.join(options.entrypoint, "requirements.txt"))) ?? "";
		const needed = requirements.split("\n").some((line) => line.trim() !== "" && !line.trim().startsWith("#"));
		const run = (name: string, args: readonly string[]) =>
			runTool(name, args, { cwd, tools: this.#tools, install: INSTALL }, call);
		let python = await findTool("python3", this.#tools, INSTALL);
		// Caught here, a syntax error is the caller's answer; at the start it would be an exit code.
		await run("python3", ["-m", "py_compile", "main.py"]);
		if (needed) {
			const venv = path.join(root, ".runtime", "venv");
			await run("python3", ["-m", "venv", venv]);
			python = path.join(venv, "bin", "python3");
			await run("python3", ["-m", "pip", `--python=${python}`, "install", "--quiet", "-r", "requirements.txt"]);
		}
		return { command: [python, "-u", "main.py"], folder: options.entrypoint, launcher: this.name, requires: "python" };
	}
}
