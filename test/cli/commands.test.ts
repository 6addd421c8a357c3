import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { BUILD, buildError, type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime, start, Terminal } from "./harness.ts";

async function fixture(t: Test, options: FakeOptions = {}) {
	const fake = await FakeServer.start(options);
	t.teardown(() => fake.stop());
	return { fake, cwd: folder(t, GO_FILES), env: { RUNTIME_URL: fake.url } };
}

const failed = buildError({
	diagnostics: [{ file: "main.go", line: 12, column: 6, message: "undefined: fmt.Prinln" }],
});

t.test("status: a table on a terminal, tab-separated rows in a pipe, all pages as JSON", async (t) => {
	const { fake, cwd, env } = await fixture(t, {
		script: (_, name) =>
			name === "hello" ? [{ to: "Building" }, { to: "Error", error: failed }] : [{ to: "Building" }],
	});
	for (const name of ["hello", "idle", "zeta"]) fake.seed(name);
	await runtime(["update", ".", "--name", "hello"], { cwd, env });
	await runtime(["run", ".", "--name", "worker", "--version", "v2", "--no-wait"], { cwd, env });
	const terminal = new Terminal(["status"], { cwd, env });
	t.equal(await terminal.exit, 0);
	const { lines } = terminal.screen();
	t.match(lines[0], /^NAME +VERSION +STATUS +URL +SOURCE +UPDATED$/);
	t.match(lines[1], /^hello +latest +running r1, r2 error +http:\/\/127\.0\.0\.1:\d+ +\. +now$/);
	t.match(lines[3], /^worker +v2 +building \ds +- +\. +now$/);
	t.equal(lines[5], "");
	t.equal(lines[6], "hello r2: build failed: main.go:12:6: undefined: fmt.Prinln");
	const piped = await runtime(["status"], { cwd, env });
	t.equal(piped.stderr, "");
	const rows = piped.stdout
		.trimEnd()
		.split("\n")
		.map((line) => line.split("\t"));
	t.same(
		rows.map(([name]) => name),
		["hello", "idle", "worker", "zeta"],
		"every page",
	);
	t.ok(rows.every((row) => row.length === 7));
	t.same(
		rows.map((row) => row[6]),
		["r2: build failed: main.go:12:6: undefined: fmt.Prinln", "-", "-", "-"],
		"why, in the service's own row",
	);
	const one = await runtime(["status", "hello"], { cwd, env });
	t.match(one.stdout, /^hello\t.*\n$/);
	const json: unknown = JSON.parse((await runtime(["status", "--json"], { cwd, env })).stdout);
	t.match(json, [
		{ name: "hello", target: { revision: 2, status: "Error" } },
		{ name: "idle" },
		{ name: "worker", url: null },
		{ name: "zeta" },
	]);
	const fields: unknown = JSON.parse(
		(await runtime(["status", "worker", "--fields", "name,status"], { cwd, env })).stdout,
	);
	t.same(fields, [{ name: "worker", status: "Building" }]);
});

t.test("a terminal that does not know its size shows the table whole", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const terminal = new Terminal(["status"], { cwd, env }, { columns: 0, rows: 0 });
	t.equal(await terminal.exit, 0);
	t.match(terminal.stdout, /hello +latest +running +http:\/\/127\.0\.0\.1:\d+ +source:\/\/seed +now/);
	const run = new Terminal(["run", ".", "--name", "new"], { cwd, env }, { columns: 0, rows: 0 });
	t.equal(await run.exit, 0, run.stdout);
	t.match(run.stdout, "new:latest is running (revision 1)");
});

