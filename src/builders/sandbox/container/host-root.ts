import { lstat, readlink, stat } from "node:fs/promises";
import { systemCode } from "../../../errors.ts";
import { ETC, SYSTEM } from "../root.ts";
import type { Bind, RootEntry } from "./engine.ts";
import type { User } from "./place.ts";

/** A root with the programs and libraries of this machine, as bubblewrap's: what is made up for it, and what is bound in. */
export async function hostRoot({ uid, gid }: User): Promise<{ entries: RootEntry[]; binds: Bind[] }> {
	const entries: RootEntry[] = [
		{ name: "etc/passwd", text: `build:x:${uid}:${gid}::/nonexistent:/bin/sh\n` },
		{ name: "etc/group", text: `build:x:${gid}:\n` },
		{ name: "etc/nsswitch.conf", text: "passwd: files\ngroup: files\nhosts: files\n" },
	];
	const binds: Bind[] = [];
	const bind = (path: string) => binds.push({ source: path, target: path, writable: false });
	for (const name of SYSTEM) {
		if (await exists(`/usr/${name}`)) bind(`/usr/${name}`);
		const entry = await unlessMissing(lstat(`/${name}`));
		if (entry?.isSymbolicLink()) entries.push({ name, target: await readlink(`/${name}`) });
		else if (entry?.isDirectory() && name !== "share") bind(`/${name}`);
	}
	for (const path of ETC) if (await exists(path)) bind(path);
	return { entries, binds };
}

async function exists(path: string): Promise<boolean> {
	return (await unlessMissing(stat(path))) !== undefined;
}

async function unlessMissing<T>(work: Promise<T>): Promise<T | undefined> {
	try {
		return await work;
	} catch (error) {
		if (systemCode(error) !== "ENOENT") throw error;
		return undefined;
	}
}
