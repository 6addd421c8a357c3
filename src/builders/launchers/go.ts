import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AppError } from "../../errors.ts";
import type { Builder, BuildLog, Call, SourceTree } from "../builder.ts";
import type { Launch, Launcher, LaunchOptions } from "../launcher.ts";

/** Where the program is put; a folder that Go's own tools leave alone. */
const OUTPUT = path.join(".runtime", "program");

/** A Go module: compiled by the Go builder, so that its errors are the same, and run beside its source. */
export class GoLauncher implements Launcher {
	readonly name = "go";
	readonly markers: readonly string[];
	readonly #builder: Builder;

	constructor(builder: Builder) {
		this.#builder = builder;
		this.markers = builder.markers;
	}

	async detect(root: string, entrypoint: string, call: Call): Promise<boolean> {
		return this.#builder.detect(inPlace(root), entrypoint, call);
	}

	async prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch> {
		await using build = await this.#builder.build(inPlace(root), { ...options, env: {} }, call);
		const program = path.join(root, OUTPUT);
		await mkdir(path.dirname(program), { recursive: true });
		await pipeline(Readable.from(build.body, { objectMode: false }), createWriteStream(program, { mode: 0o755 }), {
			signal: call.signal,
		});
		return { command: [program], folder: options.entrypoint, launcher: this.name, requires: build.requires };
	}
}

/** A folder that is there already, as a builder wants it. */
function inPlace(root: string): SourceTree {
	return {
		archiveType: "targz",
		archive: async () => {
			throw new AppError("internal", "a source that is run in place has no archive");
		},
		directory: async () => root,
		[Symbol.asyncDispose]: async () => undefined,
	};
}
