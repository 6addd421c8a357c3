import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import t from "tap";
import { platformOf } from "../../src/platform/platform.ts";
import { listeningHost } from "../../src/runtimes/process/listeners.ts";

const nobody = async () => [];
const us = async () => [process.pid];

t.test("who listens is asked of the nearest first, and of all only where those do not", async (t) => {
	const server = createServer().listen(0, "127.0.0.1");
	await once(server, "listening");
	t.teardown(() => server.close());
	const address = server.address();
	if (address === null || typeof address === "string") throw new Error("no port");
	const platform = platformOf();
	const unneeded = () => Promise.reject(new Error("all were looked at"));
	t.equal(await listeningHost(platform, address.port, us, unneeded), "127.0.0.1");
	t.equal(await listeningHost(platform, address.port, nobody, us), "127.0.0.1");
	t.equal(await listeningHost(platform, address.port, nobody, nobody), null, "another's is not theirs");
});

t.test("what a process has started itself, where the system says so", async (t) => {
	const child = spawn("sleep", ["1000"], { stdio: "ignore" });
	t.teardown(() => child.kill("SIGKILL"));
	await once(child, "spawn");
	const children = await platformOf().children(process.pid);
	t.ok(children.every((pid) => pid > 0));
	if (process.platform === "linux" && children.length > 0) t.ok(children.includes(child.pid ?? 0));
	t.same(await platformOf().children(2 ** 30), []);
});
