import { lstat, mkdir, mkdtemp, open } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { messageOf } from "../../errors.ts";
import { removeTree } from "../../remove-tree.ts";
import {
	type Build,
	BuildError,
	type Builder,
	type BuildLog,
	type BuildOptions,
	type Call,
	type SourceTree,
} from "../builder.ts";
import { builtFile } from "../built-file.ts";
import { OpenSandbox } from "../sandbox/open.ts";
import type { Confined, Ended, Sandbox } from "../sandbox/sandbox.ts";
import { filesIn, type GoCaches, goEnvironment, SAFE } from "./environment.ts";
import { explainFailure, nearby } from "./failure.ts";
import { findModuleFolder, type GoModule, isFolder, isOlder, readModule } from "./module.ts";
import { type GoNetwork, wantsNetwork, wantsRepository } from "./network.ts";
import { type OutputPlaces, readGoOutput, withoutPlaces } from "./output.ts";
import { GoSeed } from "./seed.ts";
import { findGo, type GoToolchain, goTooOld } from "./toolchain.ts";

export type GoBuilderOptions = {
	/** Holds the module and build caches that a namespace's builds share. Made where it does not exist. */
	readonly cacheFolder: string;
	/** Where Go runs; without it, with all that the server's user may do. */
	readonly sandbox?: Sandbox;
	/** Each build has a folder of its own below it while it runs; what is left there by a crash may be removed at a start. */
	readonly workFolder: string;
	/** A name that is looked up on the server's PATH, or an absolute path; `go` by default. */
	readonly goCommand?: string;
	/** Module settings (GOPROXY, GOPRIVATE, …), NETRC and GOAUTH, proxies and certificates; wins over the server's environment. */
	readonly env?: Readonly<Record<string, string>>;
	/** What Go is asked in and proxies are read from; this process's own by default. */
	readonly serverEnv?: Readonly<Record<string, string | undefined>>;
	/** How many packages one build compiles side by side; Go decides by default. */
	readonly parallel?: number;
};

const MAX_KEPT_LINES = 2000;

export function createGoBuilder(options: GoBuilderOptions): Builder {
	return new GoBuilder(options);
}

class GoBuilder implements Builder {
	readonly name = "go";
	readonly markers = ["go.mod"];
	readonly #options: GoBuilderOptions;
	readonly #serverEnv: Readonly<Record<string, string | undefined>>;
	readonly #sandbox: Sandbox;
	readonly #seed: GoSeed;
	#toolchain: GoToolchain | undefined;

