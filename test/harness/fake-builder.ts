import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
	type Build,
	BuildError,
	type Builder,
	type BuildOptions,
	type SourceTree,
} from "../../src/builders/builder.ts";
import { cancelled, systemCode } from "../../src/errors.ts";
import type { Call } from "../../src/runtimes/runtime.ts";

/** A source's one file. Its text is the program; a line that starts with `!` is a mistake. */
export const MARKER = "main.fake";

/** A builder whose builds are a test's script: deterministic bytes, mistakes with their place, and a gate to hold it at. */
export class FakeBuilder implements Builder {
	readonly name = "fake";
	readonly markers = [MARKER];
	/** The texts of builds under way, in order of their start. */
	readonly active: string[] = [];
	/** Every build that was begun. */
	readonly begun: string[] = [];
	mostActive = 0;
	/** Awaited by each build; what it throws, the build fails with. */
	gate: (text: string) => Promise<void> = async () => undefined;

	async detect(source: SourceTree, entrypoint: string, call: Call): Promise<boolean> {
		return (await read(await source.directory(call), entrypoint)) !== undefined;
	}

	async build(
		source: SourceTree,
		{ entrypoint }: BuildOptions,
		{ signal, log }: Call & { readonly log: (line: string) => void },
	): Promise<Build> {
		const text = await read(await source.directory({ signal }), entrypoint);
		if (signal.aborted) throw cancelled(signal);
		if (text === undefined) throw new BuildError("source_invalid", `there is no ${MARKER} in ${entrypoint}`);
		this.active.push(text);
		this.begun.push(text);
		this.mostActive = Math.max(this.mostActive, this.active.length);
		try {
			log(`building ${text}`);
			await unlessAborted(this.gate(text), signal);
			const lines = text.split("\n");
			const line = lines.findIndex((candidate) => candidate.startsWith("!")) + 1;
			if (line > 0) {
				const message = lines[line - 1]?.slice(1) ?? "";
				const diagnostics = [{ file: join(entrypoint, MARKER), line, column: 1, message }];
				log(`${MARKER}:${line}:1: ${message}`);
				throw new BuildError("build_failed", `${MARKER}:${line}:1: ${message}`, { diagnostics, exitCode: 1 });
			}
		} finally {
			this.active.splice(this.active.indexOf(text), 1);
		}
		const bytes = Buffer.from(`program: ${text}`);
		return {
			body: (async function* () {
				yield bytes;
			})(),
			sha256: createHash("sha256").update(bytes).digest("hex"),
			size: bytes.length,
			builder: this.name,
			requires: "none",
			[Symbol.asyncDispose]: async () => undefined,
		};
	}
}

async function read(folder: string, entrypoint: string): Promise<string | undefined> {
	try {
		return await readFile(join(folder, entrypoint, MARKER), "utf8");
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error;
	}
}

function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
	return new Promise((resolve, reject) => {
		const leave = () => reject(cancelled(signal));
		signal.addEventListener("abort", leave, { once: true });
		work.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
	});
}
