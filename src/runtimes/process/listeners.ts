import { connect } from "node:net";
import type { Listener, Platform } from "../../platform/platform.ts";

const CONNECT_MS = 5_000;

/** The address at which one of these processes listens on the port, null where none does. */
export async function listeningHost(
	platform: Platform,
	port: number,
	pids: () => Promise<number[]>,
): Promise<string | null> {
	const candidates = await platform.listeners(port);
	if (candidates.length === 0) return null;
	const hosts = (await platform.owned(candidates, await pids())).map(({ host }) => host);
	const [first] = hosts;
	if (first === undefined) return null;
	if (hosts.some((host) => host === "0.0.0.0" || host === "127.0.0.1")) return "127.0.0.1";
	if (hosts.includes("::")) return (await accepts("127.0.0.1", port)) ? "127.0.0.1" : "::1";
	return first;
}

/** All that these processes listen on. */
export async function listenersOf(platform: Platform, pids: readonly number[]): Promise<readonly Listener[]> {
	return platform.owned(await platform.listeners(), pids);
}

/** A socket on `::` takes IPv4 too, unless its program said otherwise. */
function accepts(host: string, port: number): Promise<boolean> {
	return new Promise((resolve) => {
		const socket = connect({ host, port, timeout: CONNECT_MS });
		const end = (accepted: boolean) => {
			socket.destroy();
			resolve(accepted);
		};
		socket.once("connect", () => end(true));
		socket.once("error", () => end(false));
		socket.once("timeout", () => end(false));
	});
}
