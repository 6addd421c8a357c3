import { spawnSync } from "node:child_process";
import { chmodSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { COMMANDS } from "../../clients/cli/catalog.ts";
import { MANUAL } from "../../clients/cli/manual.ts";
import { type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, LAUNCHER, runtime, Terminal, write } from "./harness.ts";

async function fixture(t: Test, options: FakeOptions = {}) {
	const fake = await FakeServer.start(options);
	t.teardown(() => fake.stop());
	return { fake, cwd: folder(t), env: { RUNTIME_URL: fake.url } };
}

t.test("rollback makes a revision and waits for it", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	await runtime(["update", "hello", "--env", "A=1"], { cwd, env });
	fake.loseAnswers = 1;
	const { code, stdout, stderr } = await runtime(["rollback", "hello", "1"], { cwd, env });
	t.equal(code, 0, stderr);
	t.match(stdout, /^http:\/\/127\.0\.0\.1:4\d{4}\n$/);
	t.match(stderr, /^hello -> .*\nstart done \d+\.\ds\n$/);
	const sent = fake.requests.filter(({ url }) => url.endsWith("/rollback"));
	t.equal(sent.length, 2, "the lost answer was asked for again");
	t.equal(sent[0]?.key, sent[1]?.key);
	t.same(sent[0]?.body, { revision: 1 });
	t.equal(fake.services.get("hello:latest")?.revisions.length, 3);
	const early = await runtime(["rollback", "hello", "2", "latest", "--no-wait", "--json"], { cwd, env });
	t.equal(early.code, 0);
	t.match(early.stderr, "Revision 4 was accepted.");
	t.match(JSON.parse(early.stdout), { name: "hello" });
	const terminal = new Terminal(["rollback", "hello", "1"], { cwd, env });
	t.equal(await terminal.exit, 0);
	t.match(terminal.screen().lines.join("\n"), /✔ Start {3}ready[\s\S]*hello:latest is running \(revision 5\)/);
	for (const [args, words, exit] of [
		[["rollback", "hello", "99"], "there is no revision 99", 1],
		[["rollback", "helo", "1"], "There is no service helo", 1],
		[["rollback", "hello", "first"], 'revision: "first" is no whole number', 2],
		[["rollback", "hello"], "Missing required argument 'revision'", 2],
	] as const) {
		const wrong = await runtime(args, { cwd, env });
		t.equal(wrong.code, exit, args.join(" "));
		t.match(wrong.stderr, words);
	}
});

t.test("every change has a key of its own", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	for (const value of ["1", "2"]) await runtime(["update", "hello", "--env", `A=${value}`], { cwd, env });
	const keys = fake.requests.filter(({ method }) => method === "PATCH").map(({ key }) => key);
	t.equal(new Set(keys).size, 2);
	for (const key of keys) t.match(key, /^[!-~]{16,200}$/);
});

t.test("--env-from reads a file, and stdin", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	write(cwd, { "some.env": "A=1\nB='two words'\n" });
	const { code, stderr } = await runtime(["update", "hello", "--env-from", "some.env", "--env", "A=2"], { cwd, env });
	t.equal(code, 0, stderr);
	t.same(fake.requests.findLast(({ method }) => method === "PATCH")?.body, { env: { A: "2", B: "two words" } });
	const empty = await runtime(["update", "hello", "--env-from", "-", "--env", "A=3"], { cwd, env });
	t.equal(empty.code, 0, empty.stderr);
	const missing = await runtime(["update", "hello", "--env-from", "nosuch"], { cwd, env });
	t.equal(missing.code, 2);
	t.match(missing.stderr, "--env-from nosuch");
});

t.test("open hands the URL to a browser on a terminal, and prints it elsewhere", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const held = fake.seed("hello");
	write(cwd, { browser: '#!/bin/sh\necho "$1" >"$(dirname "$0")/opened"\n' });
	chmodSync(join(cwd, "browser"), 0o755);
	const browser = { ...env, BROWSER: join(cwd, "browser") };
	const piped = await runtime(["open", "hello"], { cwd, env: browser });
	t.equal(piped.stdout, `${held.url}\n`);
	const terminal = new Terminal(["open", "hello"], { cwd, env: browser });
	t.equal(await terminal.exit, 0);
	t.equal(readFileSync(join(cwd, "opened"), "utf8"), `${held.url}\n`);
	for (const missing of [{ BROWSER: join(cwd, "nosuch") }, { BROWSER: "", DISPLAY: "", WAYLAND_DISPLAY: "" }]) {
		const printed = new Terminal(["open", "hello"], { cwd, env: { ...env, ...missing } });
		t.equal(await printed.exit, 0);
		t.equal(printed.screen().lines[0], held.url);
	}
	await runtime(["stop", "hello"], { cwd, env });
	const stopped = await runtime(["open", "hello"], { cwd, env });
	t.equal(stopped.code, 1);
	t.match(stopped.stderr, "✘ hello:latest is not running (stopped)\n  Start it:  runtime start hello");
	t.match((await runtime(["open", "nosuch"], { cwd, env })).stderr, "There is no service nosuch");
});

