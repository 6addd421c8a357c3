import { readFile } from "node:fs/promises";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../../src/builders/builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../../src/builders/launcher.ts";
import { cancelled, systemCode } from "../../src/errors.ts";
import { MARKER } from "./fake-builder.ts";

/** A launcher by a test's script: a line of the source that starts with `!` is a mistake; `gate` holds it. */
export class FakeLauncher implements Launcher {
	readonly name = "fake";
	readonly markers = [MARKER];
	/** The text of every source that was prepared. */
	readonly prepared: string[] = [];
	/** Those under way. */
	readonly active: string[] = [];
	gate: (text: string) => Promise<void> = async () => undefined;

	async detect(root: string, entrypoint: string): Promise<boolean> {
		return (await read(path.join(root, entrypoint, MARKER))) !== undefined;
	}

	async prepare(root: string, { entrypoint }: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		const text = (await read(path.join(root, entrypoint, MARKER))) ?? "";
		this.prepared.push(text);
		this.active.push(text);
		try {
			const gone = new Promise<never>((_, reject) =>
				call.signal.addEventListener("abort", () => reject(cancelled(call.signal)), { once: true }),
			);
			await Promise.race([this.gate(text), gone]);
			if (text.startsWith("!")) {
				const diagnostics = [{ file: MARKER, line: 1, column: 1, message: text.slice(1) }];
				throw new BuildError("build_failed", `${MARKER}:1:1: ${text.slice(1)}`, { diagnostics, exitCode: 1 });
			}
		} finally {
			this.active.splice(this.active.indexOf(text), 1);
		}
		return { command: ["run", text], folder: entrypoint, launcher: this.name, requires: "none" };
	}
}

async function read(file: string): Promise<string | undefined> {
	try {
		return await readFile(file, "utf8");
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error;
	}
}
