import { readdir } from "node:fs/promises";
import path from "node:path";
import { Blobs } from "../src/blob/blobs.ts";
import { LevelBlobStore } from "../src/blob/level.ts";
import { buildKey } from "../src/manager/model.ts";
import { TestServer } from "../test/harness/server.ts";
import { growth } from "./memory.ts";
import { Nginx, nginxVersion } from "./nginx.ts";
import { stoppedService, writeRecords } from "./records.ts";
import { alternate, type Bench, throughput, timed } from "./rounds.ts";
import { BYTES, MIB, noise, repeated } from "./sizes.ts";
import { exchange, expectStatus } from "./wire.ts";

const ID = { id: "b", title: `${BYTES / MIB} MiB from GET /builds, against nginx serving the same file` };
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 11);

export const download: Bench = {
	id: ID.id,
	run: async (place) => {
		if (nginxVersion() === undefined) return [{ ...ID, skipped: "there is no nginx with its dav module here" }];
		const dataDir = path.join(place, "data");
		const root = path.join(dataDir, "blobs/objects");
		await prepare(dataDir);
		const [file = ""] = (await readdir(root, { recursive: true })).filter((name) => name.includes("/"));
		const server = await TestServer.start({ dataDir });
		const nginx = await Nginx.start(path.join(place, "nginx"), root);
		const headers = { authorization: `Bearer ${server.token}` };
		const ours = () => fetched(server.url, "/builds/big/latest", headers);
		const peer = () => fetched(nginx.url, `/${file}`, {});
		const grown: number[] = [];
		try {
			await ours();
			await peer();
			const sides = await alternate(
				ROUNDS,
				async () => {
					let time = 0;
					grown.push(
						await growth(server.child.pid ?? 0, async () => {
							time = await timed(ours);
						}),
					);
					return time;
				},
				() => timed(peer),
			);
			return [throughput(ID, sides, 0.75, { "server grew by at most, MiB": Math.round(Math.max(...grown)) })];
		} finally {
			await nginx.stop();
			await server.stop();
		}
	},
};

/** A service whose build has so many bytes. */
async function prepare(dataDir: string): Promise<void> {
	await using store = await LevelBlobStore.open(path.join(dataDir, "blobs"));
	const piece = noise();
	const body = (async function* () {
		yield* repeated(piece, BYTES);
	})();
	const service = stoppedService("big", { sha256: "", size: 0 });
	const key = buildKey(service.id, 1);
	const build = await new Blobs(store).in("default").put(key, body, { signal: new AbortController().signal });
	await writeRecords(dataDir, [stoppedService("big", build)]);
}

async function fetched(url: string, address: string, headers: Record<string, string>): Promise<void> {
	const answer = expectStatus(await exchange({ url, method: "GET", path: address, headers }), 200);
	if (answer.length !== BYTES) throw new Error(`${answer.length} bytes came, not ${BYTES}`);
}
