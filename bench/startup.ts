import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, symlink } from "node:fs/promises";
import path from "node:path";
import { TestServer } from "../test/harness/server.ts";
import { alternate, type Bench, type Comparison, duration, median, type Outcome, type Sides } from "./rounds.ts";

const ROOT = path.resolve(import.meta.dirname, "..");
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 21);
/** Of the packed CLI, all of it. */
const MOST_MS = 80;

export const startup: Bench = {
	id: "e",
	run: async (place) => {
		const server = await TestServer.start({ dataDir: path.join(place, "data") });
		try {
			const outcomes: Outcome[] = [];
			const clone = path.join(ROOT, "clients/cli/bin.mjs");
			const packed = await install(place);
			outcomes.push(
				await compare(
					{ id: "e1", title: "CLI of a clone, --version, against node -e 0" },
					clone,
					["--version"],
					server,
				),
			);
			outcomes.push(
				await compare({ id: "e2", title: "CLI of a clone, status, against node -e 0" }, clone, ["status"], server),
			);
			const titles = {
				version: { id: "e3", title: "packed CLI, --version, against node -e 0" },
				status: { id: "e4", title: "packed CLI, status, against node -e 0" },
			};
			if (typeof packed === "string") {
				outcomes.push(await compare(titles.version, packed, ["--version"], server));
				outcomes.push(await compare(titles.status, packed, ["status"], server));
			} else outcomes.push(...Object.values(titles).map((title) => ({ ...title, ...packed })));
			return outcomes;
		} finally {
			await server.stop();
		}
	},
};

async function compare(
	id: { readonly id: string; readonly title: string },
	launcher: string,
	args: readonly string[],
	server: TestServer,
): Promise<Comparison> {
	const ours = async () => run([launcher, ...args], server.env);
	const peer = async () => run(["-e", "0"], {});
	await ours();
	const sides: Sides = await alternate(ROUNDS, ours, peer);
	const over = Math.round(median(sides.ours) - median(sides.peer));
	return duration(id, sides, { target: `≤ ${MOST_MS} ms`, most: MOST_MS }, { "ours takes longer by, ms": over });
}

/** → milliseconds */
function run(args: readonly string[], env: Readonly<Record<string, string>>): number {
	const { RUNTIME_URL: _url, RUNTIME_TOKEN: _token, ...inherited } = process.env;
	const started = performance.now();
	const { status, stderr } = spawnSync(process.execPath, args, {
		env: { ...inherited, ...env },
		stdio: ["ignore", "ignore", "pipe"],
	});
	const time = performance.now() - started;
	if (status !== 0) throw new Error(`${args.join(" ")} ended with ${status}: ${stderr}`);
	return time;
}

/** The package as `npm pack` makes it, beside the dependencies of this clone; → the launcher's path. */
async function install(place: string): Promise<string | { readonly skipped: string }> {
	const made = spawnSync("npm", ["pack", "--silent", "--pack-destination", place], { cwd: ROOT, encoding: "utf8" });
	const archive = made.stdout?.trim().split("\n").at(-1) ?? "";
	if (made.status !== 0) return { skipped: `npm pack failed: ${made.stderr.trim().split("\n")[0]}` };
	const modules = path.join(place, "node_modules");
	await mkdir(modules);
	for (const name of await readdir(path.join(ROOT, "node_modules")))
		if (!name.startsWith(".")) await symlink(path.join(ROOT, "node_modules", name), path.join(modules, name));
	if (spawnSync("tar", ["-xzf", path.join(place, archive), "-C", place]).status !== 0)
		throw new Error(`${archive} cannot be unpacked`);
	const folder = path.join(modules, "runtime-builds");
	await rename(path.join(place, "package"), folder);
	if (!existsSync(path.join(folder, "dist"))) return { skipped: "the package holds no compiled files" };
	return path.join(folder, "clients/cli/bin.mjs");
}
