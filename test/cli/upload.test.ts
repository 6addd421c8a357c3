import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { appendFileSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import t, { type Test } from "tap";
import { FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime, start } from "./harness.ts";

// 1000 shows the bound of the requirement; the usual size shows that memory does not grow with it, and sooner.
const MEGABYTES = Number(process.env.UPLOAD_TEST_MB ?? "300");

function bigFolder(t: Test, megabytes: number): string {
	const top = folder(t, GO_FILES);
	const part = randomBytes(1_000_000);
	for (let index = 0; index < megabytes; index++) {
		part.writeUInt32LE(index, index % 1000);
		appendFileSync(join(top, "big.bin"), part);
	}
	return top;
}

/** Resident kilobytes of a process, and the most it ever had. */
function memory(pid: number): { now: number; most: number } {
	const status = readFileSync(`/proc/${pid}/status`, "utf8");
	const field = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? "0");
	return { now: field("VmRSS"), most: field("VmHWM") };
}

t.test(
	`${MEGABYTES} MB go through with little memory`,
	{ skip: process.platform === "linux" ? false : "needs /proc" },
	async (t) => {
		const fake = await FakeServer.start();
		t.teardown(() => fake.stop());
		const cwd = bigFolder(t, MEGABYTES);
		const env = { RUNTIME_URL: fake.url };
		const small = folder(t, GO_FILES);
		const most = async (folder: string, name: string): Promise<number> => {
			const running = start(["run", ".", "--name", name], { cwd: folder, env });
			let peak = 0;
			const timer = setInterval(() => {
				try {
					peak = Math.max(peak, memory(running.child.pid ?? 0).most);
				} catch (error) {
					if (!(error instanceof Error && "code" in error)) throw error;
				}
			}, 10);
			t.equal(await running.exit, 0, running.stderr);
			clearInterval(timer);
			if (name === "big")
				for (const step of ["upload 25%", "upload 50%", "upload 75%", "upload 100%"]) t.match(running.stderr, step);
			return peak;
		};
		const base = await most(small, "small");
		const began = Date.now();
		const peak = await most(cwd, "big");
		const seconds = (Date.now() - began) / 1000;
		const grown = (peak - base) / 1024;
		t.comment(
			`${MEGABYTES} MB in ${seconds.toFixed(1)} s; memory ${Math.round(peak / 1024)} MB at most, ${grown.toFixed(0)} MB more than a small upload`,
		);
		t.ok(fake.uploads.at(-1)?.whole);
		t.ok(fake.uploads.at(-1)?.size ?? 0 > MEGABYTES * 900_000);
		t.ok(base > 10_000, "it was measured");
		t.ok(grown < 64, `${grown.toFixed(0)} MB`);
	},
);

t.test("an early refusal is shown as what it is", async (t) => {
	const fake = await FakeServer.start();
	t.teardown(() => fake.stop());
	const cwd = bigFolder(t, 20);
	for (const [status, code, detail] of [
		[413, "too_large", "the upload is over the limit of 10 MB"],
		[507, "no_space", "the server's disk is full"],
	] as const) {
		fake.refuseUpload = { status, code, detail };
		for (let round = 0; round < 3; round++) {
			const {
				code: exit,
				stdout,
				stderr,
			} = await runtime(["run", ".", "--name", "big", "--json"], { cwd, env: { RUNTIME_URL: fake.url } });
			t.equal(exit, 1);
			t.match(stderr, `✘ ${detail}`);
			t.match(JSON.parse(stdout), { code, status });
		}
	}
	t.notOk(fake.requests.some(({ method, url }) => method === "POST" && url === "/services"));
});

t.test("the server's limit is known before it is passed", async (t) => {
	const fake = await FakeServer.start({ maxSourceBytes: 5_000_000 });
	t.teardown(() => fake.stop());
	const { code, stderr } = await runtime(["run", ".", "--name", "big"], {
		cwd: bigFolder(t, 20),
		env: { RUNTIME_URL: fake.url },
	});
	t.equal(code, 1);
	t.match(stderr, "The archive is larger than the 5.0 MB that the server takes; nothing was created");
	t.notOk(fake.uploads[0]?.whole);
});

t.test("a file that changes during the upload stops it, and nothing is created", async (t) => {
	const fake = await FakeServer.start();
	t.teardown(() => fake.stop());
	const cwd = bigFolder(t, 60);
	fake.stallUpload = true;
	const running = start(["run", ".", "--name", "big"], { cwd, env: { RUNTIME_URL: fake.url } });
	while (fake.uploads.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
	appendFileSync(join(cwd, "big.bin"), "more");
	fake.stallUpload = false;
	fake.wake();
	t.equal(await running.exit, 1);
	t.match(running.stderr, "big.bin changed while it was being uploaded; nothing was created");
	t.notOk(fake.uploads[0]?.whole);
	t.notOk(fake.requests.some(({ method, url }) => method === "POST" && url === "/services"));
});

t.test("a connection that breaks in an upload", async (t) => {
	const fake = await FakeServer.start();
	t.teardown(() => fake.stop());
	const cwd = bigFolder(t, 20);
	fake.stallUpload = true;
	const running = start(["run", ".", "--name", "big"], { cwd, env: { RUNTIME_URL: fake.url } });
	while (fake.uploads.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
	await fake.stop();
	t.equal(await running.exit, 3);
	t.match(running.stderr, `Lost ${fake.url} while uploading`);
	t.match(running.stderr, "Nothing was created");
});

t.test("something else that answers is no runtime server", async (t) => {
	const server = createServer((_, response) =>
		response.writeHead(404, { "content-type": "text/html" }).end("<h1>no</h1>"),
	);
	server.listen(0, "127.0.0.1");
	await once(server, "listening");
	t.teardown(() => server.close());
	const address = server.address();
	const url = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
	const { code, stderr } = await runtime(["run", "."], { cwd: folder(t, GO_FILES), env: { RUNTIME_URL: url } });
	t.equal(code, 3);
	t.match(stderr, "answered 404 (text/html), not as a runtime server does");
});
