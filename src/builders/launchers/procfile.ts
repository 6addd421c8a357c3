import { readFile } from "node:fs/promises";
import path from "node:path";
import { systemCode } from "../../errors.ts";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";

/** A Procfile, as Heroku and Foreman know it: the process type `web`, or the only one there is. */
export class ProcfileLauncher implements Launcher {
	readonly name = "procfile";
	readonly markers = ["Procfile"];

	async detect(root: string, entrypoint: string): Promise<boolean> {
		return (await readText(path.join(root, entrypoint, "Procfile"))) !== undefined;
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const text = (await readText(path.join(root, options.entrypoint, "Procfile"))) ?? "";
		const types = new Map(
			[...text.matchAll(/^([A-Za-z0-9_-]+):\s*(\S.*)$/gm)].map(([, type = "", command = ""]) => [type, command.trim()]),
		);
		const [only] = types.size === 1 ? types.values() : [];
		const command = types.get("web") ?? only;
		if (command === undefined)
			throw new BuildError("source_invalid", "the Procfile has no process type web; add a line `web: COMMAND`");
		call.log(`Procfile: ${command}`);
		return { command: shell(command), folder: options.entrypoint, launcher: this.name, requires: "none" };
	}
}

/** A line of shell as a command; what follows it goes on as its arguments. */
export function shell(line: string): readonly string[] {
	return ["/bin/sh", "-c", `${line} "$@"`, "sh"];
}

/** A file's text, or undefined where there is none. */
export async function readText(file: string): Promise<string | undefined> {
	try {
		return await readFile(file, "utf8");
	} catch (error) {
		const code = systemCode(error);
		if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR") return undefined;
		throw error;
	}
}
