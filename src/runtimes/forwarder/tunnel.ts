import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type Duplex, pipeline } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { systemCode } from "../../errors.ts";
import type { Backend, RouteTable, Use } from "./upstreams.ts";

/** How long refused connections are tried again: a program that restarts, or a route that is about to change. */
export const RETRY_FOR_MS = 500;
export const RETRY_EVERY_MS = 20;

/** True for an error of dialling: not a byte has reached the upstream. */
export function isConnectError(error: unknown): boolean {
	// A name with several addresses: one error for each.
	if (error instanceof AggregateError) return error.errors.length > 0 && error.errors.every(isConnectError);
	return error instanceof Error && "syscall" in error && error.syscall === "connect" && systemCode(error) !== undefined;
}

/** Passes bytes both ways until both are closed; each side's end is passed on by itself. Holds the backend meanwhile. */
export function relay(client: Duplex, upstream: Duplex, backend: Backend): void {
	const use: Use = {
		cut: () => {
			client.destroy();
			upstream.destroy();
		},
	};
	backend.uses.add(use);
	let open = 2;
	const closed = () => {
		if (--open === 0) backend.release(use);
	};
	client.once("close", closed);
	upstream.once("close", closed);
	oneWay(client, upstream);
	oneWay(upstream, client);
	if (client.destroyed || upstream.destroyed) use.cut();
}

function oneWay(from: Duplex, to: Duplex): void {
	if (from.readableEnded) {
		to.end();
		return;
	}
	pipeline(from, to, (error) => {
		if (error === undefined || error === null) return;
		from.destroy();
		to.destroy();
	});
}

/** Dials one backend. Resolves with null when it cannot be reached. */
export async function dialBackend(backend: Backend, signal: AbortSignal): Promise<Socket | null> {
	const { host, port } = backend.upstream;
	const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
	// Errors after the connection stands end in `close`, which whoever holds the socket listens to.
	socket.on("error", () => socket.destroy());
	try {
		await once(socket, "connect", { signal });
		return socket;
	} catch (error) {
		socket.destroy();
		// Not there, or the client went first.
		if (signal.aborted || systemCode(error) !== undefined) return null;
		throw error;
	}
}

/** Dials the route until somebody takes the connection, for up to half a second; null when nobody does. */
export async function dialRoute(
	table: RouteTable,
	signal: AbortSignal,
): Promise<{ readonly backend: Backend; readonly socket: Socket } | null> {
	const giveUpAt = performance.now() + RETRY_FOR_MS;
	const refused = new Set<Backend>();
	while (!signal.aborted) {
		const backend = table.pick(refused);
		if (backend === undefined) {
			if (table.empty || performance.now() >= giveUpAt) return null;
			refused.clear();
			await delay(RETRY_EVERY_MS);
			continue;
		}
		const socket = await dialBackend(backend, signal);
		if (socket === null) refused.add(backend);
		else if (table.has(backend)) return { backend, socket };
		else socket.destroy();
	}
	return null;
}
