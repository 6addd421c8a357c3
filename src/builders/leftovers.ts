import { createHash } from "node:crypto";
import { lstat, mkdtemp, readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "../errors.ts";
import { platformOf } from "../platform/platform.ts";
import { removeTree } from "../remove-tree.ts";

/**
 * Temporary folders in places that a server shares with others: a folder of caches that several use, the system's own for
 * temporary files. Their names say whose they are, so that one that was killed finds its own at its next start.
 */
export class Leftovers {
	readonly #owner: string;
	readonly #self: string;

	private constructor(owner: string, self: string) {
		this.#owner = owner;
		this.#self = self;
	}

	/** `dataFolder` stands for the server: two at a time cannot have the same one. */
	static async of(dataFolder: string): Promise<Leftovers> {
		const path = await realpath(dataFolder);
		// Containers have the same path for folders of their own.
		const { ino, birthtimeNs } = await stat(path, { bigint: true });
		const owner = createHash("sha256").update(`${path}\0${ino}\0${birthtimeNs}`).digest("hex").slice(0, 12);
		return new Leftovers(owner, `${process.pid}.${await started(process.pid)}`);
	}

	/** Makes a folder whose name starts with `kind`; who made it removes it, or the next start. */
	make(folder: string, kind: string): Promise<string> {
		return mkdtemp(join(folder, `${kind}-${this.#owner}-${this.#self}-`));
	}

	/** Removes what this server's earlier lives left of a kind. Resolves where there is no such folder. */
	async sweep(folder: string, kind: string): Promise<void> {
		const start = `${kind}-${this.#owner}-`;
		for (const name of await namesIn(folder)) {
			const maker = name.startsWith(start) ? /^(\d+)\.(\w+)-/.exec(name.slice(start.length)) : null;
			if (maker === null) continue;
			const [, pid = "", since] = maker;
			if ((await started(Number(pid))) === since) continue;
			const path = join(folder, name);
			const entry = await lstat(path).catch(() => undefined);
			// Anybody may make such a name in a folder for temporary files.
			if (entry?.isDirectory() && (process.getuid === undefined || entry.uid === process.getuid()))
				await removeTree(path);
		}
	}
}

/** Sweeps what copying and making the seeds of build caches left below a folder of caches. */
export async function sweepCaches(cacheFolder: string, dataFolder: string): Promise<void> {
	const leftovers = await Leftovers.of(dataFolder);
	await leftovers.sweep(join(cacheFolder, "go"), "making");
	const namespaces = join(cacheFolder, "namespaces");
	for (const name of await namesIn(namespaces)) await leftovers.sweep(join(namespaces, name, "go"), "build");
}

async function started(pid: number): Promise<string> {
	return (await platformOf().startTime(pid))?.replaceAll(/\W/g, "") ?? "gone";
}

async function namesIn(folder: string): Promise<string[]> {
	try {
		return await readdir(folder);
	} catch (error) {
		// What others keep from us, or have made a knot of, is not ours to sweep, and no reason not to start.
		if (["ENOENT", "ENOTDIR", "EACCES", "ELOOP"].includes(systemCode(error) ?? "")) return [];
		throw error;
	}
}
