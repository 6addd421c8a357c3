import { createHash } from "node:crypto";
import { open, readdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { TestServer, until } from "../test/harness/server.ts";
import { growth } from "./memory.ts";
import { Nginx, nginxVersion } from "./nginx.ts";
import { alternate, type Bench, throughput, timed } from "./rounds.ts";
import { BYTES, MIB, noise, repeated } from "./sizes.ts";
import { exchange, expectStatus } from "./wire.ts";

const ID = { id: "a", title: `${BYTES / MIB} MiB to POST /sources, against nginx PUT + fsync + sha256` };
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 7);

export const upload: Bench = {
	id: ID.id,
	run: async (place) => {
		if (nginxVersion() === undefined) return [{ ...ID, skipped: "there is no nginx with its dav module here" }];
		const dataDir = path.join(place, "data");
		// Sources are removed as soon as they are there, so that the disk is not filled by the rounds.
		const server = await TestServer.start({ dataDir, env: { RUNTIME_SOURCE_AGE: "0", RUNTIME_COLLECT_EVERY: "1" } });
		const nginx = await Nginx.start(path.join(place, "nginx"), path.join(place, "nginx/files"));
		const piece = noise();
		const expected = createHash("sha256");
		for (const part of repeated(piece, BYTES)) expected.update(part);
		const digest = expected.digest("hex");
		const grown: number[] = [];
		try {
			await ours(server, piece, 16 * MIB);
			await emptied(dataDir);
			await peer(nginx, place, piece, 16 * MIB);
			const sides = await alternate(
				ROUNDS,
				async () => {
					await settle(place, piece);
					let time = 0;
					grown.push(
						await growth(server.child.pid ?? 0, async () => {
							time = await timed(async () => same(await ours(server, piece, BYTES), digest));
						}),
					);
					await emptied(dataDir);
					return time;
				},
				async () => {
					await settle(place, piece);
					return timed(async () => same(await peer(nginx, place, piece, BYTES), digest));
				},
			);
			return [throughput(ID, sides, 1, { "server grew by at most, MiB": Math.round(Math.max(...grown)) })];
		} finally {
			await nginx.stop();
			await server.stop();
		}
	},
};

/**
 * The same start for both sides. Writes so much to the page cache and throws it away: on a virtual machine the first use of a
 * page costs more than the work that is measured. Then has the file system finish what was removed before: the next sync would
 * wait for it, whosever that is.
 */
async function settle(place: string, piece: Buffer): Promise<void> {
	const file = path.join(place, "pages");
	await writeFile(file, repeated(piece, BYTES + 128 * MIB));
	await rm(file);
	const folder = await open(place);
	await folder.sync();
	await folder.close();
}

/** → the digest that the server found. */
async function ours(server: TestServer, piece: Buffer, bytes: number): Promise<string> {
	const boundary = "----bench";
	const head = Buffer.from(
		`--${boundary}\r\ncontent-disposition: form-data; name="archive"; filename="a.tar.gz"\r\ncontent-type: application/gzip\r\n\r\n`,
	);
	const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
	const answer = await exchange({
		...{ url: server.url, method: "POST", path: "/sources" },
		headers: {
			authorization: `Bearer ${server.token}`,
			"content-type": `multipart/form-data; boundary=${boundary}`,
			"content-length": head.length + bytes + tail.length,
		},
		body: (function* () {
			yield head;
			yield* repeated(piece, bytes);
			yield tail;
		})(),
	});
	return /sha256:([0-9a-f]{64})/.exec(expectStatus(answer, 201).start)?.[1] ?? "";
}

/** → the digest of the file that nginx made, synced as well; the file is removed. */
async function peer(nginx: Nginx, place: string, piece: Buffer, bytes: number): Promise<string> {
	const answer = await exchange({
		...{ url: nginx.url, method: "PUT", path: "/upload" },
		headers: { "content-length": bytes },
		body: repeated(piece, bytes),
	});
	expectStatus(answer, 201, 204);
	const file = path.join(place, "nginx/files/upload");
	const handle = await open(file);
	try {
		await handle.sync();
		const hash = createHash("sha256");
		const buffer = Buffer.allocUnsafe(MIB);
		for (;;) {
			const { bytesRead } = await handle.read(buffer, 0, MIB, null);
			if (bytesRead === 0) return hash.digest("hex");
			hash.update(buffer.subarray(0, bytesRead));
		}
	} finally {
		await handle.close();
		await rm(file);
	}
}

function same(actual: string, digest: string): void {
	if (actual !== digest) throw new Error(`the digest is ${actual}, not ${digest}`);
}

/** Resolves when the collection has removed what was uploaded. */
async function emptied(dataDir: string): Promise<void> {
	const folder = path.join(dataDir, "blobs/objects");
	await until(async () => {
		for (const shard of await readdir(folder)) if ((await readdir(path.join(folder, shard))).length > 0) return false;
		return true;
	}, "the sources are collected");
}
