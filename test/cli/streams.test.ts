import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, start } from "./harness.ts";

const slow: NonNullable<FakeOptions["script"]> = () => [
	{ to: "Building" },
	{ log: "first" },
	{ gate: "middle" },
	{ log: "second" },
	{ gate: "built" },
	{ to: "Starting" },
	{ to: "Running" },
];

async function fixture(t: Test, options: FakeOptions = { script: slow }) {
	const fake = await FakeServer.start(options);
	t.teardown(() => fake.stop());
	return { fake, cwd: folder(t, GO_FILES), env: { RUNTIME_URL: fake.url } };
}

async function until(holds: () => boolean): Promise<void> {
	const end = Date.now() + 20_000;
	while (!holds()) {
		if (Date.now() > end) throw new Error("it did not come about");
		await sleep(10);
	}
}

const lines = (stderr: string) => stderr.split("\n").filter((line) => line.startsWith("build | "));

t.test("streams that break in a build cost nothing", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const running = start(["run", ".", "--name", "hello"], { cwd, env });
	await running.sees("first");
	for (const _ of [1, 2]) {
		fake.dropStreams();
		await until(() => fake.streams === 2);
	}
	fake.open("middle");
	await running.sees("second");
	fake.dropStreams();
	fake.open("built");
	t.equal(await running.exit, 0, running.stderr);
	t.same(lines(running.stderr), ["build | first", "build | second"], "each line once");
	t.match(running.stdout, /^http:\S+\n$/);
});

t.test("a server that goes away in a build and comes back", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const running = start(["run", ".", "--name", "hello"], { cwd, env });
	await running.sees("first");
	await fake.stop();
	fake.open("middle");
	// Longer than the CLI's own poll: that must survive it too.
	await sleep(3500);
	fake.open("built");
	await fake.listen();
	t.equal(await running.exit, 0, running.stderr);
	t.same(lines(running.stderr), ["build | first", "build | second"]);
	t.match(running.stderr, /-- connection lost; back after \ds, nothing missed --/);
});

t.test("an answer that is lost makes no second revision", async (t) => {
	const { fake, cwd, env } = await fixture(t, {});
	fake.loseAnswers = 1;
	const running = start(["run", ".", "--name", "hello"], { cwd, env });
	t.equal(await running.exit, 0, running.stderr);
	t.equal(fake.services.get("hello:latest")?.revisions.length, 1);
	fake.loseAnswers = 1;
	const update = start(["update", ".", "--name", "hello"], { cwd, env });
	t.equal(await update.exit, 0, update.stderr);
	t.equal(fake.services.get("hello:latest")?.revisions.length, 2);
});

t.test("logs -f goes on after a break, and says so", async (t) => {
	const { fake, cwd, env } = await fixture(t, {});
	const held = fake.seed("hello");
	fake.print(held, "one");
	const running = start(["logs", "hello", "-f"], { cwd, env });
	await running.sees("one");
	await fake.stop();
	fake.print(held, "two");
	await sleep(1000);
	await fake.listen();
	await running.sees(/-- connection lost; back after \ds, nothing missed --/);
	await running.sees("two");
	fake.print(held, "three");
	await running.sees("three");
	running.child.kill("SIGTERM");
	t.equal(await running.exit, 130);
	t.same(
		running.stdout
			.trimEnd()
			.split("\n")
			.map((line) => line.split(" ")[2]),
		["one", "two", "three"],
	);
});

t.test("a service that is removed while it builds", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const running = start(["run", ".", "--name", "hello"], { cwd, env });
	await running.sees("first");
	const removed = await fetch(`${fake.url}/services/hello/latest`, { method: "DELETE" });
	t.equal(removed.status, 202);
	t.equal(await running.exit, 1);
	t.match(running.stderr, "hello:latest was removed");
});
