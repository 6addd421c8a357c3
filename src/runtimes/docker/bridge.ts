import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import type Docker from "dockerode";
import { AppError, messageOf, systemCode } from "../../errors.ts";
import { writeWhole } from "../companion/state-file.ts";

/**
 * This machine's address on the engine's default bridge, at which containers of every network reach it. It is kept in `file`, so
 * that a server can start while the engine is away. Rejects with `unavailable` where neither knows it, and where it is no address
 * of this machine.
 */
export async function bridgeAddress(docker: Docker, file: string): Promise<string> {
	let found: string | undefined;
	try {
		const bridge = await docker.getNetwork("bridge").inspect();
		found = bridge.IPAM?.Config?.map(({ Gateway }) => Gateway).find(Boolean);
	} catch (error) {
		const kept = await keptAddress(file);
		if (kept !== undefined) return kept;
		const forbidden = systemCode(error) === "EACCES";
		const what = forbidden ? "this user may not use the Docker engine's socket" : "the Docker engine does not answer";
		throw new AppError("unavailable", `${what}: ${messageOf(error)}`, {
			cause: error,
			hint: `${forbidden ? "Let it (often by the group docker)" : "Start it, or say where its socket is with --docker PATH"}; or use --profile local.`,
		});
	}
	if (found === undefined)
		throw new AppError("unavailable", "the Docker engine's default bridge has no address", {
			hint: "Say with --loader-address where containers reach this server.",
		});
	await mustBeHere(found);
	await writeWhole(file, `${found}\n`);
	return found;
}

/** The ways to containers begin at that address. */
async function mustBeHere(address: string): Promise<void> {
	const server = createServer().listen({ host: address, port: 0 });
	try {
		await once(server, "listening");
	} catch (error) {
		if (systemCode(error) !== "EADDRNOTAVAIL") throw error;
		throw new AppError(
			"unavailable",
			`the Docker engine's bridge (${address}) is not on this machine: the engine runs in a virtual machine, as Docker Desktop does, or elsewhere, and its containers cannot be reached from here`,
			{ cause: error, hint: "Use an engine that runs on this Linux machine itself, or --profile local." },
		);
	} finally {
		server.close();
	}
}

async function keptAddress(file: string): Promise<string | undefined> {
	try {
		return (await readFile(file, "utf8")).trim() || undefined;
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error;
	}
}
