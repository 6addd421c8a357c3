import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AppError, cancelled, messageOf, systemCode } from "../../errors.ts";
import { removeTree } from "../../remove-tree.ts";
import { ASKPASS, environmentFor, type GitAccess, scrub, settingsFor } from "./git-settings.ts";

export type GitRun<T> = {
	readonly access?: GitAccess;
	readonly input?: Iterable<string>;
	/** Reads all of stdout. */
	readonly read: (output: AsyncIterable<Buffer>) => Promise<T>;
	readonly signal: AbortSignal;
};

/** Git ended with something else than 0. `message` is what it said, without secrets. */
export class GitFailure extends Error {
	override readonly name = "GitFailure";
	readonly exitCode: number | null;

	constructor(said: string, exitCode: number | null) {
		super(said === "" ? `git ended with ${exitCode ?? "a signal"}` : said);
		this.exitCode = exitCode;
	}
}

const STDERR_LIMIT = 8 * 1024;
const SIZE_POLL_MS = 100;

/** A folder of its own for one piece of work with git: an empty bare repository, and room for what comes out of it. */
export class GitWorkspace implements AsyncDisposable {
	/** Absolute. */
	readonly folder: string;
	readonly #repository: string;
	readonly #askpass: string;
	readonly #git: string;

	private constructor(folder: string, git: string) {
		this.folder = folder;
		this.#repository = join(folder, "git");
		this.#askpass = join(folder, "askpass");
		this.#git = git;
	}

