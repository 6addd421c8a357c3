import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { rm } from "node:fs/promises";
import path from "node:path";
import { TestServer } from "../test/harness/server.ts";
import { answering, createToAnswer, goBuild, helloSource } from "./hello.ts";
import { freePort } from "./port.ts";
import { alternate, type Bench, duration, median, type Sides, timed } from "./rounds.ts";

const COLD = { id: "c1", title: "create request to first answer, empty compile cache, against go build + exec" };
const WARM = { id: "c2", title: "create request to first answer, warm cache, changed source, against go build + exec" };
const COLD_ROUNDS = 2;
const WARM_ROUNDS = Number(process.env.BENCH_ROUNDS ?? 9);

export const create: Bench = {
	id: "c",
	run: async (place) => {
		if (spawnSync("go", ["version"]).status !== 0) {
			if (process.env.CI === "true") throw new Error("go is needed");
			return [COLD, WARM].map((id) => ({ ...id, skipped: "there is no Go here" }));
		}
		const dataDir = path.join(place, "data");
		const cacheDir = path.join(place, "cache");
		const server = await TestServer.start({ dataDir, args: ["--stop-services"], env: { RUNTIME_CACHE_DIR: cacheDir } });
		try {
			const cold = await alternate(
				COLD_ROUNDS,
				async (round) => {
					await rm(path.join(cacheDir, "go/build"), { recursive: true, force: true });
					return createToAnswer(server, place, `cold-${round}`);
				},
				async (round) => {
					await rm(path.join(place, "peer-cache"), { recursive: true, force: true });
					return peer(place, `cold-${round}`);
				},
			);
			const warm = await alternate(
				WARM_ROUNDS,
				(round) => createToAnswer(server, place, `warm-${round}`),
				(round) => peer(place, `warm-${round}`),
			);
			return [compared(COLD, cold), compared(WARM, warm)];
		} finally {
			await server.stop();
		}
	},
};

function compared(id: typeof COLD, sides: Sides) {
	const most = median(sides.peer) * 1.1 + 100;
	const over = Math.round(median(sides.ours) - median(sides.peer));
	return duration(id, sides, { target: "≤ 1.1 × + 100 ms", most }, { "ours takes longer by, ms": over });
}

async function peer(place: string, round: string): Promise<number> {
	const folder = await helloSource(place, round);
	const port = await freePort();
	let running: ChildProcess | undefined;
	try {
		return await timed(async () => {
			const program = await goBuild(place, folder);
			running = spawn(program, { env: { HOST: "127.0.0.1", PORT: String(port) }, stdio: "ignore" });
			await answering(`http://127.0.0.1:${port}`, round);
		});
	} finally {
		running?.kill("SIGKILL");
	}
}
