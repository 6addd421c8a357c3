import { once } from "node:events";
import type { AddressInfo, Server } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { AppError, systemCode } from "../errors.ts";
import { readKept, writeKept } from "./kept-file.ts";

/** Below where systems take ports for outgoing connections from, so that none of those is in the way after a restart. */
const FIRST_PORT = 12_000;
const LAST_PORT = 19_999;
const CANDIDATES = 64;
const PAUSE_MS = 100;
const WAIT_MS = 10_000;

export type Place = {
	readonly host: string;
	/** Null: chosen once, and kept in `file`, since containers that run know it. */
	readonly port: number | null;
	readonly file: string;
};

export type PortOptions = {
	/** From 0 to below 1. */
	readonly random?: () => number;
	/** Milliseconds for which a port that is taken is tried again: an earlier server may be about to end. */
	readonly waitMs?: number;
};

/** Listens, and answers with the port. Rejects with `unavailable` where the port is taken, or the address is not this machine's. */
export async function listen(server: Server, place: Place, options: PortOptions = {}): Promise<number> {
	const { random = Math.random, waitMs = WAIT_MS } = options;
	const fixed = place.port ?? (await keptPort(place.file));
	if (fixed !== undefined) {
		const end = performance.now() + waitMs;
		for (;;) {
			const fault = await tryListen(server, place.host, fixed);
			if (fault === undefined) return portOf(server);
			if (systemCode(fault) !== "EADDRINUSE" || performance.now() > end) throw refused(place, fixed, fault);
			await delay(PAUSE_MS);
		}
	}
	for (let attempt = 1; ; attempt++) {
		const port = FIRST_PORT + Math.floor(random() * (LAST_PORT - FIRST_PORT + 1));
		const fault = await tryListen(server, place.host, port);
		if (fault === undefined) {
			// Nobody is told of a port before it is kept.
			await writeKept(place.file, `${port}\n`);
			return port;
		}
		if (systemCode(fault) !== "EADDRINUSE" || attempt >= CANDIDATES) throw refused(place, port, fault);
	}
}

async function keptPort(file: string): Promise<number | undefined> {
	const text = await readKept(file);
	if (text === undefined) return undefined;
	const port = /^\d{1,5}\n?$/.test(text) ? Number(text) : 0;
	if (port >= 1 && port <= 65_535) return port;
	throw new AppError("internal", `${file} does not hold a port`, {
		hint: "Remove it to have another one chosen, and restart every service once the server runs.",
	});
}

/** Undefined where it listens. */
async function tryListen(server: Server, host: string, port: number): Promise<unknown> {
	try {
		const listening = once(server, "listening");
		server.listen({ host, port });
		await listening;
		return undefined;
	} catch (error) {
		return error;
	}
}

/** The port that a listening server has. */
export function portOf(server: Server): number {
	const address: AddressInfo | string | null = server.address();
	if (address === null || typeof address === "string") throw new AppError("internal", "the server does not listen");
	return address.port;
}

function refused({ host, port: asked, file }: Place, port: number, cause: unknown): AppError {
	const where = `${host.includes(":") ? `[${host}]` : host}:${port}`;
	const what = `containers cannot be given their builds at ${where}`;
	switch (systemCode(cause)) {
		case "EADDRINUSE":
			return new AppError("unavailable", `${what}: the port is taken by another program`, {
				cause,
				field: "loaderAddress",
				hint:
					asked === null
						? `End what listens there; or remove ${file} to have another port chosen, and restart every service once the server runs.`
						: "End what listens there, or give another --loader-address.",
			});
		case "EADDRNOTAVAIL":
		case "ENOTFOUND":
			return new AppError("unavailable", `${what}: that is no address of this machine`, {
				cause,
				field: "loaderAddress",
			});
		case "EACCES":
			return new AppError("unavailable", `${what}: the server's user may not listen there`, {
				cause,
				field: "loaderAddress",
			});
		default:
			return new AppError("unavailable", what, { cause, field: "loaderAddress" });
	}
}
