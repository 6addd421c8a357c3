import type { Listener, Platform } from "../../platform/platform.ts";
import { accepts } from "../companion/connect.ts";

/**
 * The address at which a process of `near` listens on the port, or else one of `all`; null where none does. To look at all takes
 * as long as the machine has many.
 */
export async function listeningHost(
	platform: Platform,
	port: number,
	near: () => Promise<number[]>,
	all: () => Promise<number[]>,
): Promise<string | null> {
	const candidates = await platform.listeners(port);
	if (candidates.length === 0) return null;
	const nearest = await platform.owned(candidates, await near());
	const found = nearest.length > 0 ? nearest : await platform.owned(candidates, await all());
	const hosts = found.map(({ host }) => host);
	const [first] = hosts;
	if (first === undefined) return null;
	if (hosts.some((host) => host === "0.0.0.0" || host === "127.0.0.1")) return "127.0.0.1";
	// A socket on `::` takes IPv4 too, unless its program said otherwise.
	if (hosts.includes("::")) return (await accepts("127.0.0.1", port)) ? "127.0.0.1" : "::1";
	return first;
}

/** All that these processes listen on. */
export async function listenersOf(platform: Platform, pids: readonly number[]): Promise<readonly Listener[]> {
	return platform.owned(await platform.listeners(), pids);
}
