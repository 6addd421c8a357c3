import { type ChildProcess, spawn } from "node:child_process";
import { cp, readFile } from "node:fs/promises";
import { Agent, request } from "node:http";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { TestServer } from "../test/harness/server.ts";
import { stoppedService, writeRecords } from "./records.ts";
import { alternate, type Bench, throughput, timed } from "./rounds.ts";

const SERVICES = 10_000;
const PAGE = 100;
const ID = { id: "d", title: `GET /services, ${SERVICES} services, pages of ${PAGE}, against Fastify + LevelDB alone` };
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 15);
/** Clients at the same time, each on a connection of its own. */
const CLIENTS = 4;
/** Whole lists that a round reads. */
const LISTS = 4;
const PEER = path.join(import.meta.dirname, "list-peer.ts");

type Side = { readonly url: string; readonly token: string; readonly pages: readonly string[] };

export const list: Bench = {
	id: ID.id,
	run: async (place) => {
		const dataDir = path.join(place, "data");
		const build = { sha256: "ab".repeat(32), size: 4_500_000 };
		const services = Array.from({ length: SERVICES }, (_, index) =>
			stoppedService(`service-${String(index).padStart(5, "0")}`, build),
		);
		await writeRecords(dataDir, services);
		const copy = path.join(place, "copy");
		await cp(path.join(dataDir, "records/level"), copy, { recursive: true });
		const server = await TestServer.start({ dataDir });
		const other = await startPeer(copy);
		const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS });
		try {
			await idle(server.child.pid);
			const ours = await side(agent, { url: server.url, token: server.token }, "cursor", "nextCursor");
			const peer = await side(agent, { url: other.url, token: "" }, "after", "next");
			for (let warming = 0; warming < 3; warming++) for (const one of [ours, peer]) await read(agent, one);
			const sides = await alternate(
				ROUNDS,
				() => timed(() => read(agent, ours)),
				() => timed(() => read(agent, peer)),
			);
			return [throughput(ID, sides, 0.8, { "pages in a round": ours.pages.length * LISTS })];
		} finally {
			agent.destroy();
			other.child.kill("SIGTERM");
			await server.stop();
		}
	},
};

/** Waits until a server that has just started over its services has looked at each of them, which is not what is measured. */
async function idle(pid: number | undefined): Promise<void> {
	const ticks = async () => {
		const stat = await readFile(`/proc/${pid}/stat`, "latin1");
		const [user, system] = stat
			.slice(stat.lastIndexOf(")") + 2)
			.split(" ")
			.slice(11, 13);
		return Number(user) + Number(system);
	};
	for (let before = await ticks(); ; ) {
		await delay(500);
		const now = await ticks();
		if (now - before <= 1) return;
		before = now;
	}
}

async function startPeer(folder: string): Promise<{ readonly url: string; readonly child: ChildProcess }> {
	const child = spawn(process.execPath, [PEER, folder], { stdio: ["ignore", "pipe", "inherit"] });
	for await (const line of createInterface({ input: child.stdout })) {
		const url = /ready at (\S+)/.exec(line)?.[1];
		if (url !== undefined) return { url, child };
	}
	throw new Error("the peer did not start");
}

/** Walks the whole list once, to know the pages' addresses and that every service is there once. */
async function side(
	agent: Agent,
	where: { readonly url: string; readonly token: string },
	parameter: string,
	nextField: string,
): Promise<Side> {
	const pages: string[] = [];
	const names = new Set<string>();
	for (let address: string | undefined = `/services?limit=${PAGE}`; address !== undefined; ) {
		const page = JSON.parse(await get(agent, where, address));
		if (page.services.length > 0) pages.push(address);
		for (const { name } of page.services) names.add(name);
		const next: unknown = page[nextField];
		address = typeof next === "string" ? `/services?limit=${PAGE}&${parameter}=${encodeURIComponent(next)}` : undefined;
	}
	if (names.size !== SERVICES || pages.length !== SERVICES / PAGE)
		throw new Error(`${where.url} listed ${names.size} services on ${pages.length} pages`);
	return { ...where, pages };
}

/** Reads every page LISTS times, by all clients together. */
async function read(agent: Agent, { pages, ...where }: Side): Promise<void> {
	const left = Array.from({ length: LISTS }, () => pages).flat();
	const client = async () => {
		for (let page = left.pop(); page !== undefined; page = left.pop()) await get(agent, where, page, false);
	};
	await Promise.all(Array.from({ length: CLIENTS }, client));
}

function get(
	agent: Agent,
	where: { readonly url: string; readonly token: string },
	address: string,
	keep = true,
): Promise<string> {
	return new Promise((resolve, reject) => {
		const headers = { authorization: `Bearer ${where.token}` };
		const outgoing = request(new URL(address, where.url), { agent, headers }, (response) => {
			if (response.statusCode !== 200) reject(new Error(`${address}: ${response.statusCode}`));
			let text = "";
			response.on("data", (chunk: Buffer) => {
				if (keep) text += chunk.toString("latin1");
			});
			response.on("end", () => resolve(text));
			response.on("error", reject);
		});
		outgoing.on("error", reject);
		outgoing.end();
	});
}
