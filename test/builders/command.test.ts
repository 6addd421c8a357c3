import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import t, { type Test } from "tap";
import { type Command, runCommand } from "../../src/builders/command.ts";
import { MAX_LINE } from "../../src/builders/lines.ts";
import { eventually, processesMentioning } from "../conformance/builder.ts";

const never = new AbortController().signal;

async function run(t: Test, script: string, extra: Partial<Command> = {}, signal = never) {
	const lines: string[] = [];
	const mark = `rbtest-${process.pid}-${Math.random()}`;
	const env = { PATH: "/usr/bin:/bin", MARK: mark };
	const command = {
		file: "/bin/sh",
		args: ["-c", script],
		cwd: "/",
		env,
		log: (line: string) => lines.push(line),
		...extra,
	};
	const result = await runCommand(command, { signal }).catch((error: unknown) => ({ error }));
	t.same(await processesMentioning(mark), [], "no process is left");
	return { lines, ...result };
}

t.test("exit codes, order, line ends and the environment", async (t) => {
	t.match(await run(t, "echo a; echo b >&2; printf 'c\\r\\nd 1%%\\rd 2%%\\r\\n\\ne'; exit 7"), {
		lines: ["a", "b", "c", "d 1%", "d 2%", "", "e"],
		exitCode: 7,
	});
	t.match(await run(t, "kill -TERM $$"), { exitCode: 143 });
	t.match(await run(t, "read x && echo got; echo done"), { lines: ["done"], exitCode: 0 });
	process.env.SECRET_OF_THE_SERVER = "s3cret";
	t.teardown(() => delete process.env.SECRET_OF_THE_SERVER);
	const environment = (await run(t, "env")).lines;
	t.ok(environment.includes("PATH=/usr/bin:/bin"));
	t.notMatch(environment.join("\n"), /SECRET_OF_THE_SERVER|^HOME=/m);
	t.match(await run(t, "", { file: "/no/such/command" }), { exitCode: 127 });
	t.match(await run(t, "", { cwd: "/no/such/folder" }), { error: { code: "ENOENT" } });
	t.match(await run(t, "printf '\\303'; printf '\\274\\n'"), { lines: ["ü"] });
});

t.test("long lines and long output are cut, and say so", async (t) => {
	const { lines } = await run(t, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after");
	t.equal(lines[0], `${"x".repeat(MAX_LINE)} [cut]`);
	t.equal(lines[1], "after");
	const much = await run(t, "yes line | head -n 100000; exit 3", { outputLimit: 1000 });
	t.match(much, { exitCode: 3 });
	t.equal(much.lines.length, 201);
	t.match(much.lines[200], /longer than 1000 bytes; the rest was dropped/);
});

t.test("what the command left running ends with it", async (t) => {
	t.match(await run(t, "(sleep 1000; echo late) & sleep 1000 & echo now"), { lines: ["now"], exitCode: 0 });
});

t.test("an aborted call ends everything, deaf processes included", async (t) => {
	const controller = new AbortController();
	const log = () => controller.abort();
	const script = "trap '' TERM INT HUP; (trap '' TERM; sleep 1000 & sleep 1000) & echo up; sleep 1000";
	t.match(await run(t, script, { log }, controller.signal), { error: { code: "cancelled" } });
	t.match(await run(t, "echo x", {}, AbortSignal.abort()), { error: { code: "cancelled" } });
	const bad = new Error("log is broken");
	const fail = () => {
		throw bad;
	};
	t.match(await run(t, "echo x; sleep 1000", { log: fail }), { error: bad });
});

t.test("a killed leader takes its group along", async (t) => {
	t.match(await run(t, "sleep 1000 & kill -9 $(cut -d' ' -f5 /proc/$$/stat); sleep 1000"), { exitCode: 137 });
});

t.test(
	"builds die with a server that is killed",
	{ skip: process.platform !== "linux" && "needs /proc" },
	async (t) => {
		const mark = `rbtest-${process.pid}-${Math.random()}`;
		const module = pathToFileURL(join(import.meta.dirname, "../../src/builders/command.ts")).href;
		const server = spawn(
			process.execPath,
			[
				"--input-type=module",
				"-e",
				`import { runCommand } from ${JSON.stringify(module)};
			 await runCommand({ file: "/bin/sh", cwd: "/", env: { PATH: "/usr/bin:/bin", MARK: ${JSON.stringify(mark)} }, log: console.log,
			   args: ["-c", "trap '' TERM HUP; (sh -c 'sleep 1000; true' & sleep 1000; true) & echo building; sleep 1000; true"] },
			   { signal: new AbortController().signal });`,
			],
			{ stdio: ["ignore", "pipe", "inherit"] },
		);
		t.teardown(() => server.kill("SIGKILL"));
		for await (const line of createInterface(server.stdout)) if (line === "building") break;
		const ofTheBuild = async () => (await processesMentioning(mark)).filter((pid) => pid !== String(server.pid));
		await eventually(
			async () => (await ofTheBuild()).length >= 6,
			"leader, runner, command and its children are there",
		);
		server.kill("SIGKILL");
		await eventually(async () => (await ofTheBuild()).length === 0, "all of them are gone");
		t.pass("all of them are gone");
	},
);
