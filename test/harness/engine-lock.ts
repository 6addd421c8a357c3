import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { systemCode } from "../../src/errors.ts";

const FOLDER = path.join(tmpdir(), "runtime-builds-engine-lock");

/**
 * An engine that starts writes the machine's firewall rules anew, those that keep other engines' networks apart included. So
 * one starts at a time, and none while a test shows that networks are apart. Resolves with what lets go.
 */
export async function lockEngines(): Promise<() => Promise<void>> {
	for (;;) {
		const own = `${FOLDER}.${process.pid}.${Math.random().toString(36).slice(2)}`;
		await mkdir(own);
		await writeFile(path.join(own, "pid"), String(process.pid));
		try {
			await rename(own, FOLDER);
			return () => rm(FOLDER, { recursive: true, force: true });
		} catch (error) {
			await rm(own, { recursive: true, force: true });
			if (systemCode(error) !== "ENOTEMPTY" && systemCode(error) !== "EEXIST") throw error;
		}
		if (!(await isHeld())) await rm(FOLDER, { recursive: true, force: true });
		await sleep(100);
	}
}

/** Whoever has it may have been killed. */
async function isHeld(): Promise<boolean> {
	const pid = Number(await readFile(path.join(FOLDER, "pid"), "utf8").catch(() => "0"));
	// Just let go of, or being taken.
	if (pid === 0) return true;
	try {
		process.kill(pid, 0);
		return true;
	} catch (error) {
		return systemCode(error) !== "ESRCH";
	}
}
