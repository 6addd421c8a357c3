import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Docker from "dockerode";
import t, { type Test } from "tap";
import { Bubblewrap } from "../../../src/builders/sandbox/bubblewrap.ts";
import { ContainerSandbox } from "../../../src/builders/sandbox/container/container.ts";
import type { Limits } from "../../../src/builders/sandbox/limits.ts";
import { OpenSandbox } from "../../../src/builders/sandbox/open.ts";
import type { Confined, Ended, Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { BuildContainers } from "../../../src/runtimes/docker/build-containers.ts";
import { Dockerd } from "../../harness/dockerd.ts";

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

export const noEngine = await Dockerd.missing();
let engine: Promise<Dockerd> | undefined;

/** The test file's own. */
export async function ownEngine(): Promise<Dockerd> {
	if (engine === undefined) {
		const started = Dockerd.start();
		engine = started;
		t.teardown(async () => (await started).stop());
	}
	return engine;
}

/** The same of containers. */
export async function containers(t: Test, { limits = {}, env }: Options = {}) {
	const { socket } = await ownEngine();
	const sandbox = await ContainerSandbox.open(
		{
			engine: new BuildContainers(new Docker({ socketPath: socket })),
			...{ owner: Math.random().toString(36).slice(2), workFolder: await folderFor(t), limits },
			...(env === undefined ? {} : { env }),
		},
		{ signal: never },
	);
	t.teardown(() => sandbox.close());
	return Object.assign(sandbox, { grouped: true });
}

export type SandboxOf = (t: Test, options?: Options) => Promise<Sandbox & { readonly grouped: boolean }>;

/** What holds in each sandbox. */
export function inEach(name: string, body: (t: Test, sandboxOf: SandboxOf) => Promise<void>): void {
	t.test(name, { skip }, (t) => body(t, bubblewrap));
	t.test(`in containers: ${name}`, { skip: noEngine }, (t) => body(t, containers));
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
