import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { delimiter, dirname, join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { cancelled, messageOf } from "../errors.ts";
import {
	type Build,
	BuildError,
	type Builder,
	type BuildLog,
	type BuildOptions,
	type Call,
	type SourceTree,
} from "./builder.ts";
import { runCommand } from "./command.ts";
import { explainFailure, nearby } from "./go-failure.ts";
import { findModuleFolder, type GoModule, isFolder, isOlder, readModule } from "./go-module.ts";
import { type OutputPlaces, readGoOutput, withoutPlaces } from "./go-output.ts";
import { findGo, type GoToolchain, goTooOld, MODULE_SETTINGS } from "./go-toolchain.ts";

export type GoBuilderOptions = {
	/** Holds the module and build caches that all builds share. Made where it does not exist. */
	readonly cacheFolder: string;
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

/** How to reach the network from this machine; Go needs it, and so it is taken from the server's environment too. */
const NETWORK = [
	"HTTP_PROXY",
	"HTTPS_PROXY",
	"NO_PROXY",
	"http_proxy",
	"https_proxy",
	"no_proxy",
	"SSL_CERT_FILE",
	"SSL_CERT_DIR",
];
/** Credentials: only where the configuration names them. */
const CREDENTIALS = ["NETRC", "GOAUTH"];
/** What a build may say for itself. Anything else could run commands (-toolexec, GOCACHEPROG) or reach other files. */
const SAFE = new Set(["GOAMD64", "GOARM64", "GODEBUG", "GOEXPERIMENT", "GOFIPS140"]);

const SYSTEM_PATH = ["/usr/local/bin", "/usr/bin", "/bin"];
const MAX_KEPT_LINES = 2000;
const CHUNK = 256 * 1024;

export function createGoBuilder(options: GoBuilderOptions): Builder {
	return new GoBuilder(options);
}

class GoBuilder implements Builder {
	readonly name = "go";
	readonly markers = ["go.mod"];
	readonly #options: GoBuilderOptions;
	readonly #serverEnv: Readonly<Record<string, string | undefined>>;
	#toolchain: GoToolchain | undefined;

	constructor(options: GoBuilderOptions) {
		this.#options = options;
		this.#serverEnv = options.serverEnv ?? process.env;
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
		const remove = () => rm(work, { recursive: true, force: true, maxRetries: 3 });
		try {
			const places: OutputPlaces = { root, module: moduleFolder, package: folder };
			const output = join(work, "program");
			await this.#compile({ toolchain, options, places, work, output, vendored: module.vendored }, call);
			await refuseLibrary(output, options.entrypoint, root);
			return await hashed(output, remove, call);
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
		const lines: string[] = [];
		const { exitCode } = await runCommand(
			{
				file: toolchain.file,
				args: [
					"build",
					"-trimpath",
					"-buildvcs=false",
					"-ldflags=-s -w -buildid=",
					plan.vendored ? "-mod=vendor" : "-mod=readonly",
					...(this.#options.parallel === undefined ? [] : ["-p", String(this.#options.parallel)]),
					"-o",
					output,
					// The working folder is the package: a folder's name can then never be read as a pattern or a flag.
					".",
				],
				cwd: places.package,
				env: await this.#environment(toolchain, options, work),
				log: (line) => {
					if (lines.length < MAX_KEPT_LINES) lines.push(line);
					call.log(withoutPlaces(line, places));
				},
			},
			call,
		);
		if (exitCode !== 0) throw await explainFailure(readGoOutput(lines, places), { ...plan, lines, exitCode });
	}

	async #environment(toolchain: GoToolchain, options: BuildOptions, work: string): Promise<Record<string, string>> {
		const cache = resolve(this.#options.cacheFolder);
		const folders = {
			HOME: join(work, "home"),
			TMPDIR: join(work, "tmp"),
			GOMODCACHE: join(cache, "mod"),
			GOCACHE: join(cache, "build"),
		};
		for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true });
		const configured = this.#options.env ?? {};
		const env: Record<string, string> = {};
		for (const [name, value] of Object.entries(options.env)) if (SAFE.has(name)) env[name] = value;
		for (const name of MODULE_SETTINGS) env[name] = configured[name] ?? toolchain.settings[name] ?? "";
		for (const name of [...NETWORK, ...CREDENTIALS]) {
			const value = configured[name] ?? (NETWORK.includes(name) ? this.#serverEnv[name] : undefined);
			if (value !== undefined) env[name] = value;
		}
		return {
			...env,
			...folders,
			PATH: [dirname(toolchain.file), ...SYSTEM_PATH].join(delimiter),
			LANG: "C.UTF-8",
			CGO_ENABLED: "0",
			GOOS: options.target.os,
			GOARCH: options.target.arch,
			GOWORK: "off",
			GOENV: "off",
			GOTOOLCHAIN: "local",
			GOTELEMETRY: "off",
			// Without it the module cache is read-only, and deleting it takes more than `rm -r`.
			GOFLAGS: "-modcacherw",
			GIT_TERMINAL_PROMPT: "0",
		};
	}
}

/** `go build -o` of a library writes an archive file, and says nothing. */
async function refuseLibrary(output: string, entrypoint: string, root: string): Promise<void> {
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

async function hashed(path: string, remove: () => Promise<void>, call: Call): Promise<Build> {
	const hash = createHash("sha256");
	let size = 0;
	try {
		await pipeline(
			createReadStream(path, { highWaterMark: CHUNK }),
			async (chunks: AsyncIterable<Buffer>) => {
				for await (const chunk of chunks) {
					hash.update(chunk);
					size += chunk.length;
				}
			},
			{ signal: call.signal },
		);
	} catch (error) {
		throw call.signal.aborted ? cancelled(call.signal) : error;
	}
	return {
		body: createReadStreamLazily(path),
		sha256: hash.digest("hex"),
		size,
		builder: "go",
		requires: "none",
		[Symbol.asyncDispose]: remove,
	};
}

/** Opened when it is read: a build that is disposed of unread holds no descriptor. */
async function* createReadStreamLazily(path: string): AsyncGenerator<Uint8Array> {
	yield* createReadStream(path, { highWaterMark: CHUNK });
}
