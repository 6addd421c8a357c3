import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { buildError, type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime, start, Terminal } from "./harness.ts";

const CTRL_C = "\u0003";
const exits: NonNullable<FakeOptions["script"]> = () => [
	{ to: "Building" },
	{ log: "pip install" },
	{ to: "Starting" },
	{
		to: "Error",
		error: buildError({ code: "exited", phase: "start", message: "it exited with code 3", lastLines: ["I am broken"] }),
	},
];
const slow: NonNullable<FakeOptions["script"]> = () => [{ to: "Building" }, { gate: "built" }, { to: "Running" }];

/** A server that answers a change when it is settled, as profile dev does. */
async function fixture(t: Test, script?: FakeOptions["script"]) {
	const fake = await FakeServer.start({ settles: true, ...(script && { script }) });
	t.teardown(() => fake.stop());
	return { fake, cwd: folder(t, GO_FILES), env: { RUNTIME_URL: fake.url } };
}

async function forsaken(t: Test, fake: FakeServer): Promise<void> {
	const limit = AbortSignal.timeout(30_000);
	while (fake.forsaken.length === 0 && !limit.aborted) await sleep(20);
	t.same(fake.forsaken, [2], "its server saw it go");
}

t.test("an update that runs is told as one, not as nothing to do", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const { code, stdout, stderr } = await runtime(["update", ".", "--name", "hello"], { cwd, env });
	t.equal(code, 0, stderr);
	t.match(stderr, /build done .*\nstart done/);
	t.notMatch(stderr, "nothing to rebuild");
	t.match(stdout, /^http:/);
});

t.test("metadata alone still makes nothing", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const { stderr } = await runtime(["update", "hello", "--metadata", "a=b"], { cwd, env });
	t.match(stderr, "nothing to rebuild or restart (revision 1)");
});

t.test("an update that fails says what was printed, what goes on and what to do", async (t) => {
	const { fake, cwd, env } = await fixture(t, exits);
	fake.seed("hello");
	for (const more of [[], ["--no-wait"]]) {
		const { code, stderr } = await runtime(["update", ".", "--name", "hello", ...more], { cwd, env });
		t.equal(code, 1);
		t.match(
			stderr,
			/it exited with code 3\nIts last lines:\n {2}I am broken\nRevision \d failed to start; revision 1 keeps/,
		);
		t.match(stderr, "Fix, then:  runtime update . --name hello");
		t.match(stderr, "runtime logs hello");
	}
});

t.test("a create that fails shows what was printed, and names nothing that is not kept", async (t) => {
	const { cwd, env } = await fixture(t, exits);
	const args = ["run", ".", "--name", "hello"];
	const { code, stderr } = await runtime(args, { cwd, env });
	t.equal(code, 1);
	t.match(stderr, /start failed .*\nit exited with code 3\nIts last lines:\n {2}I am broken\nNothing was created\./);
	t.match(stderr, "Fix, then:  runtime run . --name hello");
	t.notMatch(stderr, "runtime logs");
	const json = await runtime([...args, "--json"], { cwd, env });
	t.match(JSON.parse(json.stdout), { code: "build_failed", error: { lastLines: ["I am broken"] } });
});

t.test("while the answer takes its time the screen says so, d does nothing and ctrl-c cancels", async (t) => {
	const { fake, cwd, env } = await fixture(t, slow);
	fake.seed("hello");
	const terminal = new Terminal(["update", ".", "--name", "hello"], { cwd, env });
	await terminal.sees(/Build +go/);
	terminal.keys("d");
	terminal.keys(CTRL_C);
	t.equal(await terminal.exit, 130);
	t.same(terminal.screen().lines.slice(-2), [
		"✘ Cancelled before the server had answered",
		"  What is so:  runtime status hello",
	]);
	await forsaken(t, fake);
});

t.test("SIGINT during a rollback ends its request", async (t) => {
	const { fake, cwd, env } = await fixture(t, slow);
	fake.seed("hello");
	const running = start(["rollback", "hello", "1"], { cwd, env });
	await running.sees("hello ->");
	while (fake.services.get("hello:latest")?.revisions.length === 1) await sleep(20);
	running.child.kill("SIGINT");
	t.equal(await running.exit, 130);
	await forsaken(t, fake);
});