t.test("a revision that was cancelled or superseded is no error in a table", async (t) => {
	const codes: Record<string, ReturnType<typeof buildError>["code"]> = {
		called: "cancelled",
		over: "superseded",
		wrong: "build_failed",
	};
	const { fake, cwd, env } = await fixture(t, {
		script: (_, name) => [{ to: "Building" }, { to: "Error", error: buildError({ code: codes[name] ?? "internal" }) }],
	});
	for (const name of Object.keys(codes)) {
		fake.seed(name);
		await runtime(["update", ".", "--name", name], { cwd, env });
	}
	await runtime(["run", ".", "--name", "called", "--version", "new"], { cwd, env });
	const rowsOf = async (args: string[]) =>
		(await runtime(args, { cwd, env })).stdout
			.trimEnd()
			.split("\n")
			.map((line) => line.split("\t"));
	t.same(
		(await rowsOf(["status"])).map(([name, version, status]) => [name, version, status]),
		[
			["called", "latest", "running r1, r2 cancelled"],
			["called", "new", "cancelled"],
			["over", "latest", "running r1, r2 superseded"],
			["wrong", "latest", "running r1, r2 error"],
		],
	);
	for (const [name, word] of [
		["called", "cancelled"],
		["over", "superseded"],
		["wrong", "error"],
	] as const)
		t.same((await rowsOf(["revisions", name]))[0]?.slice(0, 2), ["2", word]);
});

t.test("status of what is not there", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const empty = await runtime(["status"], { cwd, env });
	t.equal(empty.code, 0);
	t.equal(empty.stdout, "");
	t.equal((await runtime(["status", "--json"], { cwd, env })).stdout, "[]\n");
	fake.seed("hello", "v1");
	const close = await runtime(["status", "helo"], { cwd, env });
	t.equal(close.code, 1);
	t.match(close.stderr, "✘ There is no service helo\n  Did you mean:  hello\n");
	const version = await runtime(["status", "hello", "v10"], { cwd, env });
	t.equal(version.code, 1);
	t.match(version.stderr, "There is no service hello v10\n  Its versions:  v1");
	for (const command of ["logs", "kill", "show", "wait", "events", "build download"]) {
		const { code, stderr } = await runtime([...command.split(" "), "nosuch"], { cwd, env });
		t.equal(code, 1, command);
		t.match(stderr, "There is no service nosuch");
	}
});

t.test("status --watch draws again and leaves the cursor", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("one");
	const terminal = new Terminal(["status", "--watch"], { cwd, env });
	await terminal.sees("one ");
	fake.seed("two");
	await terminal.sees("two ");
	terminal.keys("\u0003");
	t.equal(await terminal.exit, 130);
	const { lines, cursorHidden } = terminal.screen();
	t.equal(lines.filter((line) => line.startsWith("NAME")).length, 1);
	t.notOk(cursorHidden);
});

t.test("logs: the last lines, followed, with what replaced what", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const held = fake.seed("hello");
	for (let index = 1; index <= 150; index++) fake.print(held, `line ${index}`);
	const usual = (await runtime(["logs", "hello"], { cwd, env })).stdout.trimEnd().split("\n");
	t.equal(usual.length, 100);
	t.match(usual[0], /^\d\d:\d\d:\d\d r1 line 51$/);
	const two = await runtime(["logs", "hello", "-n", "2"], { cwd, env });
	t.match(two.stdout, /^\S+ r1 line 149\n\S+ r1 line 150\n$/);
	const json = (await runtime(["logs", "hello", "-n1", "--json"], { cwd, env })).stdout;
	t.match(JSON.parse(json), { type: "line", seq: 150, revision: 1, text: "line 150" });
	const following = start(["logs", "hello", "-n", "1", "-f"], { cwd, env });
	await following.sees("line 150");
	while (!fake.requests.some(({ url }) => url.includes("/events?follow")))
		await new Promise((resolve) => setTimeout(resolve, 20));
	await runtime(["update", "hello", "--env", "A=1"], { cwd, env });
	fake.print(held, "fresh");
	await following.sees(/r2 fresh/);
	await following.sees(/-- r2 replaces r1, \d\d:\d\d:\d\d --/);
	following.child.kill("SIGINT");
	t.equal(await following.exit, 130);
	t.equal(following.stdout.split("\n").length, 3, "remarks are not in the result");
	const gone = start(["logs", "hello", "-f"], { cwd, env });
	await gone.sees("fresh");
	t.equal((await runtime(["kill", "hello"], { cwd, env })).code, 0);
	t.equal(await gone.exit, 0);
	t.match(gone.stderr, "-- the service was removed --");
});

