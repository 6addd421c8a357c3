import { connect } from "node:net";
import type { Platform } from "../../platform/platform.ts";

const CONNECT_MS = 2_000;
/** The engine's own name server, within every container on a network of its own. */
const ENGINE_RESOLVER = "127.0.0.11";

/** Whether something takes a connection there. */
export function accepts(host: string, port: number): Promise<boolean> {
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

/** What listens in the network of this process, as far as this machine lets us look. */
export async function listenersWithin(
	platform: Platform,
	pid: number,
): Promise<readonly { readonly host: string; readonly port: number }[]> {
	return (await platform.listeners(undefined, pid)).filter(({ host }) => host !== ENGINE_RESOLVER);
}
