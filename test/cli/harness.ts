import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import { finalScreen } from "./terminal.ts";

export const LAUNCHER = fileURLToPath(new URL("../../clients/cli/bin.mjs", import.meta.url));
const LIMIT = 60_000;

type Registers = Pick<Test, "teardown">;

/** A folder with these files, removed at the end. */
export function folder(t: Registers, files: Readonly<Record<string, string>> = {}): string {
	const path = realpathSync(mkdtempSync(join(tmpdir(), "runtime-cli-")));
	t.teardown(() => rmSync(path, { recursive: true, force: true }));
	write(path, files);
	return path;
}

export function write(root: string, files: Readonly<Record<string, string>>): void {
	for (const [name, text] of Object.entries(files)) {
		mkdirSync(dirname(join(root, name)), { recursive: true });
		writeFileSync(join(root, name), text);
	}
}

export function git(cwd: string, ...args: string[]): void {
	const result = spawnSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.com", ...args], {
		cwd,
		encoding: "utf8",
	});
	if (result.status !== 0) throw new Error(`git ${args.join(" ")}: ${result.stderr}`);
}

export const GO_FILES = {
	"go.mod": "module example.com/hello\n\ngo 1.21\n",
	"main.go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Prinln("hi")\n}\n',
};

export type RunOptions = { readonly cwd: string; readonly env?: Readonly<Record<string, string | undefined>> };

function environment(options: RunOptions): NodeJS.ProcessEnv {
	const env: NodeJS.ProcessEnv = {};
	for (const [key, value] of Object.entries(process.env))
		if (!/^(RUNTIME_|TAP|NODE_OPTIONS|CI$|FORCE_COLOR|NO_COLOR)/.test(key)) env[key] = value;
	return {
		...env,
		XDG_DATA_HOME: join(options.cwd, ".no-such-data"),
		TERM: "xterm-256color",
		TZ: "UTC",
		LC_ALL: "C.UTF-8",
		...options.env,
	};
}

/** A running command line, in a pipe or on a pseudo-terminal. */
export class Running {
	stdout = "";
	stderr = "";
	readonly child: ChildProcess;
	readonly exit: Promise<number>;
	readonly #waiting = new Set<() => void>();

	constructor(child: ChildProcess) {
		this.child = child;
		child.stdout?.setEncoding("utf8").on("data", (text: string) => this.#grow(() => (this.stdout += text)));
		child.stderr?.setEncoding("utf8").on("data", (text: string) => this.#grow(() => (this.stderr += text)));
		this.exit = new Promise((resolve, reject) => {
			const timer = setTimeout(() => {
				child.kill("SIGKILL");
				reject(new Error(`it did not end\n${this.stdout}\n${this.stderr}`));
			}, LIMIT);
			child.once("close", (code, signal) => {
				clearTimeout(timer);
				this.#grow(() => undefined);
				resolve(code ?? (signal === null ? -1 : -2));
			});
		});
		this.exit.catch(() => undefined);
	}

	#grow(add: () => void): void {
		add();
		for (const look of [...this.#waiting]) look();
	}

	/** Waits until the output (both streams) holds the text. */
	async sees(text: string | RegExp): Promise<void> {
		await new Promise<void>((resolve, reject) => {
			const holds = () =>
				typeof text === "string" ? (this.stdout + this.stderr).includes(text) : text.test(this.stdout + this.stderr);
			const done = (finish: () => void) => {
				clearTimeout(timer);
				this.#waiting.delete(look);
				finish();
			};
			const look = () => {
				if (holds()) done(resolve);
			};
			const timer = setTimeout(
				() => done(() => reject(new Error(`"${text}" was not seen in:\n${this.stdout}\n${this.stderr}`))),
				LIMIT,
			);
			this.#waiting.add(look);
			look();
		});
	}

	keys(text: string): void {
		this.child.stdin?.write(text);
	}
}

/** In a pipe: stdin is empty, stdout and stderr are apart. */
export function start(args: readonly string[], options: RunOptions): Running {
	return new Running(
		spawn(process.execPath, [LAUNCHER, ...args], {
			cwd: options.cwd,
			env: environment(options),
			stdio: ["ignore", "pipe", "pipe"],
		}),
	);
}

export async function runtime(
	args: readonly string[],
	options: RunOptions,
): Promise<{ code: number; stdout: string; stderr: string }> {
	const running = start(args, options);
	const code = await running.exit;
	return { code, stdout: running.stdout, stderr: running.stderr };
}

export const COLUMNS = 100;

/** On a pseudo-terminal of 100 by 30, or of another size; everything arrives in `stdout`. */
export class Terminal extends Running {
	readonly #pidFile: string;

	constructor(args: readonly string[], options: RunOptions, size = { columns: COLUMNS, rows: 30 }) {
		const pidFile = join(mkdtempSync(join(tmpdir(), "runtime-pty-")), "pid");
		const words = [process.execPath, LAUNCHER, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
		const command = `stty cols ${size.columns} rows ${size.rows}; echo $$ >'${pidFile}'; exec ${words}`;
		super(
			spawn("script", ["-qfec", command, "/dev/null"], {
				cwd: options.cwd,
				env: { ...environment(options), SHELL: "/bin/sh" },
				stdio: ["pipe", "pipe", "pipe"],
			}),
		);
		this.#pidFile = pidFile;
		this.exit.finally(() => rmSync(dirname(pidFile), { recursive: true, force: true })).catch(() => undefined);
	}

	/** The CLI's own process, below `script`. */
	get pid(): number {
		return Number(readFileSync(this.#pidFile, "utf8"));
	}

	/** The lines that are finally to be seen, without the empty ones at the end. */
	screen(): { lines: string[]; cursorHidden: boolean } {
		const { lines, cursorHidden } = finalScreen(this.stdout, COLUMNS);
		while (lines.at(-1) === "") lines.pop();
		return { lines, cursorHidden };
	}
}
