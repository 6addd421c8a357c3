import { spawnSync } from "node:child_process";
import { realpath, writeFile } from "node:fs/promises";
import path from "node:path";
import type { ImageEntry } from "../src/runtimes/docker/image-archive.ts";
import { sharedLibraries } from "../src/runtimes/docker/shared-libraries.ts";
import { Dockerd } from "../test/harness/dockerd.ts";
import { TestServer } from "../test/harness/server.ts";
import { Wire } from "../test/loader/wire.ts";
import { loadImage, withoutEngine } from "./engine.ts";
import { runningUrl } from "./hello.ts";
import { alternate, amount, type Bench, duration, median, timed } from "./rounds.ts";
import { MIB } from "./sizes.ts";

const SIZE = 50;
const WHAT = `a build of ${SIZE} MiB over HTTPS by the loader, against curl in a container`;
const TIME = { id: "g1", title: `${WHAT}: start of the container to the program's end` };
const BYTES = { id: "g2", title: `${WHAT}: bytes that the server sends` };
/** They hardly differ. */
const BYTE_ROUNDS = 3;
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 11);
const NAME = "ballast";
/** Ends at once where it has an argument, so that its end is its start. */
const PROGRAM = `package main

import (
	_ "embed"
	"net/http"
	"os"
)

//go:embed ballast
var ballast string

func main() {
	if len(os.Args) > 1 || ballast == "" {
		os.Exit(0)
	}
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`;

export const loading: Bench = {
	id: "g",
	run: async (place) => {
		const skipped = await withoutEngine("curl");
		if (skipped !== undefined) return [TIME, BYTES].map((id) => ({ ...id, skipped }));
		const dockerd = await Dockerd.start();
		try {
			const dataDir = path.join(place, "data");
			const args = ["--profile", "docker", "--docker", dockerd.socket, "--stop-services"];
			const server = await TestServer.start({ dataDir, args });
			try {
				return await measured(server, dockerd);
			} finally {
				await server.stop();
			}
		} finally {
			await dockerd.stop();
		}
	},
};

async function measured(server: TestServer, dockerd: Dockerd) {
	const { image, env } = await running(server, dockerd);
	const curl = await curlImage(dockerd, path.dirname(server.dataDir));
	const port = Number(new URL(env.RUNTIME_LOADER_URL ?? "").port);
	await using wire = await Wire.open(dockerd.address, async () => ({ host: dockerd.address, port }));
	const at = (port: number) => (env.RUNTIME_LOADER_URL ?? "").replace(/:\d+\//, `:${port}/`);
	const ours = (port: number) =>
		ended(dockerd, { image, env: { ...env, RUNTIME_LOADER_URL: at(port) }, args: ["end"] });
	const peer = (port: number) => ended(dockerd, { image: curl, env: {}, args: curlArguments(env, at(port)) });

	await ours(port);
	await peer(port);
	const times = await alternate(
		ROUNDS,
		() => ours(port),
		() => peer(port),
	);
	const bytes = await alternate(
		BYTE_ROUNDS,
		() => carried(wire, ours),
		() => carried(wire, peer),
	);
	const over = Math.round(median(times.ours) - median(times.peer));
	const most = median(times.peer) * 1.5 + 100;
	return [
		duration(TIME, times, { target: "≤ 1.5 × + 100 ms", most }, { "ours takes longer by, ms": over }),
		amount(BYTES, bytes, 1.01, { "bytes of the build": Number(env.RUNTIME_LOADER_SIZE) }),
	];
}

type Given = { readonly image: string; readonly env: Readonly<Record<string, string>> };

/** The service, which runs on; → what its container's loader was given. */
async function running(server: TestServer, { docker }: Dockerd): Promise<Given> {
	const source = await server.api.uploadFiles({
		"go.mod": "module example.com/ballast\n\ngo 1.21\n",
		"main.go": PROGRAM,
		ballast: "0123456789abcde\n".repeat((SIZE * MIB) / 16),
	});
	await server.api.create({ name: NAME, source });
	await runningUrl(server, NAME);
	const [found] = await docker.listContainers({ filters: { label: [`runtime-builds.name=${NAME}`] } });
	if (found === undefined) throw new Error("there is no container");
	const { Config: config } = await docker.getContainer(found.Id).inspect();
	const entries = config.Env.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]);
	const env = Object.fromEntries(entries.filter(([name]) => name?.startsWith("RUNTIME_LOADER_")));
	await writeFile(path.join(server.dataDir, "..", "ca.pem"), env.RUNTIME_LOADER_CA);
	return { image: config.Image, env };
}

/** curl with its libraries, and whom it is to trust. */
async function curlImage({ docker }: Dockerd, place: string): Promise<string> {
	const found = spawnSync("sh", ["-c", "command -v curl"], { encoding: "utf8" }).stdout.trim();
	const program = await realpath(found);
	const { needed } = await sharedLibraries(program);
	const file = (name: string, source: string): ImageEntry => ({ type: "file", name, mode: 0o755, source });
	return loadImage(docker, "bench-curl:latest", [
		file("curl", program),
		...needed.map((library) => file(library.slice(1), library)),
		{ type: "file", name: "ca.pem", mode: 0o644, source: path.join(place, "ca.pem") },
	]);
}

function curlArguments(env: Given["env"], url: string): string[] {
	const headers = [
		`Authorization: Bearer ${env.RUNTIME_LOADER_TOKEN}`,
		`Runtime-Namespace: ${env.RUNTIME_LOADER_NAMESPACE}`,
	];
	const all = headers.flatMap((header) => ["--header", header]);
	return ["--silent", "--show-error", "--fail", "--cacert", "/ca.pem", ...all, "--output", "/run/runtime/build", url];
}

/** Milliseconds from a container's start to its end. */
async function ended({ docker }: Dockerd, { image, env, args }: Given & { readonly args: string[] }): Promise<number> {
	const container = await docker.createContainer({
		...{ Image: image, User: "65532:65532", Cmd: args },
		Env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
		HostConfig: {
			...{ ReadonlyRootfs: true, CapDrop: ["ALL"], SecurityOpt: ["no-new-privileges"], PidsLimit: 256 },
			...{ Memory: 600 * MIB, MemorySwap: 600 * MIB, NanoCpus: 1e9 },
			Tmpfs: {
				"/tmp": "rw,nosuid,nodev,noexec,size=64m",
				"/run/runtime": `rw,exec,nosuid,nodev,mode=0700,uid=65532,gid=65532,size=${2 * SIZE}m`,
			},
		},
	});
	try {
		let code = -1;
		const time = await timed(async () => {
			await container.start();
			code = (await container.wait()).StatusCode;
		});
		if (code !== 0)
			throw new Error(`${image} ended with ${code}: ${await container.logs({ stdout: true, stderr: true })}`);
		return time;
	} finally {
		await container.remove({ force: true, v: true });
	}
}

/** Bytes on the wire, TLS and headers included. */
async function carried(wire: Wire, download: (port: number) => Promise<unknown>): Promise<number> {
	wire.mend();
	await download(wire.port);
	return wire.total;
}