t.test("logs --build", async (t) => {
	const { cwd, env } = await fixture(t);
	await runtime(["run", ".", "--name", "hello"], { cwd, env });
	const { stdout } = await runtime(["logs", "hello", "--build"], { cwd, env });
	t.equal(stdout, "go: downloading github.com/gin-gonic/gin\n");
});

t.test("a reader that has seen enough is no error", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const held = fake.seed("hello");
	for (let index = 1; index <= 5000; index++) fake.print(held, `line ${index} ${"x".repeat(100)}`);
	const running = start(["logs", "hello", "-n", "5000"], { cwd, env });
	await running.sees("line 1 ");
	running.child.stdout?.destroy();
	t.equal(await running.exit, 0);
	t.equal(running.stderr, "");
});

t.test("events", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const { stdout } = await runtime(["events", "hello"], { cwd, env });
	t.match(
		stdout,
		/^\S+ r1 pending\n\S+ r1 pending → building\n\S+ r1 building → starting\n\S+ r1 starting → running\n$/,
	);
});

t.test("build download is checked, and whole or not there", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const { code, stdout } = await runtime(["build", "download", "hello"], { cwd, env });
	t.equal(code, 0);
	t.equal(stdout, `${join(cwd, "hello")}\n`);
	t.ok(readFileSync(join(cwd, "hello")).equals(BUILD));
	t.equal(statSync(join(cwd, "hello")).mode & 0o777, 0o755);
	fake.downloadDigest = Buffer.alloc(32).toString("base64");
	const wrong = await runtime(["build", "download", "hello", "-o", "other"], { cwd, env });
	t.equal(wrong.code, 1);
	t.match(wrong.stderr, "its digest differs");
	t.notOk(existsSync(join(cwd, "other")));
	t.notOk(readdirSync(cwd).some((name) => name.endsWith(".part")));
});

t.test("the contract's own commands", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	fake.seed("hello", "feature/x");
	const show = await runtime(["show", "hello", "feature/x"], { cwd, env });
	t.match(show.stdout, /version +feature\/x\nstatus +running/);
	t.ok(
		fake.requests.some(({ url }) => url === "/services/hello/feature%2Fx"),
		"a slash in a version is escaped",
	);
	t.match((await runtime(["revisions", "hello"], { cwd, env })).stdout, /^1\trunning\tgo, 9\.1 MB\tnow\t\n$/);
	t.match((await runtime(["whoami"], { cwd, env })).stdout, /account +ana\nnamespace +acme/);
	t.match((await runtime(["stop", "hello"], { cwd, env })).stderr, "hello:latest is stopped");
	const started = await runtime(["start", "hello"], { cwd, env });
	t.match(started.stderr, "hello:latest is running");
	t.match(started.stdout, /^http/);
	t.equal((await runtime(["restart", "hello"], { cwd, env })).code, 0);
	const cancel = await runtime(["cancel", "hello", "--json"], { cwd, env });
	t.equal(cancel.code, 1);
	t.match(JSON.parse(cancel.stdout), { code: "conflict", status: 409 });
	const kill = await runtime(["kill", "hello"], { cwd, env });
	t.match(kill.stderr, "hello:latest is gone");
	t.equal((await runtime(["kill", "hello"], { cwd, env })).code, 1);
	const other = await runtime(["--namespace", "team", "status"], { cwd, env });
	t.equal(other.code, 0);
	t.equal(fake.requests.at(-1)?.namespace, "team");
});

