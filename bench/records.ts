import path from "node:path";
import { Database } from "../src/leveldb/database.ts";
import { LevelServiceStore } from "../src/manager/level-store.ts";
import type { BuildRecord, ServiceRecord } from "../src/manager/model.ts";

const NOW = new Date().toISOString();

/** A service that was built, ran and was stopped: a server that starts over it has nothing to do. */
export function stoppedService(name: string, build: Pick<BuildRecord, "sha256" | "size">): ServiceRecord {
	return {
		...{ id: `bench-${name}`, namespace: "default", name, version: "latest", stamp: 1, seq: 0 },
		...{ desired: "stopped", live: 1, newest: 1, url: `http://127.0.0.1:20000`, metadata: { team: "bench" } },
		revisions: [
			{
				...{ revision: 1, status: "Stopped", generation: 1, lastGeneration: 1, launch: null, error: null },
				build: { ...build, builder: "go", requires: "none", revision: 1 },
				...{ source: "source://bench", entrypoint: ".", args: ["-v"], env: { GREETING: "hello", LEVEL: "info" } },
				health: { type: "port", path: "/", timeout: 60 },
				...{ restart: "on-failure", instances: 1, createdAt: NOW, updatedAt: NOW },
			},
		],
		...{ createdAt: NOW, updatedAt: NOW },
	};
}

/** Writes records into the data folder of a server that is not running. */
export async function writeRecords(dataDir: string, services: readonly ServiceRecord[]): Promise<void> {
	await using store = new LevelServiceStore(await Database.open(path.join(dataDir, "records")));
	const source = { namespace: "default", id: "bench", sha256: "0".repeat(64), size: 1, createdAt: NOW };
	await store.putSource(source);
	await Promise.all(
		services.map((service) =>
			store.commit({ service, expected: null, revisions: service.revisions, events: [], requireSource: source.id }),
		),
	);
}
