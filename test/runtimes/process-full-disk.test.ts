import { join } from "node:path";
import t from "tap";
import { createProcessRuntime } from "../../src/runtimes/process/runtime.ts";
import { until } from "../conformance/runtime.ts";
import { SmallDisk } from "../harness/small-disk.ts";
import { programs, spec } from "./process-harness.ts";
import { ask, call, companion, FAST, reach, SERVICE } from "./runtime-harness.ts";

const skip = await SmallDisk.missing();

t.test(
	"a disk without a free block: a killed companion starts again, and services can be stopped and removed",
	{ skip },
	async (t) => {
		const disk = await SmallDisk.mount(t);
		const folder = join(disk.folder, "services");
		const second = { ...SERVICE, id: "s2", name: "second" };
		const runtime = await createProcessRuntime({ folder, ...FAST });
		t.teardown(() => runtime[Symbol.asyncDispose]());
		await runtime.apply(spec(SERVICE, 1, ["serve"]), call);
		await runtime.apply(spec(second, 1, ["serve"]), call);
		const { url } = await reach(runtime, 1, "ready");
		await reach(runtime, 1, "ready", 1, second);
		const size = () => disk.sizeOf("services", "companion", "ballast");
		// What a companion has to give is soon used up by who fills the disk again and again.
		const whole = () => until(size, (bytes) => bytes === 2 * 1024 * 1024, "there is all of it to give up");
		await whole();

		for (let round = 1; round <= 2; round++) {
			await disk.fill();
			const before = await companion(folder);
			if (before === null) throw new Error("no companion");
			process.kill(before, "SIGKILL");
			await until(
				() => companion(folder),
				(pid) => pid !== null && pid !== before,
				"another companion",
			);
			const answer = await until(
				() => ask(url ?? ""),
				(body) => body !== null,
				"the address answers",
			);
			t.equal(answer, "revision 1");
			for (const service of [SERVICE, second]) await reach(runtime, 1, "ready", 1, service);
			await disk.heal();
			await whole();
		}
		const lines: string[] = [];
		for await (const item of runtime.logs(SERVICE, { follow: false }, call))
			if ("line" in item) lines.push(item.line.text);
		t.same(lines, ["serving 1"]);

		await disk.fill();
		await t.rejects(runtime.apply(spec(second, 2, ["serve"], { env: { LARGE: "x".repeat(100_000) } }), call), {
			code: "no_space",
		});
		await runtime.stop(SERVICE, call);
		t.same((await runtime.observe(SERVICE, call)).revisions, []);
		await disk.fill();
		await runtime.remove(second, call);
		t.same(await programs(folder), []);

		await disk.heal();
		await until(size, (bytes) => bytes === 2 * 1024 * 1024, "laid by anew");
		await runtime.apply(spec(SERVICE, 2, ["serve"]), call);
		await reach(runtime, 2, "ready");
		await runtime.remove(SERVICE, call);
		await runtime.stopAll(call);
		await runtime[Symbol.asyncDispose]();
		await until(
			() => companion(folder),
			(pid) => pid === null,
			"the companion ends",
		);
	},
);
