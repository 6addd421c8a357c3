import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import fastify from "fastify";
import t, { type Test } from "tap";
import { sendBuild } from "../../src/routes/builds.ts";
import { until } from "../harness/server.ts";

const MIB = 1024 ** 2;

/** A server with one build of so many MiB, sent in large chunks. */
async function site(t: Test, mebibytes: number, pauseMs: number) {
	const state = { open: 0, sent: 0, connections: 0 };
	const app = fastify({ forceCloseConnections: true });
	app.server.on("connection", () => state.connections++);
	const chunk = Buffer.alloc(8 * MIB);
	const body = async function* () {
		state.open++;
		try {
			for (; state.sent < mebibytes; state.sent += 8) yield chunk;
		} finally {
			state.open--;
		}
	};
	app.get("/", async (request, reply) => {
		state.sent = 0;
		const build = { sha256: "ab".repeat(32), size: mebibytes * MIB, open: async () => body() };
		// What else a build is does not matter here.
		await sendBuild(request, reply, Object(build), { signal: new AbortController().signal, pauseMs });
	});
	await app.listen({ host: "127.0.0.1", port: 0 });
	t.teardown(() => app.close());
	return { state, port: (app.server.address() as AddressInfo).port };
}

function ask(t: Test, port: number): Socket {
	const socket = connect({ host: "127.0.0.1", port });
	t.teardown(() => void socket.destroy());
	socket.on("error", () => socket.destroy());
	socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
	return socket;
}

t.test("a reader that takes nothing is cut, and nothing is read for it any more", async (t) => {
	const { state, port } = await site(t, 1024, 500);
	ask(t, port).pause();
	await until(() => state.open === 1, "it is being sent");
	await until(() => state.open === 0, "it is cut");
	t.ok(state.sent < 512, `${state.sent} MiB`);
});

t.test("one that is slow, but lives, gets all of it, though each chunk takes longer than a pause may", async (t) => {
	const pauseMs = 1_500;
	const { state, port } = await site(t, 16, pauseMs);
	const socket = ask(t, port);
	socket.pause();
	await once(socket, "connect");
	const began = performance.now();
	let taken = 0;
	while (taken < 16 * MIB) {
		const piece: Buffer | null = socket.read();
		if (piece === null && socket.destroyed) break;
		taken += piece?.length ?? 0;
		await delay(20);
	}
	t.ok(taken >= 16 * MIB, `${taken} bytes`);
	t.ok(performance.now() - began > 2 * pauseMs, "it was slow");
	t.equal(state.open, 0);
	// The limit was the download's: the connection is good for another one, whose pauses count anew.
	socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
	await until(() => state.open === 1, "the next request on the same connection is answered");
	t.equal(state.connections, 1);
});
