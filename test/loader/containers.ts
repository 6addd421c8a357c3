import { execFileSync } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import Docker from "dockerode";
import type { Test } from "tap";
import { createImages } from "../../src/runtimes/docker/images.ts";
import { LoaderBinary } from "../../src/runtimes/docker/loader-binary.ts";
import type { BuildSite } from "./build-site.ts";

export const TOKEN = "rbl_a-token-that-nobody-may-see";
export const LIMIT = 60_000;

export type Ended = { readonly code: number; readonly stdout: string; readonly stderr: string; readonly last: string };
export type RunOptions = {
	readonly image?: string;
	readonly args?: readonly string[];
	readonly env?: Readonly<Record<string, string>>;
	readonly scratch?: string;
	readonly user?: string;
};

/** Why there can be no containers, or false. */
export function missing(): string | false {
	for (const tool of ["dockerd", "go"])
		try {
			execFileSync("sh", ["-c", `command -v ${tool}`]);
		} catch {
			return `there is no ${tool}`;
		}
	return process.getuid?.() === 0 ? false : "only root starts dockerd";
}

/** A program that says what it sees. */
export async function probe(t: Test): Promise<Buffer> {
	const folder = await mkdtemp(path.join(tmpdir(), "loader-probe-"));
	t.teardown(() => rm(folder, { recursive: true }));
	const file = path.join(folder, "probe");
	execFileSync(
		"go",
		["build", "-trimpath", "-ldflags=-s -w", "-o", file, path.join(import.meta.dirname, "probe/main.go")],
		{
			env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-buildvcs=false", GOWORK: "off" },
		},
	);
	return readFile(file);
}

/** Waits for a condition. */
export async function until(words: string, condition: () => boolean | Promise<boolean>): Promise<void> {
	const last = performance.now() + LIMIT;
	while (!(await condition())) {
		if (performance.now() > last) throw new Error(`waited in vain for ${words}`);
		await delay(20);
	}
}

/** Containers as the Docker runtime starts them. */
export class Containers {
	readonly docker: Docker;
	readonly loader: LoaderBinary;
	/** The address of the bridge: ours, as containers see it. */
	readonly gateway: string;
	readonly #image: string;
	readonly #t: Test;

	private constructor(t: Test, docker: Docker, loader: LoaderBinary, gateway: string, image: string) {
		this.#t = t;
		this.docker = docker;
		this.loader = loader;
		this.gateway = gateway;
		this.#image = image;
	}

	static async open(t: Test, socketPath: string): Promise<Containers> {
		const docker = new Docker({ socketPath });
		const cache = path.join(tmpdir(), `runtime-test-loader-${process.getuid?.()}`);
		const loader = new LoaderBinary({ go: "go", cache });
		const { IPAM } = await docker.getNetwork("bridge").inspect();
		const image = await createImages({ docker, loader }).image("none");
		return new Containers(t, docker, loader, IPAM?.Config?.[0]?.Gateway ?? "", image);
	}

	/** The environment by which the loader is told of a build. */
	static configuration(site: BuildSite, build: Uint8Array): Record<string, string> {
		return {
			RUNTIME_LOADER_URL: site.url,
			RUNTIME_LOADER_TOKEN: TOKEN,
			RUNTIME_LOADER_CA: site.ca,
			RUNTIME_LOADER_SHA256: createHash("sha256").update(build).digest("hex"),
			RUNTIME_LOADER_SIZE: String(build.length),
			RUNTIME_LOADER_NAMESPACE: "tests",
		};
	}

	async start(options: RunOptions): Promise<Started> {
		const container = await this.docker.createContainer({
			name: `loader-test-${randomUUID()}`,
			Image: options.image ?? this.#image,
			User: options.user ?? "65532:65532",
			Cmd: [...(options.args ?? [])],
			Env: Object.entries(options.env ?? {}).map(([name, value]) => `${name}=${value}`),
			HostConfig: {
				ReadonlyRootfs: true,
				CapDrop: ["ALL"],
				SecurityOpt: ["no-new-privileges"],
				Tmpfs: {
					"/tmp": "rw,nosuid,nodev,noexec,size=64m",
					"/run/runtime": options.scratch ?? "rw,exec,nosuid,nodev,mode=0700,uid=65532,gid=65532,size=256m",
				},
				Memory: 512 * 1024 ** 2,
				PidsLimit: 64,
			},
		});
		this.#t.teardown(() => container.remove({ force: true, v: true }));
		await container.start();
		return new Started(container);
	}

	async run(options: RunOptions): Promise<Ended> {
		return (await this.start(options)).ended();
	}
}

export class Started {
	readonly container: Docker.Container;

	constructor(container: Docker.Container) {
		this.container = container;
	}

	async ended(): Promise<Ended> {
		const { StatusCode: code } = await this.container.wait({ abortSignal: AbortSignal.timeout(LIMIT) });
		const { stdout, stderr } = await this.output();
		return { code, stdout, stderr, last: stderr.trimEnd().split("\n").at(-1) ?? "" };
	}

	async output(): Promise<{ stdout: string; stderr: string }> {
		const raw = await this.container.logs({ stdout: true, stderr: true, follow: false });
		const texts = ["", "", ""];
		// Each frame: which stream, three zeros, its length, its bytes.
		for (let at = 0; at + 8 <= raw.length; at += 8 + raw.readUInt32BE(at + 4))
			texts[raw.readUInt8(at)] += raw.toString("utf8", at + 8, at + 8 + raw.readUInt32BE(at + 4));
		return { stdout: texts[1] ?? "", stderr: texts[2] ?? "" };
	}

	/** Resolves when the program has written this. */
	async says(words: string): Promise<void> {
		await until(words, async () => {
			const { stdout, stderr } = await this.output();
			return `${stdout}${stderr}`.includes(words);
		});
	}
}
