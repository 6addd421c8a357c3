import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { Bubblewrap } from "../../../src/builders/sandbox/bubblewrap.ts";
import type { Limits } from "../../../src/builders/sandbox/limits.ts";
import { OpenSandbox } from "../../../src/builders/sandbox/open.ts";
import type { Confined, Ended, Sandbox } from "../../../src/builders/sandbox/sandbox.ts";

export const BWRAP = ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"].find(existsSync);
/** For tap: why a test of the sandbox cannot be run here. */
export const skip = BWRAP === undefined && "bubblewrap is not installed";
export const GO = execFileSync("/bin/sh", ["-c", "command -v go"], { encoding: "utf8" }).trim();
/** Kept between runs; what is cold takes a minute. */
export const CACHE = join(tmpdir(), "runtime-builds-test-cache");
export const open = new OpenSandbox();
export const never = new AbortController().signal;

type Options = {
	readonly limits?: Partial<Limits>;
	readonly groups?: boolean;
	readonly env?: Readonly<Record<string, string | undefined>>;
};

export async function folderFor(t: Test): Promise<string> {
	const path = await mkdtemp(join(tmpdir(), "hostile-"));
	t.teardown(() => rm(path, { recursive: true, force: true }));
	return path;
}

/** A sandbox of its own, closed with the test. */
export async function bubblewrap(t: Test, options: Options = {}): Promise<Bubblewrap> {
	const sandbox = await Bubblewrap.open(
		{ file: BWRAP ?? "", workFolder: await folderFor(t), ...options },
		{ signal: never },
	);
	t.teardown(() => sandbox.close());
	return sandbox;
}

export type Ran = Ended & { readonly lines: readonly string[]; readonly text: string };

/** Runs a line of shell, which stands for whatever a build might come to run. */
export async function shell(
	sandbox: Sandbox,
	script: string,
	seen: Partial<Confined> = {},
	signal: AbortSignal = never,
): Promise<Ran> {
	const lines: string[] = [];
	const ended = await sandbox.run(
		{
			file: "/bin/sh",
			args: ["-c", script],
			cwd: seen.writes?.[0] ?? "/",
			env: { PATH: "/usr/local/bin:/usr/bin:/bin" },
			log: (line) => lines.push(line),
			...{ reads: [], writes: [], hosts: [], ...seen },
		},
		{ signal },
	);
	return { ...ended, lines, text: lines.join("\n") };
}
