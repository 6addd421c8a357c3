import { mkdir, readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";
import { AppError, systemCode } from "../../errors.ts";
import { StateFile, writeWhole } from "../companion/state-file.ts";
import { isOver } from "../companion/verdict.ts";

/**
 * Takes the engine at this socket for the one that the services of this data folder run on. Rejects with `invalid_argument` where
 * it was another one until now and services are there: they would be started a second time, and the first would stay.
 */
export async function settleAt(folder: string, socket: string): Promise<void> {
	const file = join(folder, "engine");
	const before = await textOf(file);
	if (before === socket) return;
	if (before !== null && (await placeOf(before)) !== (await placeOf(socket)) && (await isInUse(folder)))
		throw new AppError(
			"invalid_argument",
			`services of this data folder run on the Docker engine at ${before}, and are not moved to the one at ${socket}`,
			{
				field: "docker",
				hint: `Start with --docker ${before} and kill them first. Where that engine is gone for good, remove ${file}: they are then started anew.`,
			},
		);
	await mkdir(folder, { recursive: true, mode: 0o700 });
	await writeWhole(file, socket);
}

/** Whether a service has containers, or is to. One whose state cannot be read may have some. */
async function isInUse(folder: string): Promise<boolean> {
	const services = join(folder, "services");
	for (const id of await namesIn(services)) {
		const state = await new StateFile(join(services, id)).load();
		if (state === null) continue;
		const runs = [state.live, state.target, ...state.retiring].filter((run) => run !== null);
		if (runs.some((run) => run.instances.length > 0 || !isOver(run))) return true;
	}
	return false;
}

/** The same for two names of one socket. */
function placeOf(socket: string): Promise<string> {
	return unlessMissing(realpath(socket), socket);
}

function textOf(file: string): Promise<string | null> {
	return unlessMissing<string | null>(readFile(file, "utf8"), null);
}

function namesIn(folder: string): Promise<readonly string[]> {
	return unlessMissing<readonly string[]>(readdir(folder), []);
}

async function unlessMissing<T>(reading: Promise<T>, otherwise: T): Promise<T> {
	try {
		return await reading;
	} catch (error) {
		if (systemCode(error) !== "ENOENT") throw error;
		return otherwise;
	}
}
