import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { systemCode } from "../../errors.ts";
import { platformOf } from "../../platform/platform.ts";
import type { Limited, Limits } from "./limits.ts";

const PREFIX = "runtime-build-";
/** How long a group may take to be empty after its processes were killed. */
const EMPTY_LIMIT_MS = 5_000;

/** The control group of one command. */
export interface Group {
	/** Files to which a process writes `0` to join. */
	readonly entrances: readonly string[];
	/** The limit that the kernel has enforced, if any. */
	exceeded(): Promise<Limited | undefined>;
	/** Once nothing runs in it. */
	remove(): Promise<void>;
}

/** Control groups for memory and processes, of whichever version the machine has and lets us make. */
export class Cgroups {
	readonly #parents: Parents;

	private constructor(parents: Parents) {
		this.#parents = parents;
	}

	/** Undefined where none can be made: not root and nothing delegated, or no such controllers. */
	static async open(): Promise<Cgroups | undefined> {
		const [mounts, own] = await Promise.all([read("/proc/self/mounts"), read("/proc/self/cgroup")]);
		for (const parents of candidates(mounts, own)) {
			if (parents.version === 2) await enable(parents.memory);
			const cgroups = new Cgroups(parents);
			if (await cgroups.#works()) return cgroups;
		}
		return undefined;
	}

	async #works(): Promise<boolean> {
		try {
			const group = await this.create({ memory: 2 ** 30, processes: 64 });
			await group.remove();
		} catch {
			// Whatever the reason is, the next place may be better, and without groups there are still other limits.
			return false;
		}
		for (const parent of new Set([this.#parents.memory, this.#parents.processes])) await removeLeftovers(parent);
		return true;
	}

	async create(limits: Pick<Limits, "memory" | "processes">): Promise<Group> {
		const { version, memory, processes } = this.#parents;
		const name = `${PREFIX}${process.pid}.${await startOf(process.pid)}-${randomBytes(4).toString("hex")}`;
		const [inMemory, inProcesses] = [join(memory, name), join(processes, name)];
		const folders = [...new Set([inMemory, inProcesses])];
		const group: Group = {
			entrances: folders.map((folder) => join(folder, "cgroup.procs")),
			exceeded: async () => {
				const kills = version === 1 ? join(inMemory, "memory.oom_control") : join(inMemory, "memory.events");
				if (counter(await read(kills), "oom_kill") > 0) return "memory";
				return counter(await read(join(inProcesses, "pids.events")), "max") > 0 ? "processes" : undefined;
			},
			remove: async () => {
				for (const folder of folders) await removeEmpty(folder);
			},
		};
		try {
			for (const folder of folders) await mkdir(folder);
			if (version === 1) {
				await writeFile(join(inMemory, "memory.limit_in_bytes"), String(limits.memory));
				// Where swap is not counted there is no such file.
				await writeFile(join(inMemory, "memory.memsw.limit_in_bytes"), String(limits.memory), { flag: "r+" }).catch(
					ignore,
				);
			} else {
				await writeFile(join(inMemory, "memory.max"), String(limits.memory));
				await writeFile(join(inMemory, "memory.oom.group"), "1");
				await writeFile(join(inMemory, "memory.swap.max"), "0", { flag: "r+" }).catch(ignore);
			}
			await writeFile(join(inProcesses, "pids.max"), String(limits.processes));
			return group;
		} catch (error) {
			await group.remove();
			throw error;
		}
	}
}

/** The groups below which new ones are made. */
type Parents = { readonly version: 1 | 2; readonly memory: string; readonly processes: string };

/** Our own group first: what limits the server limits its builds too. */
function candidates(mounts: string, own: string): Parents[] {
	const found: Parents[] = [];
	const mounted = mounts.split("\n").map((line) => line.split(" "));
	const groups = own.split("\n").map((line) => {
		const [, controllers = "", ...path] = line.split(":");
		return { controllers: controllers.split(","), path: path.join(":") };
	});
	const v2 = mounted.find(([, , type]) => type === "cgroup2")?.[1];
	const path = groups.find(({ controllers }) => controllers.join() === "")?.path;
	if (v2 !== undefined && path !== undefined)
		// No group may hold both processes and limited groups: where the server's own has no room, the one above may.
		for (const parent of new Set([join(v2, path), join(v2, dirname(path))]))
			found.push({ version: 2, memory: parent, processes: parent });
	const mountOf = (controller: string) =>
		mounted.find(([, , type, options]) => type === "cgroup" && options?.split(",").includes(controller))?.[1];
	const groupOf = (controller: string) => groups.find(({ controllers }) => controllers.includes(controller))?.path;
	const [memory, pids] = [mountOf("memory"), mountOf("pids")];
	if (memory !== undefined && pids !== undefined) {
		found.push({
			version: 1,
			memory: join(memory, groupOf("memory") ?? ""),
			processes: join(pids, groupOf("pids") ?? ""),
		});
		// In a container the paths may be those of the machine, and the mount already the container's own.
		found.push({ version: 1, memory, processes: pids });
	}
	return found;
}

async function enable(parent: string): Promise<void> {
	// Refused where it is enabled above us, or where processes are in it: trying a group shows which.
	await writeFile(join(parent, "cgroup.subtree_control"), "+memory +pids", { flag: "r+" }).catch(ignore);
}

/** Those of a server that was killed; in a container the next one has its number. One that lives may just have made one. */
async function removeLeftovers(parent: string): Promise<void> {
	for (const name of await readdir(parent)) {
		const owner = name.startsWith(PREFIX) ? /^(\d+)\.(\w+)-/.exec(name.slice(PREFIX.length)) : null;
		if (owner !== null && (await startOf(Number(owner[1]))) !== owner[2])
			await rmdir(join(parent, name)).catch(() => undefined);
	}
}

async function startOf(pid: number): Promise<string> {
	return (await platformOf().startTime(pid)) ?? "gone";
}

async function removeEmpty(folder: string): Promise<void> {
	const until = performance.now() + EMPTY_LIMIT_MS;
	for (let pause = 1; ; pause = Math.min(pause * 2, 100)) {
		try {
			await rmdir(folder);
			return;
		} catch (error) {
			if (systemCode(error) === "ENOENT") return;
			// Left for the next start, which removes it when it is empty.
			if (systemCode(error) !== "EBUSY" || performance.now() > until) return;
		}
		await delay(pause);
	}
}

/** The number behind a name in a file of `name number` lines; 0 where there is none. */
function counter(text: string, name: string): number {
	return Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
}

async function read(file: string): Promise<string> {
	try {
		return await readFile(file, "utf8");
	} catch (error) {
		if (["ENOENT", "EACCES", "ENODEV"].includes(systemCode(error) ?? "")) return "";
		throw error;
	}
}

function ignore(): void {
	// The limit is set without it too, or trying the group shows that it is not.
}
