import { join } from "node:path";
import t from "tap";
import { processesUnder } from "../harness/processes.ts";
import { TestServer, until } from "../harness/server.ts";
import { SmallDisk } from "../harness/small-disk.ts";

const skip = await SmallDisk.missing();

t.test("a server that was killed starts again on a disk without a free block, and reads", { skip }, async (t) => {
	const disk = await SmallDisk.mount(t);
	const dataDir = join(disk.folder, "data");
	const first = await TestServer.start({ dataDir });
	await disk.fill();
	first.child.kill("SIGKILL");
	const second = await TestServer.start({ dataDir });
	t.equal((await second.api.call("GET", "/services")).status, 200);
	await disk.heal();
	t.equal(await second.stop(), 0);
	await until(async () => (await processesUnder(dataDir)).length === 0, "the companion ends");
});
