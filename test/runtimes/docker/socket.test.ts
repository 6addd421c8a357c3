import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Docker from "dockerode";
import t from "tap";
import { socketOf } from "../../../src/compose-docker.ts";
import { bridgeAddress } from "../../../src/runtimes/docker/bridge.ts";

t.test("an engine elsewhere is refused, and not another taken in its place", async (t) => {
	t.equal(socketOf(undefined), undefined);
	t.equal(socketOf(""), undefined);
	t.equal(socketOf("unix:///run/user/1000/docker.sock"), "/run/user/1000/docker.sock");
	for (const elsewhere of [
		"tcp://10.0.0.1:2375",
		"ssh://me@host",
		"npipe:////./pipe/docker",
		"10.0.0.1:2375",
		"unix://",
	])
		t.throws(() => socketOf(elsewhere), { code: "invalid_argument", field: "docker", hint: /--docker PATH/ });
});

t.test("an engine in a virtual machine is refused in words, and its address is not kept", async (t) => {
	// A socket's path must be short.
	const folder = await mkdtemp(join(tmpdir(), "bridge-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	let Gateway = "203.0.113.7";
	const engine = createServer((_, response) => {
		response.writeHead(200, { "content-type": "application/json" });
		response.end(JSON.stringify({ Name: "bridge", IPAM: { Config: [{ Gateway }] } }));
	});
	const socketPath = join(folder, "s");
	engine.listen(socketPath);
	await once(engine, "listening");
	t.teardown(() => {
		engine.closeAllConnections();
		engine.close();
	});
	const docker = new Docker({ socketPath });
	const file = join(folder, "bridge");
	await t.rejects(bridgeAddress(docker, file), {
		code: "unavailable",
		message: /203\.0\.113\.7\) is not on this machine: .*virtual machine, as Docker Desktop/,
		hint: /runs on this Linux machine itself/,
	});
	Gateway = "127.0.0.1";
	t.equal(await bridgeAddress(docker, file), "127.0.0.1");
	engine.closeAllConnections();
	await new Promise((resolve) => engine.close(resolve));
	t.equal(await bridgeAddress(docker, file), "127.0.0.1", "it is kept");
});
