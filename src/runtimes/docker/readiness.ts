import type { Platform } from "../../platform/platform.ts";

/** The engine's own name server, within every container on a network of its own. */
const ENGINE_RESOLVER = "127.0.0.11";

/** What listens in the network of this process, as far as this machine lets us look. */
export async function listenersWithin(
	platform: Platform,
	pid: number,
): Promise<readonly { readonly host: string; readonly port: number }[]> {
	return (await platform.listeners(undefined, pid)).filter(({ host }) => host !== ENGINE_RESOLVER);
}
