import { constants, existsSync } from "node:fs";
import { cp, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { failpoint } from "../../failpoint.ts";
import { Turns } from "../../turns.ts";
import type { BuildLog, Call } from "../builder.ts";
import { Leftovers } from "../leftovers.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { GoToolchain } from "./toolchain.ts";

/** What most services import: with these and what they need, a first build compiles little besides its own packages. */
const PACKAGES = ["net/http", "encoding/json", "html/template", "database/sql", "log/slog", "flag", "os/signal"];

/**
 * Of a build's environment: what it has in common with every other build for the same target. Nothing that a tenant may set
 * is among it, since all tenants' first builds start from what comes of it.
 */
const COMMON = [
	"PATH",
	"LANG",
	"CGO_ENABLED",
	"GOOS",
	"GOARCH",
	"GOWORK",
	"GOENV",
	"GOTOOLCHAIN",
	"GOTELEMETRY",
	"GOFLAGS",
];

/**
 * Build caches of new namespaces start as a copy of one that the server itself filled with the standard library, since
 * namespaces share no cache and compiling it takes a minute. Copied, never linked: a build could write through a link.
 */
export class GoSeed {
	readonly #folder: string;
	readonly #sandbox: Sandbox;
	readonly #dataFolder: string;
	readonly #turns = new Turns();

	/** `folder` holds the seeds; `dataFolder` stands for this server, as others may have the same caches. */
	constructor(folder: string, sandbox: Sandbox, dataFolder: string) {
		this.#folder = folder;
		this.#sandbox = sandbox;
		this.#dataFolder = dataFolder;
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
			await this.#inPlace(into, (temporary) =>
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
		const work = await (await this.#leftovers()).make(this.#folder, "making");
		try {
			await writeFile(join(work, "go.mod"), "module seed\n\ngo 1.21\n");
			const [cache, tmp, home] = [join(work, "cache"), join(work, "tmp"), join(work, "home")];
			for (const folder of [cache, tmp, home]) await mkdir(folder);
			const common = Object.fromEntries(Object.entries(env).filter(([name]) => COMMON.includes(name)));
			const { exitCode } = await this.#sandbox.run(
				{
					file: toolchain.file,
					args: ["build", "-trimpath", "-buildvcs=false", ...PACKAGES],
					cwd: work,
					env: { ...common, GOCACHE: cache, TMPDIR: tmp, HOME: home, GOMODCACHE: join(home, "mod"), GOPROXY: "off" },
					log: call.log,
					...{ reads: [toolchain.file, toolchain.root], writes: [work], hosts: [] },
				},
				call,
			);
			failpoint("seed.made");
			if (exitCode === 0) await rename(cache, seed);
			else call.log("it could not be compiled; the namespace's caches start empty");
		} finally {
			await rm(work, { recursive: true, force: true });
		}
	}
	/** Whole or not at all. */
	async #inPlace(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
		const temporary = await (await this.#leftovers()).make(dirname(path), basename(path));
		try {
			await make(temporary);
			failpoint("seed.before_rename");
			await rename(temporary, path);
		} catch (error) {
			await rm(temporary, { recursive: true, force: true });
			throw error;
		}
	}

	#leftovers(): Promise<Leftovers> {
		return Leftovers.of(this.#dataFolder);
	}
}
