import { readdir, readFile, readlink } from "node:fs/promises";

export type ProcessInfo = { readonly pid: number; readonly command: string; readonly exe: string };

/** Live processes (no zombies) that have to do with a folder: their program, a word of their command or their HOME is in it. */
export async function processesUnder(folder: string): Promise<ProcessInfo[]> {
	const found: ProcessInfo[] = [];
	for (const entry of await readdir("/proc")) {
		const pid = Number(entry);
		if (!Number.isInteger(pid) || pid === process.pid) continue;
		const [command, exe, environ] = await Promise.all([
			read(() => readFile(`/proc/${pid}/cmdline`, "utf8")),
			read(() => readlink(`/proc/${pid}/exe`)),
			read(() => readFile(`/proc/${pid}/environ`, "latin1")),
		]);
		// A zombie has neither a command line nor a program.
		if (command === "" && exe === "") continue;
		const home = environ.split("\0").some((variable) => variable.startsWith(`HOME=${folder}/`));
		const words = command.split("\0");
		if (exe.startsWith(`${folder}/`) || home || words.some((word) => word.startsWith(folder)))
			found.push({ pid, command: words.join(" "), exe });
	}
	return found;
}

/** Processes that execute a file below the folder: services' programs. */
export async function programsUnder(folder: string): Promise<ProcessInfo[]> {
	return (await processesUnder(folder)).filter(({ exe }) => exe.startsWith(`${folder}/`));
}

async function read(action: () => Promise<string>): Promise<string> {
	try {
		return await action();
	} catch {
		// It ended while we looked, or is not ours to look at.
		return "";
	}
}
