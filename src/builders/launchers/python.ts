import path from "node:path";
import type { BuildLog, Call } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { pipInstall, runPython } from "../python/pip.ts";
import { findPython, type Python } from "../python/python.ts";
import { hasFile, readText } from "./text-file.ts";
import { inPlace, type Tools } from "./tools.ts";

/** A main.py; what requirements.txt names is installed into a virtual environment beside it. */
export class PythonLauncher implements Launcher {
	readonly name = "python";
	readonly markers = ["main.py"];
	readonly #tools: Tools;
	#python: Python | undefined;

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
		const { sandbox, serverEnv } = this.#tools;
		// Asked again after a failure: somebody may have installed it since.
		this.#python ??= await findPython("python3", serverEnv, call);
		const python = this.#python;
		const venv = path.join(root, ".runtime", "venv");
		const target = path.join(venv, "bin", "python3");
		await inPlace(this.#tools, { namespace: options.namespace, kind: "pip" }, async ({ home, cache, env }) => {
			const plan = { python, sandbox, cwd, env, writes: [root, home] };
			// Caught here, a syntax error is the caller's answer; at the start it would be an exit code.
			await runPython(plan, "python3 -m py_compile main.py", ["-m", "py_compile", "main.py"], call);
			if (!needed) return;
			await runPython(plan, "python3 -m venv .runtime/venv", ["-m", "venv", venv], call);
			await pipInstall({ ...plan, target, cache, serverEnv }, call);
		});
		return {
			command: [needed ? target : python.executable, "-u", "main.py"],
			...{ folder: options.entrypoint, launcher: this.name, requires: "python" },
		};
	}
}
