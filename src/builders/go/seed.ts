import { constants, existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Turns } from "../../turns.ts";
import type { BuildLog, Call } from "../builder.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { GoToolchain } from "./toolchain.ts";

/** What most services import: with these and what they need, a first build compiles little besides its own packages. */
const PACKAGES = ["net/http", "encoding/json", "html/template", "database/sql", "log/slog", "flag", "os/signal"];

/**
 * Build caches of new namespaces start as a copy of one that the server itself filled with the standard library, since
 * namespaces share no cache and compiling it takes a minute. Copied, never linked: a build could write through a link.
 */
export class GoSeed {
	readonly #folder: string;
	readonly #sandbox: Sandbox;
	readonly #turns = new Turns();

	/** `folder` holds the seeds. */
	constructor(folder: string, sandbox: Sandbox) {
		this.#folder = folder;
		this.#sandbox = sandbox;
	}

	/** Sees to it that the build cache `into` is there. Where no seed can be made it starts empty. */
	async plant(
		into: string,
		plan: { readonly toolchain: GoToolchain; readonly env: Readonly<Record<string, string>> },
		call: Call & { readonly log: BuildLog },
	): Promise<void> {
		if (existsSync(into)) return;
		const { toolchain, env } = plan;
		const seed = join(this.#folder, `seed-${toolchain.version}-${env.GOOS}-${env.GOARCH}`.replaceAll(/[^\w.-]/g, "_"));
		await this.#turns.inTurn(seed, async () => {
			if (!existsSync(seed) && !call.signal.aborted) await this.#make(seed, toolchain, env, call);
		});
		await this.#turns.inTurn(into, async () => {
			if (existsSync(into) || !existsSync(seed)) return;
			await mkdir(dirname(into), { recursive: true });
			await inPlace(into, (temporary) =>
				cp(seed, temporary, { recursive: true, mode: constants.COPYFILE_FICLONE, preserveTimestamps: true }),
			);
		});
	}

	async #make(
		seed: string,
		toolchain: GoToolchain,
		env: Readonly<Record<string, string>>,
		call: Call & { readonly log: BuildLog },
	): Promise<void> {
		call.log("compiling the standard library for a new namespace; this is done once");
		await mkdir(this.#folder, { recursive: true });
		const work = await mkdtemp(join(this.#folder, "making-"));
		try {
			await writeFile(join(work, "go.mod"), "module seed\n\ngo 1.21\n");
			const [cache, tmp, home] = [join(work, "cache"), join(work, "tmp"), join(work, "home")];
			for (const folder of [cache, tmp, home]) await mkdir(folder);
			const { exitCode } = await this.#sandbox.run(
				{
					file: toolchain.file,
					args: ["build", "-trimpath", "-buildvcs=false", ...PACKAGES],
					cwd: work,
					env: { ...env, GOCACHE: cache, TMPDIR: tmp, HOME: home, GOMODCACHE: join(home, "mod"), GOPROXY: "off" },
					log: call.log,
					...{ reads: [toolchain.file, toolchain.root], writes: [work], hosts: [] },
				},
				call,
			);
			if (exitCode === 0) await rename(cache, seed);
			else call.log("it could not be compiled; the namespace's caches start empty");
		} finally {
			await rm(work, { recursive: true, force: true });
		}
	}
}

/** Whole or not at all. */
async function inPlace(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
	const temporary = await mkdtemp(`${path}-`);
	try {
		await make(temporary);
		await rename(temporary, path);
	} catch (error) {
		await rm(temporary, { recursive: true, force: true });
		throw error;
	}
}
