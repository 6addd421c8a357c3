import { readFile, writeFile } from "node:fs/promises";

/** How much more memory than at its start a process had at most while `action` ran, in MiB. Linux only: 0 elsewhere. */
export async function growth(pid: number, action: () => Promise<void>): Promise<number> {
	if (process.platform !== "linux") {
		await action();
		return 0;
	}
	await writeFile(`/proc/${pid}/clear_refs`, "5");
	const before = await resident(pid, "VmRSS");
	await action();
	return (await resident(pid, "VmHWM")) - before;
}

async function resident(pid: number, name: "VmRSS" | "VmHWM"): Promise<number> {
	const kib = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
	if (kib === undefined) throw new Error(`/proc/${pid}/status has no ${name}`);
	return Number(kib) / 1024;
}
