import { mkdir, mkdtemp } from "node:fs/promises";
import path from "node:path";
import { removeTree } from "../../remove-tree.ts";
import { cacheFolderOf } from "../caches.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";

/** What launchers that run tools have of the server. */
export type Tools = {
	/** Where tools run that install packages. */
	readonly sandbox: Sandbox;
	/** Holds the downloads that a namespace's programs share. */
	readonly cacheFolder: string;
	/** Below it each use gets a HOME of its own. Made where it does not exist. */
	readonly workFolder: string;
	/** What tools are asked in and their settings are read from: the server's own environment. */
	readonly serverEnv: Readonly<Record<string, string | undefined>>;
	/** A name that is looked up on the PATH, or an absolute path; `npm` by default. */
	readonly npmCommand?: string;
};

/** What a tool is given for one use. */
export type Place = {
	/** Holds temporary files too; removed afterwards. */
	readonly home: string;
	/** The namespace's own, for this kind of tool. */
	readonly cache: string;
	/** Without anything of the operator's but where programs are. */
	readonly env: Readonly<Record<string, string>>;
};

const SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin";

export async function inPlace<T>(
	tools: Tools,
	whose: { readonly namespace: string; readonly kind: string },
	use: (place: Place) => Promise<T>,
): Promise<T> {
	const cache = cacheFolderOf(path.resolve(tools.cacheFolder), whose.namespace, whose.kind);
	await mkdir(cache, { recursive: true });
	await mkdir(tools.workFolder, { recursive: true });
	const home = await mkdtemp(path.join(path.resolve(tools.workFolder), "home-"));
	try {
		const tmp = path.join(home, "tmp");
		await mkdir(tmp);
		const PATH = [path.dirname(process.execPath), tools.serverEnv.PATH ?? SYSTEM_PATH].join(path.delimiter);
		return await use({ home, cache, env: { PATH, HOME: home, TMPDIR: tmp, LANG: "C.UTF-8", CI: "true" } });
	} finally {
		await removeTree(home);
	}
}
