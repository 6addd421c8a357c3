import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime, start, Terminal } from "./harness.ts";

const CTRL_C = "\u0003";
const building: NonNullable<FakeOptions["script"]> = () => [
	{ to: "Building" },
	{ log: "compiling" },
	{ gate: "built" },
	{ to: "Starting" },
	{ gate: "started" },
	{ to: "Running" },
];

async function fixture(t: Test, options: FakeOptions = { script: building }) {
	const fake = await FakeServer.start(options);
	t.teardown(() => fake.stop());
	const top = folder(t, GO_FILES);
	const args = (verb: string) => [verb, ".", "--name", "hello"];
	return { fake, cwd: top, env: { RUNTIME_URL: fake.url }, args };
}

t.test("ctrl-c while it builds cancels, and what ran goes on", async (t) => {
	const { fake, cwd, env, args } = await fixture(t);
	fake.seed("hello");
	const terminal = new Terminal(args("update"), { cwd, env });
	await terminal.sees("compiling");
	terminal.keys(CTRL_C);
	t.equal(await terminal.exit, 130);
	const { lines, cursorHidden } = terminal.screen();
	t.same(lines.slice(-2), [
		"^C Cancelling revision 2… (ctrl-c again: quit without waiting)",
		"Cancelled. Revision 1 keeps running.",
	]);
	t.notOk(cursorHidden);
	t.same(fake.requests.find(({ url }) => url.endsWith("/cancel"))?.body, { revision: 2 });
});

t.test("ctrl-c in the first build leaves the service without anything running, and says so", async (t) => {
	const { cwd, env, args } = await fixture(t);
	const terminal = new Terminal(args("run"), { cwd, env });
	await terminal.sees("compiling");
	terminal.keys(CTRL_C);
	t.equal(await terminal.exit, 130);
	t.match(terminal.screen().lines.at(-2), "Cancelled. hello has nothing running.");
	t.match(terminal.screen().lines.at(-1), "runtime kill hello");
});

t.test("SIGINT in a pipe does the same", async (t) => {
	const { fake, cwd, env, args } = await fixture(t);
	const running = start(args("run"), { cwd, env });
	await running.sees("compiling");
	running.child.kill("SIGINT");
	t.equal(await running.exit, 130);
	t.match(running.stderr, "Cancelling revision 1…");
	t.equal(running.stdout, "");
	t.ok(fake.requests.some(({ url }) => url.endsWith("/cancel")));
});

t.test("a second ctrl-c quits at once", async (t) => {
	const { fake, cwd, env, args } = await fixture(t);
	const terminal = new Terminal(args("run"), { cwd, env });
	await terminal.sees("compiling");
	await fake.stop();
	terminal.keys(CTRL_C);
	await terminal.sees("Cancelling revision 1");
	terminal.keys(CTRL_C);
	t.equal(await terminal.exit, 130);
	t.notOk(terminal.screen().cursorHidden);
});

t.test("ctrl-c while it uploads breaks the upload off", async (t) => {
	for (const make of [
		(args: string[], options: Parameters<typeof start>[1]) => new Terminal(args, options),
		(args: string[], options: Parameters<typeof start>[1]) => start(args, options),
	]) {
		const { fake, cwd, env, args } = await fixture(t);
		writeFileSync(join(cwd, "big.bin"), randomBytes(24_000_000));
		fake.stallUpload = true;
		const running = make(args("run"), { cwd, env });
		while (fake.uploads.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
		if (running instanceof Terminal) {
			await running.sees("Upload");
			running.keys(CTRL_C);
		} else running.child.kill("SIGINT");
		t.equal(await running.exit, 130);
		t.match(running.stdout + running.stderr, "Cancelled; nothing was created");
		fake.stallUpload = false;
		t.notOk(fake.uploads[0]?.whole);
		t.notOk(fake.requests.some(({ method, url }) => method === "POST" && url === "/services"));
	}
});

t.test("d detaches, wait attaches again: same screen, same exit code", async (t) => {
	const { fake, cwd, env, args } = await fixture(t);
	const terminal = new Terminal(args("run"), { cwd, env });
	await terminal.sees("compiling");
	terminal.keys("d");
	t.equal(await terminal.exit, 0);
	t.same(terminal.screen().lines.slice(-2), [
		"Detached; revision 1 is still building.",
		"  Follow: runtime wait hello · Cancel: runtime cancel hello",
	]);
	const late = await runtime(["wait", "hello", "--timeout", "0"], { cwd, env });
	t.equal(late.code, 8);
	t.match(late.stderr, "Revision 1 is still");
	const waiting = new Terminal(["wait", "hello"], { cwd, env });
	await waiting.sees("compiling");
	t.match(waiting.screen().lines[0], /^hello → /);
	fake.open("built");
	fake.open("started");
	t.equal(await waiting.exit, 0);
	const { lines } = waiting.screen();
	t.match(
		lines.slice(1).join("\n"),
		/^✔ Build {3}go, 9\.1 MB +\S+\n✔ Start {3}ready +\S+\nhello:latest is running \(revision 1\)\nhttp:\S+$/,
	);
	const again = await runtime(["wait", "hello"], { cwd, env });
	t.equal(again.code, 0);
	t.match(again.stdout, /^http:\S+\n$/);
});

t.test("ctrl-c while it starts detaches", async (t) => {
	const { fake, cwd, env, args } = await fixture(t);
	fake.open("built");
	const terminal = new Terminal(args("run"), { cwd, env });
	await terminal.sees("ctrl-c or d detach");
	terminal.keys(CTRL_C);
	t.equal(await terminal.exit, 0);
	t.match(terminal.screen().lines.join("\n"), "Detached; revision 1 is still starting.");
	t.notOk(fake.requests.some(({ url }) => url.endsWith("/cancel")));
});

t.test("SIGTERM and SIGHUP detach, and the exit code says that nothing is decided", async (t) => {
	for (const signal of ["SIGTERM", "SIGHUP"] as const) {
		const { fake, cwd, env, args } = await fixture(t);
		const running = start([...args("run"), "--json"], { cwd, env });
		await running.sees("compiling");
		running.child.kill(signal);
		t.equal(await running.exit, 8);
		t.match(running.stderr, "Detached; revision 1 is still building.");
		t.match(JSON.parse(running.stdout), { name: "hello", status: "Building" });
		t.notOk(fake.requests.some(({ url }) => url.endsWith("/cancel")));
	}
});

t.test("the terminal is left as it was found", async (t) => {
	const { cwd, env, args } = await fixture(t);
	const terminal = new Terminal(args("run"), { cwd, env });
	await terminal.sees("compiling");
	process.kill(terminal.pid, "SIGTERM");
	t.equal(await terminal.exit, 8);
	const { cursorHidden, lines } = terminal.screen();
	t.notOk(cursorHidden);
	t.match(lines.join("\n"), "Detached");
});
