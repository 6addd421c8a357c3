/** `npm run bench [a b c d e f g]`: see bench/README.md. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import path from "node:path";
import { containers } from "./containers.ts";
import { create } from "./create.ts";
import { download } from "./download.ts";
import { list } from "./list.ts";
import { loading } from "./loading.ts";
import { record, sentence } from "./report.ts";
import type { Outcome } from "./rounds.ts";
import { startup } from "./startup.ts";
import { upload } from "./upload.ts";

const ALL = [upload, download, create, list, startup, containers, loading];

const wanted = process.argv.slice(2);
const chosen = wanted.length === 0 ? ALL : ALL.filter(({ id }) => wanted.includes(id));
const unknown = wanted.filter((id) => !ALL.some((bench) => bench.id === id));
if (unknown.length > 0)
	throw new Error(`there is no bench ${unknown.join(", ")}; there are ${ALL.map(({ id }) => id).join(", ")}`);

// Here and not in the system's folder for temporary files, which may be in memory.
const work = path.join(import.meta.dirname, ".work");
await mkdir(work, { recursive: true });
const outcomes: Outcome[] = [];
for (const { id, run } of chosen) {
	const place = await mkdtemp(path.join(work, `${id}-`));
	try {
		for (const outcome of await run(place)) {
			outcomes.push(outcome);
			process.stdout.write(`${sentence(outcome)}\n`);
		}
	} finally {
		await rm(place, { recursive: true, force: true, maxRetries: 5 });
	}
}
process.stdout.write(`results in ${path.relative(process.cwd(), await record(outcomes))}\n`);
