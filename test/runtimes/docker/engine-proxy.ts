import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Test } from "tap";

export type EngineProxy = {
	readonly socket: string;
	/**
	 * What a request gets instead of the engine's answer: a status with a message, or nothing at all ("hang"). Null: the engine is
	 * asked. `what` is "POST /containers/create?name=x", without the version.
	 */
	instead: (what: string) => { readonly status: number; readonly message: string } | "hang" | null;
	/** What was asked, in order. */
	readonly asked: string[];
};

/** A socket before an engine's own, to play what engines do now and then. */
export async function openProxy(t: Test, engineSocket: string): Promise<EngineProxy> {
	const folder = await mkdtemp(join(tmpdir(), "engine-proxy-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const proxy: EngineProxy = { socket: join(folder, "docker.sock"), instead: () => null, asked: [] };
	const server = createServer((incoming, response) => {
		const what = `${incoming.method} ${(incoming.url ?? "").replace(/^\/v[\d.]+/, "")}`;
		proxy.asked.push(what);
		const instead = proxy.instead(what);
		if (instead === "hang") return;
		if (instead !== null) {
			incoming.resume();
			response.writeHead(instead.status, { "content-type": "application/json" });
			response.end(JSON.stringify({ message: instead.message }));
			return;
		}
		const { url: path, method, headers } = incoming;
		const outgoing = request({ socketPath: engineSocket, path, method, headers }, (answer) => {
			response.writeHead(answer.statusCode ?? 500, answer.headers);
			response.flushHeaders();
			pipeline(answer, response).catch(() => response.destroy());
		});
		outgoing.on("error", () => response.destroy());
		response.on("close", () => outgoing.destroy());
		pipeline(incoming, outgoing).catch(() => response.destroy());
	});
	server.listen(proxy.socket);
	await once(server, "listening");
	t.teardown(() => {
		server.closeAllConnections();
		server.close();
	});
	return proxy;
}
