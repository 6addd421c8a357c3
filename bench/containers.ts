import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { Dockerd } from "../test/harness/dockerd.ts";
import { TestServer, until } from "../test/harness/server.ts";
import { loadImage, withoutEngine } from "./engine.ts";
import { answering, createToAnswer, goBuild, helloSource, runningUrl } from "./hello.ts";
import { freePort } from "./port.ts";
import { alternate, type Bench, duration, median, type Sides, timed } from "./rounds.ts";

const AGAINST = "warm cache, changed source, against go build + docker run of a ready image";
const FIRST = { id: "f1", title: `create request to first answer in a container, first of its namespace, ${AGAINST}` };
const FURTHER = { id: "f2", title: `create request to first answer in a container, one more, ${AGAINST}` };
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 9);
const PORT = 8080;
/** Those of our containers. */
const OPTIONS = [
	...["--memory", "512m", "--memory-swap", "512m", "--cpus", "1", "--pids-limit", "256"],
	...["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
	...["--env", "HOST=0.0.0.0", "--env", `PORT=${PORT}`],
];

type Peer = { readonly time: number; readonly build: number };

export const containers: Bench = {
	id: "f",
	run: async (place) => {
		const skipped = await withoutEngine("docker");
		if (skipped !== undefined) return [FIRST, FURTHER].map((id) => ({ ...id, skipped }));
		const dockerd = await Dockerd.start();
		try {
			const { socket } = dockerd;
			const args = ["--profile", "docker", "--docker", socket, "--stop-services"];
			const env = { RUNTIME_CACHE_DIR: path.join(place, "cache") };
			const server = await TestServer.start({ dataDir: path.join(place, "data"), args, env });
			try {
				// The caches, and the base image.
				await createToAnswer(server, place, "first");
				await peer(dockerd, place, "first");
				const first = await measured(server, dockerd, place, "alone");
				await server.api.create({
					name: "other",
					source: await server.api.uploadFolder(await helloSource(place, "other")),
				});
				await runningUrl(server, "other");
				const further = await measured(server, dockerd, place, "more");
				return [compared(FIRST, first), compared(FURTHER, further)];
			} finally {
				await server.stop();
			}
		} finally {
			await dockerd.stop();
		}
	},
};

type Measured = Sides & { readonly builds: readonly number[] };

async function measured(server: TestServer, dockerd: Dockerd, place: string, what: string): Promise<Measured> {
	const builds: number[] = [];
	const sides = await alternate(
		ROUNDS,
		(round) => createToAnswer(server, place, `${what}-${round}`),
		async (round) => {
			const { time, build } = await peer(dockerd, place, `${what}-${round}`);
			builds.push(build);
			return time;
		},
	);
	return { ...sides, builds };
}

function compared(id: typeof FIRST, { builds, ours, peer }: Measured) {
	const most = median(peer) * 1.3 + 300;
	const over = Math.round(median(ours) - median(peer));
	return duration(
		id,
		{ ours, peer },
		{ target: "≤ 1.3 × + 300 ms", most },
		{
			"allowed, ms": Math.round(most),
			"ours takes longer by, ms": over,
			"of the peer go build, ms": Math.round(median(builds)),
		},
	);
}

/** Builds, makes an image of the program (nobody counts that), and runs it, published at a port of this machine as ours is. */
async function peer({ docker, socket }: Dockerd, place: string, round: string): Promise<Peer> {
	const folder = await helloSource(place, `peer-${round}`);
	let program = "";
	const build = await timed(async () => {
		program = await goBuild(place, folder);
	});
	const image = await loadImage(docker, `bench-hello:${round}`, [
		{ type: "file", name: "program", mode: 0o755, source: program },
	]);
	const port = await freePort();
	const name = `bench-hello-${round}`;
	try {
		const run = await timed(async () => {
			const publish = ["--publish", `127.0.0.1:${port}:${PORT}`];
			await docked(socket, ["run", "--detach", "--name", name, ...publish, ...OPTIONS, image]);
			await answering(`http://127.0.0.1:${port}`, `peer-${round}`);
		});
		return { time: build + run, build };
	} finally {
		const removed = docker.getContainer(name).remove({ force: true, v: true });
		await removed.catch((error: unknown) => process.stderr.write(`${name} stays: ${String(error)}\n`));
		await until(async () => (await docker.listContainers({ all: true, filters: { name: [name] } })).length === 0, name);
		await docker.getImage(image).remove();
	}
}

async function docked(socket: string, args: readonly string[]): Promise<void> {
	const child = spawn("docker", ["--host", `unix://${socket}`, ...args], { stdio: ["ignore", "ignore", "inherit"] });
	const [code] = await once(child, "exit");
	if (code !== 0) throw new Error(`docker ${args[0]} failed with ${code}`);
}
