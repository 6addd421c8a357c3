import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { access, mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import path from "node:path";
import { parseEnv, promisify } from "node:util";
import { AppError, cancelled, messageOf, systemCode } from "../../errors.ts";

export type LoaderBinaryOptions = {
	/** The Go command, as a name on the PATH or an absolute path. */
	readonly go: string;
	/** Absolute path of a folder of ours; what is compiled is kept there. Builds must not be able to write to it. */
	readonly cache: string;
	/** The loader's sources, with prebuilt `linux-<arch>` files beside them in the package. */
	readonly sources?: string;
	/** The environment of the Go command: the server's own by default. */
	readonly env?: Readonly<Record<string, string | undefined>>;
};

/** In the project and in the package (`dist/`) alike. */
const SOURCES = path.resolve(import.meta.dirname, "../../../images/loader");
/** The one place that has the compiler's flags; images/Dockerfile reads it too. */
const BUILD_SETTINGS = "build.env";
/** Go's standard library may have to be compiled first. */
const COMPILE_LIMIT_MS = 5 * 60_000;
/** Go's names of processors; it has more, and Docker uses the same names. */
const ARCHITECTURES = ["amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64"];

/** The static loader that is the first process of every container: shipped with the package, else compiled here once. */
export class LoaderBinary {
	readonly #options: LoaderBinaryOptions;
	readonly #sources: string;
	readonly #found = new Map<string, Promise<string>>();

	constructor(options: LoaderBinaryOptions) {
		this.#options = options;
		this.#sources = options.sources ?? SOURCES;
	}

	/**
	 * Absolute path of the loader for Linux on a processor (`amd64`, `arm64`, …). Rejects with `unavailable` where it is neither
	 * in the package nor can be compiled.
	 */
	async file(arch: string, signal?: AbortSignal): Promise<string> {
		const known = this.#found.get(arch);
		if (known !== undefined) return known;
		const finding = this.#find(arch, signal);
		this.#found.set(arch, finding);
		// What failed may work the next time: Go has been installed, or the one who asked first had gone.
		finding.catch(() => this.#found.delete(arch));
		return finding;
	}

	async #find(arch: string, signal: AbortSignal | undefined): Promise<string> {
		if (!ARCHITECTURES.includes(arch)) throw new AppError("unavailable", `there is no loader for ${arch} processors`);
		const shipped = path.join(this.#sources, `linux-${arch}`);
		if (await exists(shipped)) return shipped;
		const sources = await this.#read();
		const file = path.join(this.#options.cache, `loader-linux-${arch}-${sources}`);
		if (!(await exists(file))) await this.#compile(arch, file, signal);
		return file;
	}

	/** The hash of the sources, tests apart. */
	async #read(): Promise<string> {
		const names = await readdir(this.#sources).catch(notInPackage);
		const hash = createHash("sha256");
		for (const name of names.sort()) {
			if (!isLoaderSource(name)) continue;
			const bytes = await readFile(path.join(this.#sources, name));
			hash.update(`${name}\0${bytes.length}\0`).update(bytes);
		}
		return hash.digest("hex").slice(0, 16);
	}

	async #compile(arch: string, file: string, signal: AbortSignal | undefined): Promise<void> {
		await mkdir(this.#options.cache, { recursive: true, mode: 0o700 });
		const made = `${file}.${randomUUID()}`;
		const { args, settings } = await compilation(this.#sources, arch, made);
		const env: Record<string, string | undefined> = { ...(this.#options.env ?? process.env), ...settings };
		// The builders' cache is no place for this: what is built there is other people's.
		if (env.HOME === undefined && env.GOCACHE === undefined) env.GOCACHE = path.join(this.#options.cache, "go");
		try {
			await promisify(execFile)(this.#options.go, args, {
				cwd: this.#sources,
				env,
				timeout: COMPILE_LIMIT_MS,
				...(signal === undefined ? {} : { signal }),
			});
			await rename(made, file);
		} catch (error) {
			if (signal?.aborted) throw cancelled(signal);
			const hint = "Use the published package, which brings it along, or install Go from https://go.dev/dl.";
			if (systemCode(error) === "ENOENT")
				throw new AppError(
					"unavailable",
					`the loader for linux/${arch} is not in this package, and there is no Go to compile it (looked for \`${this.#options.go}\`)`,
					{ cause: error, hint },
				);
			throw new AppError("unavailable", `the loader for linux/${arch} cannot be compiled: ${messageOf(error)}`, {
				cause: error,
				hint,
			});
		} finally {
			await rm(made, { force: true });
		}
	}
}

/** Whether a file of the loader's folder decides what is compiled, or how. */
export function isLoaderSource(name: string): boolean {
	return name === "go.mod" || name === BUILD_SETTINGS || (name.endsWith(".go") && !name.endsWith("_test.go"));
}

/** What Go is told to compile the loader, in the folder of its sources, to `goal`. The same sources and Go make the same bytes. */
export async function compilation(
	sources: string,
	arch: string,
	goal: string,
): Promise<{ readonly args: readonly string[]; readonly settings: Readonly<Record<string, string | undefined>> }> {
	const text = await readFile(path.join(sources, BUILD_SETTINGS), "utf8").catch(notInPackage);
	const { BUILD_FLAGS = "", LINK_FLAGS = "", ...settings } = parseEnv(text);
	const args = ["build", ...BUILD_FLAGS.split(" "), `-ldflags=${LINK_FLAGS}`, "-o", goal, "."];
	return { args, settings: { ...settings, GOOS: "linux", GOARCH: arch } };
}

function notInPackage(cause: unknown): never {
	throw new AppError("unavailable", "the loader that starts containers is not in this package", { cause });
}

async function exists(file: string): Promise<boolean> {
	return access(file).then(
		() => true,
		() => false,
	);
}