	static async create(workFolder: string, git: string, signal: AbortSignal): Promise<GitWorkspace> {
		if (signal.aborted) throw cancelled(signal);
		const workspace = new GitWorkspace(join(workFolder, `remote-${randomUUID()}`), git);
		try {
			await mkdir(workspace.folder, { recursive: true, mode: 0o700 });
			await writeFile(workspace.#askpass, ASKPASS, { flag: "wx", mode: 0o700 });
			checkVersion(await workspace.text(["version"], signal));
			await workspace.text(["init", "--quiet", "--bare", "--template=", workspace.#repository], signal);
			return workspace;
		} catch (error) {
			await removeTree(workspace.folder);
			if (systemCode(error) === "ENOSPC")
				throw new AppError("no_space", "the disk is full while fetching the source", { cause: error });
			throw error;
		}
	}

	/** Runs git and gives its whole output; at most `limit` bytes. Rejects with GitFailure. */
	async text(
		args: readonly string[],
		signal: AbortSignal,
		access?: GitAccess,
		limit = 64 * 1024 ** 2,
	): Promise<string> {
		return this.run(args, {
			signal,
			read: (output) => readText(output, limit),
			...(access === undefined ? {} : { access }),
		});
	}

	/** Runs git in its own process group; when it settles, the group has been killed. Rejects with GitFailure. */
	async run<T>(args: readonly string[], options: GitRun<T>): Promise<T> {
		const { signal, access } = options;
		if (signal.aborted) throw cancelled(signal);
		const child = spawn(this.#git, [...settingsFor(access), ...args], {
			cwd: this.folder,
			env: environmentFor(access, { home: this.folder, repository: this.#repository, askpass: this.#askpass }),
			detached: true,
			stdio: ["pipe", "pipe", "pipe"],
		});
		const ended = exitOf(child);
		const onAbort = () => killGroup(child);
		signal.addEventListener("abort", onAbort, { once: true });
		let said = "";
		child.stderr.on("data", (chunk: Buffer) => {
			if (said.length < STDERR_LIMIT) said += chunk.toString("utf8");
		});
		const feeding = pipeline(Readable.from(options.input ?? []), child.stdin).catch((error: unknown) => error);
		try {
			const [output, exit] = await Promise.all([
				options.read(child.stdout).catch((error: unknown) => {
					killGroup(child);
					throw error;
				}),
				ended,
			]);
			if (signal.aborted) throw cancelled(signal);
			if (exit !== 0) throw new GitFailure(scrub(said, access), exit);
			return output;
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			if (systemCode(error) === "ENOENT" || systemCode(error) === "EACCES")
				throw new AppError("unavailable", "the program git, which fetches sources, cannot be run on the server", {
					cause: error,
					hint: "Install git where the server runs.",
				});
			throw error;
		} finally {
			signal.removeEventListener("abort", onAbort);
			killGroup(child);
			await ended.catch(() => null);
			await feeding;
		}
	}

	/**
	 * Fetches into the repository. Rejects with `invalid_argument` once it holds more than `bytes`, else as `run`.
	 * `what` are refspecs or object names.
	 */
	async fetch(
		url: string,
		what: readonly string[],
		options: readonly string[],
		access: GitAccess,
		call: { readonly signal: AbortSignal; readonly bytes: number },
	): Promise<void> {
		const tooLarge = new AbortController();
		const signal = AbortSignal.any([call.signal, tooLarge.signal]);
		const watch = setInterval(() => {
			this.#packed().then(
				(bytes) => {
					if (bytes > call.bytes) tooLarge.abort(repositoryTooLarge(call.bytes));
				},
				// The folder is being written to; the next look will do.
				() => undefined,
			);
		}, SIZE_POLL_MS);
		try {
			const args = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"];
			await this.text([...args, "--no-write-fetch-head", ...options, "--", url, ...what], signal, access);
			if ((await this.#packed()) > call.bytes) throw repositoryTooLarge(call.bytes);
		} finally {
			clearInterval(watch);
		}
	}

	/** Removes what git made and keeps the rest of the folder. */
	async forget(): Promise<void> {
		await removeTree(this.#repository);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await removeTree(this.folder);
	}

	async #packed(): Promise<number> {
		const folder = join(this.#repository, "objects", "pack");
		let bytes = 0;
		for (const name of await readdir(folder)) {
			const info = await stat(join(folder, name)).catch(() => null);
			bytes += info?.size ?? 0;
		}
		return bytes;
	}
}

/** An older git does not know `http.curloptResolve`, says nothing, and connects to wherever the name leads it. */
function checkVersion(output: string): void {
	const [, major, minor] = /^git version (\d+)\.(\d+)/.exec(output)?.map(Number) ?? [];
	if (major !== undefined && minor !== undefined && (major > 2 || (major === 2 && minor >= 37))) return;
	throw new AppError("unavailable", "the git on the server is older than 2.37 and cannot be kept to safe addresses", {
		hint: "Install git 2.37 or newer where the server runs.",
	});
}

function repositoryTooLarge(bytes: number): AppError {
	return new AppError("invalid_argument", `the repository is larger than ${bytes} bytes`, { field: "source" });
}

async function readText(output: AsyncIterable<Buffer>, limit: number): Promise<string> {
	const chunks: Buffer[] = [];
	let size = 0;
	for await (const chunk of output) {
		size += chunk.length;
		if (size > limit)
			throw new AppError("unavailable", `git gave more than ${limit} bytes where a list was expected`, {
				field: "source",
			});
		chunks.push(chunk);
	}
	return Buffer.concat(chunks).toString("utf8");
}

function exitOf(child: ChildProcess): Promise<number | null> {
	return new Promise((resolve, reject) => {
		child.once("error", reject);
		// What git started may outlive it and hold the pipes open; the group's number is still ours in this moment.
		child.once("exit", () => signalGroup(child.pid));
		child.once("close", (code) => resolve(code));
	});
}

function killGroup(child: ChildProcess): void {
	if (child.exitCode === null && child.signalCode === null) signalGroup(child.pid);
}

function signalGroup(pid: number | undefined): void {
	if (pid === undefined) return;
	try {
		process.kill(-pid, "SIGKILL");
	} catch (error) {
		if (systemCode(error) !== "ESRCH") throw new AppError("internal", messageOf(error), { cause: error });
	}
}