	constructor(options: GoBuilderOptions) {
		this.#options = options;
		this.#serverEnv = options.serverEnv ?? process.env;
		this.#sandbox = options.sandbox ?? new OpenSandbox();
		this.#seed = new GoSeed(
			join(resolve(options.cacheFolder), "go"),
			this.#sandbox,
			dirname(resolve(options.workFolder)),
		);
	}

	async detect(source: SourceTree, entrypoint: string, call: Call): Promise<boolean> {
		return (await findModuleFolder(await source.directory(call), entrypoint)) !== undefined;
	}

	async build(source: SourceTree, options: BuildOptions, call: Call & { readonly log: BuildLog }): Promise<Build> {
		const root = await source.directory(call);
		const folder = join(root, options.entrypoint);
		if (!(await isFolder(folder)))
			throw new BuildError(
				"source_invalid",
				`there is no folder ${options.entrypoint} in the source${await nearby(root)}`,
			);
		const moduleFolder = await findModuleFolder(root, options.entrypoint);
		if (moduleFolder === undefined) {
			const where = options.entrypoint === "." ? "the source's root" : `${options.entrypoint} or a folder above it`;
			throw new BuildError(
				"source_invalid",
				`there is no go.mod in ${where}; run \`go mod init\`${await nearby(root)}`,
			);
		}
		const module = await readModule(root, moduleFolder);
		const toolchain = await this.#goFor(module, call);

		await mkdir(this.#options.workFolder, { recursive: true });
		const work = await mkdtemp(join(resolve(this.#options.workFolder), "go-"));
		const remove = () => removeTree(work);
		try {
			const places: OutputPlaces = { root, module: moduleFolder, package: folder };
			const output = join(work, "program");
			await this.#compile({ toolchain, options, places, work, output, vendored: module.vendored }, call);
			await refuseLibrary(output, options.entrypoint, root);
			return await builtFile(output, { builder: this.name, requires: "none", remove }, call);
		} catch (error) {
			await remove();
			throw error;
		}
	}

	/** Asks Go again after a failure, and where it was too old: somebody may have installed another since. */
	async #goFor(module: GoModule, call: Call): Promise<GoToolchain> {
		const needed = module.goVersion;
		const tooOld = (toolchain: GoToolchain) => needed !== undefined && isOlder(toolchain.version, needed.version);
		let toolchain = this.#toolchain;
		if (toolchain === undefined || tooOld(toolchain))
			toolchain = await findGo(this.#options.goCommand ?? "go", this.#serverEnv, call);
		this.#toolchain = toolchain;
		if (needed !== undefined && tooOld(toolchain))
			throw goTooOld(toolchain.version, needed.version, `${module.file}:${needed.line}`);
		return toolchain;
	}

	async #compile(
		plan: {
			readonly toolchain: GoToolchain;
			readonly options: BuildOptions;
			readonly places: OutputPlaces;
			readonly work: string;
			readonly output: string;
			readonly vendored: boolean;
		},
		call: Call & { readonly log: BuildLog },
	): Promise<void> {
		const { toolchain, options, places, work, output } = plan;
		const { os, arch } = options.target;
		for (const name of Object.keys(options.env)) if (!SAFE.has(name)) call.log(`${name} is not passed to the Go build`);
		call.log(`go build ${options.entrypoint} (${toolchain.version}, ${os}/${arch})`);
		const { env, caches, network } = await goEnvironment(
			{ toolchain, options, work },
			{
				cacheFolder: this.#options.cacheFolder,
				configured: this.#options.env ?? {},
				env: this.#serverEnv,
				sandboxed: this.#sandbox.name !== "none",
			},
		);
		await this.#fillCaches(caches, plan, env, call);
		const args = [
			...["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="],
			plan.vendored ? "-mod=vendor" : "-mod=readonly",
			...(this.#options.parallel === undefined ? [] : ["-p", String(this.#options.parallel)]),
			// The working folder is the package: a folder's name can then never be read as a pattern or a flag.
			...["-o", output, "."],
		];
		let lines: string[] = [];
		const run = (how: Pick<Confined, "env" | "hosts" | "log">) => {
			lines = [];
			const log = (line: string) => {
				if (lines.length < MAX_KEPT_LINES) lines.push(line);
				how.log(withoutPlaces(line, places));
			};
			const reads = [places.root, toolchain.file, toolchain.root, ...network.folders, ...filesIn(env)];
			const writes = [work, ...Object.values(caches)];
			const { file } = toolchain;
			return this.#sandbox.run({ ...{ file, args, cwd: places.package, reads, writes }, ...how, log }, call);
		};
		const result =
			this.#sandbox.name === "none" || plan.vendored || network.hosts.length === 0
				? await run({ env, hosts: [], log: call.log })
				: await this.#networkIfNeeded(run, env, network, call, () => wantsNetwork(lines));
		if (result.ended === undefined && result.exitCode === 0) return;
		throw await this.#failure(result, lines, { ...plan, lines, exitCode: result.exitCode, network });
	}

	/** Go says little before it has all modules: what a build without network says is kept back until it is known to stand. */
	async #networkIfNeeded(
		run: (how: Pick<Confined, "env" | "hosts" | "log">) => Promise<Ended>,
		env: Readonly<Record<string, string>>,
		network: GoNetwork,
		call: Call & { readonly log: BuildLog },
		isWanted: () => boolean,
	): Promise<Ended> {
		const kept: string[] = [];
		const log = (line: string) => void kept.push(line);
		let again = false;
		try {
			const result = await run({ env: { ...env, GOPROXY: "off" }, hosts: [], log });
			again = result.exitCode !== 0 && result.ended === undefined && isWanted();
			if (!again) return result;
		} finally {
			if (!again) for (const line of kept) call.log(line);
		}
		return run({ env, hosts: network.hosts, log: call.log });
	}

	async #failure(
		result: Ended,
		lines: readonly string[],
		plan: Parameters<typeof explainFailure>[1] & { readonly network: GoNetwork },
	): Promise<BuildError> {
		const { exitCode } = plan;
		if (result.ended !== undefined)
			return new BuildError("build_failed", `the build was ended: ${result.ended}`, { exitCode });
		const error = await explainFailure(readGoOutput(lines, plan.places), plan);
		if (this.#sandbox.name === "none" || !plan.network.directLeftOut) return error;
		return wantsRepository(lines) ? fromRepository(error) : error;
	}

	/** A new namespace's build cache starts with the standard library. The administrator's own is filled by its builds. */
	async #fillCaches(
		caches: GoCaches,
		plan: { readonly toolchain: GoToolchain; readonly options: BuildOptions },
		env: Readonly<Record<string, string>>,
		call: Call & { readonly log: BuildLog },
	): Promise<void> {
		if (plan.options.namespace !== "default")
			await this.#seed.plant(caches.GOCACHE, { toolchain: plan.toolchain, env }, call);
		for (const folder of Object.values(caches)) await mkdir(folder, { recursive: true });
	}
}

function fromRepository(error: BuildError): BuildError {
	const { diagnostics, exitCode } = error;
	return new BuildError(
		"unavailable",
		`${error.message}. Builds here are in a sandbox and fetch modules from the proxies in GOPROXY alone, never from their ` +
			"repositories (`direct`, GOPRIVATE, GONOPROXY): have a module proxy serve it, or vendor it with `go mod vendor`",
		{ diagnostics, ...(exitCode === undefined ? {} : { exitCode }), retryable: false, cause: error },
	);
}

/** `go build -o` of a library writes an archive file, and says nothing. */
async function refuseLibrary(output: string, entrypoint: string, root: string): Promise<void> {
	// A link would lead to a file of the server's; nothing of the build runs any more that could put one there now.
	if ((await lstat(output).catch(() => undefined))?.isFile() === false)
		throw new BuildError("build_failed", `the build of ${entrypoint} made something that is not a file`);
	await using file = await open(output).catch((error: unknown) => {
		throw new BuildError("source_invalid", `the build of ${entrypoint} made no file: ${messageOf(error)}`, {
			cause: error,
		});
	});
	const { buffer, bytesRead } = await file.read(Buffer.alloc(8), 0, 8, 0);
	const magic = buffer.subarray(0, bytesRead).toString("latin1");
	if (magic === "!<arch>\n")
		throw new BuildError(
			"source_invalid",
			`${entrypoint} is a library, not a program: its package is not \`main\`${await nearby(root)}`,
		);
	const executable = ["\x7fELF", "MZ", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe", "\0asm"].some((start) =>
		magic.startsWith(start),
	);
	if (!executable)
		throw new BuildError("source_invalid", `the build of ${entrypoint} made a file that is not a program`);
}
