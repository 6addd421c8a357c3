import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";
import { shell } from "./shell-command.ts";
import { hasFile, readText } from "./text-file.ts";

/** A Procfile, as Heroku and Foreman know it: the process type `web`, or the only one there is. */
export class ProcfileLauncher implements Launcher {
	readonly name = "procfile";
	readonly markers = ["Procfile"];

	async detect(root: string, entrypoint: string): Promise<boolean> {
		return hasFile(root, path.posix.join(entrypoint, "Procfile"));
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const text = (await readText(root, path.posix.join(options.entrypoint, "Procfile"))) ?? "";
		const types = new Map(
			[...text.matchAll(/^([A-Za-z0-9_-]+):[ \t]*(\S.*)$/gm)].map(([, type = "", command = ""]) => [
				type,
				command.trim(),
			]),
		);
		const [only] = types.size === 1 ? types.values() : [];
		const command = types.get("web") ?? only;
		if (command === undefined)
			throw new BuildError("source_invalid", "the Procfile has no process type web; add a line `web: COMMAND`");
		call.log(`Procfile: ${command}`);
		return {
			command: await shell(command, "the command of the Procfile", call),
			...{ folder: options.entrypoint, launcher: this.name, requires: "none" },
		};
	}
}