t.test("a git repository is checked first and never uploaded", async (t) => {
	const { fake, cwd, env } = await fixture(t, {
		remote: (source) =>
			source.includes("nosuch")
				? { status: 404, body: { code: "not_found", detail: "github.com/a/nosuch has no branch or tag x" } }
				: source.includes("limited")
					? { status: 503, body: { code: "unavailable", detail: "the host asks to come later" } }
					: {
							status: 200,
							body: {
								source,
								url: "https://github.com/golang/example",
								folder: "hello",
								ref: "master",
								commit: "0123456789abcdef0123456789abcdef01234567",
							},
						},
	});
	const good = await runtime(["run", "github.com/golang/example/hello@master"], { cwd, env });
	t.equal(good.code, 0, good.stderr);
	t.match(good.stderr, "(https://github.com/golang/example, hello, master at 0123456789ab)");
	const post = fake.requests.find(({ method }) => method === "POST")?.body;
	const source = "github.com/golang/example/hello@master";
	t.same(post, { name: "hello", version: "master", source, metadata: { source } });
	const wrong = await runtime(["run", "https://github.com/a/nosuch@x", "--json"], { cwd, env });
	t.equal(wrong.code, 1);
	t.match(JSON.parse(wrong.stdout), { code: "not_found", detail: "github.com/a/nosuch has no branch or tag x" });
	t.equal(fake.requests.filter(({ method }) => method === "POST").length, 1, "nothing was created");
	const limited = await runtime(["deploy", "github.com/a/limited", "--name", "later"], { cwd, env });
	t.equal(limited.code, 0, "a host that cannot be asked now is asked while it builds");
	t.equal(fake.uploads.length, 0);
	const ssh = await runtime(["run", "git@github.com:a/b.git"], { cwd, env });
	t.equal(ssh.code, 2);
	t.match(ssh.stderr, "over https, not ssh");
});

t.test("a server that takes no repositories says so", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	const { code, stderr } = await runtime(["run", "github.com/a/b"], { cwd, env });
	t.equal(code, 1);
	t.match(
		stderr,
		"This server takes no git repositories; nothing was created\n  Try:  git clone github.com/a/b source",
	);
	t.equal(fake.services.size, 0);
});

t.test("every command has a page with all its sections", async (t) => {
	const cwd = folder(t);
	for (const { name } of COMMANDS) {
		t.ok((MANUAL[name]?.examples ?? []).length > 0, `${name} has examples`);
		const page = await runtime([...name.split(" "), "--help"], { cwd });
		t.equal(page.code, 0);
		t.equal(page.stderr, "");
		for (const title of ["Usage", "What it does", "Common options", "Examples", "Exit codes", "Environment"])
			t.match(page.stdout, `\n${title}:\n  `, `${name}: ${title}`);
		t.ok(
			page.stdout.split("\n").every((line) => line.length <= 110),
			"no line is too long",
		);
		t.equal((await runtime(["help", ...name.split(" ")], { cwd })).stdout, page.stdout);
	}
	t.same(Object.keys(MANUAL).sort(), COMMANDS.map(({ name }) => name).sort());
});

t.test("completion: commands, options, values, live names", async (t) => {
	const { fake, cwd, env } = await fixture(t, { token: "rb_1_x" });
	fake.seed("hello");
	fake.seed("hello", "v2");
	fake.seed("other");
	const words = async (...typed: string[]) =>
		(await runtime(["__complete", ...typed], { cwd, env: { ...env, RUNTIME_TOKEN: "rb_1_x" } })).stdout
			.split("\n")
			.filter((line) => line !== "");
	t.same(await words("st"), ["start", "status", "stop"]);
	t.same(await words("--server", fake.url, "roll"), ["rollback"]);
	t.same(await words("build", ""), ["download"]);
	t.same(await words("logs", "h"), ["hello"]);
	t.same(await words("logs", "-f", "hello", ""), ["latest", "v2"]);
	t.same(await words("update", "o"), ["other", ":dirs"]);
	t.same(await words("run", ""), [":dirs"]);
	t.same(await words("run", "--health", ""), ["http", "none", "port"]);
	t.same(await words("run", "--restart", "o"), ["on-failure"]);
	t.same(await words("run", "--env-from", ""), [":files"]);
	t.same(await words("run", "--unset"), []);
	t.same(await words("update", "--unset"), ["--unset-env"]);
	t.ok((await words("kill", "--")).includes("--no-wait"));
	t.same(await words("completion", ""), ["bash", "fish", "zsh"]);
	t.same(await words("help", "who"), ["whoami"]);
	t.same(await words("nosuch", ""), []);
	await fake.stop();
	const silent = await runtime(["__complete", "logs", ""], { cwd, env });
	t.same(silent, { code: 0, stdout: "", stderr: "" });
	const refused = await runtime(["completion", "fsh"], { cwd, env });
	t.equal(refused.code, 2);
	t.match(refused.stderr, "Did you mean:  runtime completion fish");
	for (const shell of ["zsh", "fish"]) t.match((await runtime(["completion", shell], { cwd })).stdout, "__complete");
});

t.test("bash takes the script, and completes with it", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	symlinkSync(LAUNCHER, join(cwd, "runtime"));
	write(cwd, { "some folder/x": "" });
	write(cwd, {
		"try.sh": `eval "$(runtime completion bash)"
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _runtime 2>/dev/null; printf '[%s]' "\${COMPREPLY[@]}"; echo; }
complete -p runtime
try runtime rev
try runtime logs he
try runtime run so
`,
	});
	const path = `${cwd}:${process.execPath.replace(/\/node$/, "")}:${process.env.PATH}`;
	const child = { cwd, env: { ...process.env, ...env, PATH: path }, encoding: "utf8" } as const;
	// The fake server is in this process: a synchronous call would starve it.
	const { spawn } = await import("node:child_process");
	const running = spawn("bash", ["--norc", "try.sh"], { cwd: child.cwd, env: child.env });
	let output = "";
	running.stdout.on("data", (data) => {
		output += String(data);
	});
	await new Promise((resolve) => running.once("close", resolve));
	t.same(output.trim().split("\n"), ["complete -F _runtime runtime", "[revisions]", "[hello]", "[some folder]"]);
	t.equal(spawnSync("bash", ["-n", "try.sh"], child).status, 0);
});