t.test("mistakes on the command line are exit 2 and say what was meant", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const table: [args: string[], words: string][] = [
		[["stauts"], "Did you mean:  runtime status"],
		[["run", "--nmae", "x"], "Did you mean --name?"],
		[["logs"], "Missing required argument 'name'"],
		[["status", "a", "b", "c"], "Too many arguments"],
		[["build"], "runtime build download <name> [version]"],
		[["run", "--env", "=x"], "--env"],
		[["run", "--env", "NO_SUCH_VARIABLE_HERE"], "there is no such variable here"],
		[["run", "--health", "htpp"], "Did you mean:  --health http"],
		[["run", "--restart", "often"], "none of always, on-failure, never"],
		[["run", "--instances", "0"], "no whole number from 1 to 100"],
		[["run", "--memory", "15"], "--memory"],
		[["run", "--memory", "512M"], '--memory: "512M" is no whole number of MiB from 16 to 1048576, nor default'],
		[["run", "--memory", "512M"], "Did you mean:  --memory 512\n"],
		[["run", "--memory", "1GB"], "Did you mean:  --memory 1024\n"],
		[["run", "--memory", "1.5Gi"], "Did you mean:  --memory 1536\n"],
		[["run", "--memory", "-1"], '--memory: "-1" is no whole number'],
		[["run", "--memory", "99999999999999999999"], "is no whole number of MiB"],
		[["run", "--cpu", "0"], '--cpu: "0" is no number of cores from 0.01 to 1024'],
		[["update", "--cpu", "1e3"], '--cpu: "1e3" is no number'],
		[["update", "--cpu", "500m"], "Did you mean:  --cpu 0.5\n"],
		[["update", "--cpu", "1,5"], "Did you mean:  --cpu 1.5\n"],
		[["run", "--processes", "7"], "no whole number of processes from 8 to 4194304"],
		[["run", "--name", "Not_Valid"], "no name"],
		[["run", "--version", ".."], "no version"],
		[["logs", "x", "--since", "yesterday-ish"], "is no time"],
		[["--server"], "--server needs a value"],
		[["run", "--server", "ftp://x"], "no http or https URL"],
		[["run", "--token", "x"], "Unknown option '--token'"],
	];
	for (const [args, words] of table) {
		const { code, stderr, stdout } = await runtime(args, { cwd, env });
		t.equal(code, 2, args.join(" "));
		t.match(stderr, words);
		t.equal(stdout, "");
	}
	t.equal(fake.requests.length, 0);
	const json = await runtime(["stauts", "--json"], { cwd, env });
	t.match(JSON.parse(json.stdout), { code: "usage" });
});

t.test("limits go with a run and an update, and only those that were said", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const sent = () => Object(fake.requests.findLast(({ method }) => ["POST", "PUT", "PATCH"].includes(method))?.body);
	await runtime(["run", ".", "--memory", "512", "--cpu", "0.5", "--processes", "64", "--name", "app"], { cwd, env });
	t.same(sent().limits, { memory: 512, cpu: 0.5, processes: 64 });
	await runtime(["update", ".", "--cpu", "2", "--name", "app"], { cwd, env });
	t.same(sent().limits, { cpu: 2 });
	await runtime(["update", ".", "--name", "app"], { cwd, env });
	t.notOk("limits" in sent());
	await runtime(["update", "app", "--memory", "default", "--cpu", "default", "--processes", "9"], { cwd, env });
	t.same(sent().limits, { memory: null, cpu: null, processes: 9 }, "default takes one away");
	await runtime(["deploy", ".", "--processes", "default", "--name", "app"], { cwd, env });
	t.same(sent().limits, { processes: null });
});

t.test("help", async (t) => {
	const { cwd } = await fixture(t);
	for (const args of [[], ["help"], ["--help"], ["-h"]]) {
		const { code, stdout } = await runtime(args, { cwd });
		t.equal(code, 0);
		for (const command of ["run [source]", "kill <name> [version]", "server"]) t.match(stdout, command);
	}
	for (const args of [
		["help", "run"],
		["run", "--help"],
	]) {
		const { code, stdout } = await runtime(args, { cwd });
		t.equal(code, 0);
		for (const flag of ["--health-timeout", "--memory <MiB>", "--cpu <cores>", "--processes <n>"])
			t.match(stdout, flag);
		t.match(stdout, "Examples:\n  runtime run .");
	}
	t.match((await runtime(["--version"], { cwd })).stdout, /^\d+\.\d+\.\d+/);
});
