import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ContainerInspectInfo } from "dockerode";
import t from "tap";
import { platformOf } from "../../../src/platform/platform.ts";
import { systemClock } from "../../../src/runtimes/companion/clock.ts";
import type { InstancePlan } from "../../../src/runtimes/companion/engine.ts";
import { Container } from "../../../src/runtimes/docker/container.ts";
import { Daemon } from "../../../src/runtimes/docker/daemon.ts";
import { worker } from "../supervisor-harness.ts";

const ENDED = { Running: false, Status: "exited", ExitCode: 3, OOMKilled: false, Pid: 0 };

t.test("what ended at once is not ready because somebody else has its port on this machine", async (t) => {
	const folder = await mkdtemp(join(tmpdir(), "container-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const other = createServer().listen(0, "127.0.0.1");
	await once(other, "listening");
	t.teardown(() => other.close());
	const { port } = other.address() as AddressInfo;

	const engine = createServer(({ url = "" }, response) => {
		response.writeHead(200, { "content-type": "application/json" });
		if (url.includes("/events")) response.flushHeaders();
		else response.end(JSON.stringify(url.includes("/c1/json") ? { Id: "c1", State: ENDED } : []));
	});
	const socket = join(folder, "docker.sock");
	engine.listen(socket);
	await once(engine, "listening");
	t.teardown(() => {
		engine.closeAllConnections();
		engine.close();
	});
	const report = () => undefined;
	const daemon = await Daemon.open({
		...{ socket, label: "a=b", clock: systemClock, report },
		...{ told: () => undefined, looked: async () => undefined },
	});
	t.teardown(() => daemon[Symbol.asyncDispose]());

	const record = {
		...{ instance: "i1", slot: 0, port, bootId: "b", startedAt: 0, pid: null, startTime: null },
		...{ ready: false, lapsed: false, host: "127.0.0.1" },
	};
	const folders = { home: folder, temporary: folder, programs: folder, instance: folder };
	const plan: InstancePlan = { spec: worker(folder), record, folders };
	const info = { Id: "c1", State: ENDED, NetworkSettings: { Networks: { one: { IPAddress: "" } } } };
	const container = Container.hold(
		{ daemon, clock: systemClock, platform: platformOf(), report, watch: () => () => undefined },
		plan,
		// Of what the engine says, all that is asked for.
		info as unknown as ContainerInspectInfo,
		1024,
	);
	t.equal(await container.listeningAt(), null);
	t.same(await container.exited, { exitCode: 3 });
});
