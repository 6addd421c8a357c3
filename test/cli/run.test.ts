import { once } from "node:events";
import { mkdirSync, symlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { buildError, type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, git, runtime, Terminal, write } from "./harness.ts";

type Fixture = { fake: FakeServer; top: string; env: Record<string, string> };

async function fixture(t: Test, options: FakeOptions = {}): Promise<Fixture> {
	const fake = await FakeServer.start({ token: "rb_1_secret", ...options });
	t.teardown(() => fake.stop());
	const top = folder(t, Object.fromEntries(Object.entries(GO_FILES).map(([name, text]) => [`hello/${name}`, text])));
	return { fake, top, env: { RUNTIME_URL: fake.url, RUNTIME_TOKEN: "rb_1_secret" } };
}

const failing: FakeOptions["script"] = (revision) =>
	revision === 1
		? [{ to: "Building" }, { to: "Starting" }, { to: "Running" }]
		: [
				{ to: "Building" },
				{ log: "# example.com/hello" },
				{ log: "./main.go:6:6: undefined: fmt.Prinln" },
				{
					to: "Error",
					error: buildError({
						message: "main.go:6:6: undefined: fmt.Prinln",
						diagnostics: [{ file: "main.go", line: 6, column: 6, message: "undefined: fmt.Prinln" }],
					}),
				},
			];

t.test("run in a pipe: the URL on stdout, plain lines on stderr", async (t) => {
	const { fake, top, env } = await fixture(t);
	const { code, stdout, stderr } = await runtime(
		["run", "./hello", "--env", "A=b=c", "--metadata", "k=v", "--", "-addr", "$HOST:$PORT"],
		{ cwd: top, env },
	);
	t.equal(code, 0, stderr);
	t.match(stdout, /^http:\/\/127\.0\.0\.1:4\d{4}\n$/);
	const lines = stderr.split("\n");
	t.equal(lines[0], `hello -> ${fake.url}, acme, ana`);
	t.match(lines[1], /^upload 100% \d+ B$/);
	t.equal(lines[2], "build | go: downloading github.com/gin-gonic/gin");
	t.match(lines[3], /^build done \d+\.\ds$/);
	t.match(lines[4], /^start done \d+\.\ds$/);
	t.equal(lines.length, 6);
	const post = fake.requests.find(({ method, url }) => method === "POST" && url === "/services");
	t.match(post?.body, {
		name: "hello",
		version: "latest",
		entrypoint: ".",
		source: "source://s1",
		env: { A: "b=c" },
		metadata: { source: "./hello", k: "v" },
		args: ["-addr", "$HOST:$PORT"],
	});
	t.ok(fake.uploads[0]?.whole);
});

t.test("-q leaves the build log out, --no-wait does not wait", async (t) => {
	const { top, env } = await fixture(t);
	const quiet = await runtime(["run", "hello", "-q"], { cwd: top, env });
	t.equal(quiet.code, 0);
	t.notMatch(quiet.stderr, "build |");
	const early = await runtime(["run", "hello", "--name", "other", "--no-wait"], { cwd: top, env });
	t.equal(early.code, 0);
	t.equal(early.stdout, "");
	t.match(early.stderr, "Follow: runtime wait other · Cancel: runtime cancel other");
});

t.test("run on a terminal", async (t) => {
	const { fake, top, env } = await fixture(t);
	const terminal = new Terminal(["run", "."], { cwd: join(top, "hello"), env });
	t.equal(await terminal.exit, 0);
	const { lines, cursorHidden } = terminal.screen();
	t.equal(lines[0], `hello → ${fake.url} · acme · ana`);
	t.match(lines[1], /^✔ Upload {2}2 files, \d+ B {12} ?\d\.\ds$/);
	t.match(lines[2], /^✔ Build {3}go, 9\.1 MB {15}\d\.\ds$/);
	t.match(lines[3], /^✔ Start {3}ready {20}\d\.\ds$/);
	t.equal(lines[4], "hello:latest is running (revision 1)");
	t.match(lines[5], /^http:\/\/127\.0\.0\.1:4\d{4}$/);
	t.equal(lines.length, 6, "the log's window is gone");
	t.notOk(cursorHidden);
});

t.test("the log's window holds six lines while it builds, cut to the width", async (t) => {
	const log = Array.from({ length: 9 }, (_, index) => ({ log: `line ${index} ${"x".repeat(200)}\u001b[2J` }));
	const { fake, top, env } = await fixture(t, {
		script: () => [{ to: "Building" }, ...log, { gate: "go" }, { to: "Starting" }, { to: "Running" }],
	});
	const terminal = new Terminal(["run", "hello"], { cwd: top, env });
	await terminal.sees("line 8");
	const { lines, cursorHidden } = terminal.screen();
	t.match(lines[2], /^\S Build {3}go {23}\d\.\ds$/);
	t.same(
		lines.slice(3, 9).map((line) => line.slice(0, 10)),
		[3, 4, 5, 6, 7, 8].map((index) => `    line ${index}`),
	);
	t.ok(
		lines.every((line) => line.length < 100),
		"no line reaches the edge",
	);
	t.equal(lines[9], "  ctrl-c cancel · d detach");
	t.ok(cursorHidden);
	fake.open("go");
	t.equal(await terminal.exit, 0);
	t.notMatch(terminal.screen().lines.join("\n"), "line 8");
});

t.test("TERM=dumb gets plain lines, NO_COLOR no colours", async (t) => {
	const { top, env } = await fixture(t);
	const dumb = new Terminal(["run", "hello"], { cwd: top, env: { ...env, TERM: "dumb" } });
	t.equal(await dumb.exit, 0);
	t.notMatch(dumb.stdout, "\u001b[");
	t.match(dumb.stdout, "build done");
	const colourless = new Terminal(["update", "hello"], { cwd: top, env: { ...env, NO_COLOR: "1" } });
	t.equal(await colourless.exit, 0);
	t.notMatch(colourless.stdout.replaceAll("\u001b", "ESC"), /ESC\[3\dm/);
	t.match(colourless.stdout, "✔ Start");
});

t.test("a compile error, on a terminal and in a pipe", async (t) => {
	const { top, env } = await fixture(t, { script: failing });
	await runtime(["run", "hello"], { cwd: top, env });
	const cwd = join(top, "hello");
	const terminal = new Terminal(["update", "."], { cwd, env });
	t.equal(await terminal.exit, 1);
	const end = [
		"main.go:6:6: undefined: fmt.Prinln",
		'  6 │ fmt.Prinln("hi")',
		"Revision 2 failed to build; revision 1 keeps running.",
		"  Fix, then:  runtime update .",
		"  Full log:   runtime logs hello --build",
	];
	const { lines } = terminal.screen();
	t.match(lines[1], /^✔ Upload/);
	t.match(lines[2], /^✘ Build {3}go {23}\d\.\ds$/);
	t.same(lines.slice(3), end);
	const piped = await runtime(["update", "."], { cwd, env });
	t.equal(piped.code, 1);
	t.equal(piped.stdout, "");
	t.same(
		piped.stderr.trimEnd().split("\n").slice(-5),
		end.map((line) => line.replaceAll("Revision 2", "Revision 3")),
	);
	t.match(piped.stderr, "build | ./main.go:6:6: undefined: fmt.Prinln");
	const json = await runtime(["update", ".", "--json"], { cwd, env });
	t.equal(json.code, 1);
	t.match(JSON.parse(json.stdout), {
		status: "Running",
		revision: 1,
		target: { revision: 4, status: "Error", error: { code: "build_failed" } },
	});
});

t.test("a build that fails without a position shows its whole log", async (t) => {
	const log = Array.from({ length: 30 }, (_, index) => ({ log: `step ${index}.` }));
	const { top, env } = await fixture(t, {
		script: () => [
			{ to: "Building" },
			...log,
			{ to: "Error", error: buildError({ message: "the compiler was killed", code: "build_timeout" }) },
		],
	});
	const terminal = new Terminal(["run", "hello"], { cwd: top, env });
	t.equal(await terminal.exit, 1);
	const text = terminal.screen().lines.join("\n");
	for (const index of [0, 15, 29]) t.match(text, `step ${index}.`);
	t.match(text, "the compiler was killed");
	t.match(text, "Revision 1 failed to build.");
});

t.test("a start that fails shows the program's last lines", async (t) => {
	const error = buildError({
		code: "not_listening",
		phase: "start",
		message: "nothing listens on $PORT (40123) after 60 s; it listens on 8080",
		lastLines: ["listening on :8080"],
	});
	const { top, env } = await fixture(t, {
		script: () => [{ to: "Building" }, { to: "Starting" }, { to: "Error", error }],
	});
	const { code, stderr } = await runtime(["run", "hello"], { cwd: top, env });
	t.equal(code, 1);
	for (const text of [
		"start failed",
		"nothing listens on $PORT (40123)",
		"Its last lines:\n  listening on :8080",
		"Revision 1 failed to start.",
		"runtime logs hello",
	])
		t.match(stderr, text);
});

t.test("a program that ends by itself with 0 is no failure", async (t) => {
	const { top, env } = await fixture(t, { script: () => [{ to: "Building" }, { to: "Starting" }, { to: "Stopped" }] });
	const { code, stdout, stderr } = await runtime(["run", "hello"], { cwd: top, env });
	t.equal(code, 0);
	t.equal(stdout, "");
	t.match(stderr, "hello:latest has ended (revision 1)\n  Output:  runtime logs hello");
});

t.test("a superseded revision says by which", async (t) => {
	const { fake, top, env } = await fixture(t, {
		script: (revision) =>
			revision === 1
				? [
						{ to: "Building" },
						{ gate: "newer" },
						{ to: "Error", error: buildError({ code: "superseded", message: "superseded" }) },
					]
				: [{ to: "Building" }],
	});
	const running = new Terminal(["run", "hello"], { cwd: top, env });
	await running.sees("Build");
	await runtime(["update", "hello", "--no-wait"], { cwd: top, env });
	fake.open("newer");
	t.equal(await running.exit, 1);
	t.match(running.screen().lines.join("\n"), "Revision 1 was superseded by revision 2.");
});

t.test("unreachable", async (t) => {
	const { top } = await fixture(t);
	const probe = createServer().listen(0, "127.0.0.1");
	await once(probe, "listening");
	const address = probe.address();
	const url = `http://localhost:${typeof address === "object" ? address?.port : 0}`;
	await new Promise((resolve) => probe.close(resolve));
	const { code, stdout, stderr } = await runtime(["run", "./hello"], { cwd: top, env: { RUNTIME_URL: url } });
	t.equal(code, 3);
	t.equal(stdout, "");
	t.equal(
		stderr,
		`✘ Can't reach ${url}: connection refused\nNothing was uploaded.\n  Start one:    runtime server\n  Use another:  runtime run ./hello --server URL\n`,
	);
	const json = await runtime(["run", "./hello", "--json"], { cwd: top, env: { RUNTIME_URL: url } });
	t.equal(json.code, 3);
	t.match(JSON.parse(json.stdout), { code: "unreachable" });
	const status = await runtime(["status"], { cwd: top, env: { RUNTIME_URL: url } });
	t.equal(status.code, 3);
});

t.test("not signed in", async (t) => {
	const { fake, top } = await fixture(t);
	for (const token of [undefined, "rb_wrong"]) {
		const { code, stderr } = await runtime(["run", "hello"], {
			cwd: top,
			env: { RUNTIME_URL: fake.url, RUNTIME_TOKEN: token },
		});
		t.equal(code, 4);
		t.match(stderr, `✘ Not signed in to ${fake.url}`);
		t.match(stderr, "In CI:  set RUNTIME_TOKEN");
		t.match(stderr, "file admin-token of the server's data folder");
		t.notMatch(stderr, "rb_wrong");
	}
	t.equal(fake.uploads.length, 0);
	const status = await runtime(["status", "--json"], { cwd: top, env: { RUNTIME_URL: fake.url } });
	t.equal(status.code, 4);
	t.match(JSON.parse(status.stdout), { code: "unauthenticated", status: 401 });
});

t.test("wrong folder, with a server and without one", async (t) => {
	const { fake, env } = await fixture(t);
	const top = folder(t, {
		"go.mod": "module x\n",
		"cmd/api/main.go": "package main\n",
		"cmd/worker/main.go": "package main\n",
		"docs/x.md": "",
		".git/HEAD": "",
	});
	const expected = "  Found nearby:  ./cmd/api  ./cmd/worker\n  Try:  runtime run ./cmd/api\n";
	const known = await runtime(["run", "./docs"], { cwd: top, env });
	t.equal(known.code, 2);
	t.equal(known.stderr, `✘ Nothing to build in ./docs (no go.mod)\n${expected}`);
	const unknown = await runtime(["run", "./docs"], { cwd: top, env: { RUNTIME_URL: "http://127.0.0.1:9" } });
	t.equal(unknown.code, 2);
	t.equal(unknown.stderr, `✘ Nothing to build in ./docs (no go.mod, package.json)\n${expected}`);
	write(top, { "web/package.json": "{}" });
	const other = await runtime(["run", "./web"], { cwd: top, env });
	t.equal(other.code, 2, "a folder that this server does not build");
	t.equal(fake.uploads.length, 0);
	const asked = fake.requests.length;
	for (const [typed, home] of [
		["/", "/nowhere"],
		[".", top],
	] as const) {
		const refused = await runtime(["run", typed], { cwd: top, env: { ...env, HOME: home } });
		t.equal(refused.code, 2);
		t.match(refused.stderr, "✘ Refusing to upload");
	}
	t.equal(fake.requests.length, asked, "refused before anybody was asked");
});

t.test("a folder that git ignores", async (t) => {
	const { fake, top, env } = await fixture(t);
	git(top, "init", "-q");
	write(top, { ".gitignore": "hello\n", "go.mod": "module x\n" });
	const { code, stderr } = await runtime(["run", "hello"], { cwd: top, env });
	t.equal(code, 2);
	t.match(stderr, "Nothing of ./hello would be uploaded");
	t.equal(fake.uploads.length, 0);
});

t.test("run on an existing service, update and deploy of a missing one", async (t) => {
	const { fake, top, env } = await fixture(t);
	fake.seed("hello");
	const again = await runtime(["run", "./hello"], { cwd: top, env });
	t.equal(again.code, 1);
	t.match(again.stderr, "hello:latest exists already");
	t.match(again.stderr, "runtime update ./hello");
	const missing = await runtime(["update", "helo"], { cwd: top, env });
	t.equal(missing.code, 1);
	t.match(missing.stderr, "✘ There is no service helo; nothing was uploaded\n  Did you mean:  hello");
	const json = await runtime(["run", "./hello", "--json"], { cwd: top, env });
	t.match(JSON.parse(json.stdout), { code: "conflict" });
	t.equal(fake.uploads.length, 0);
	const deploy = await runtime(["deploy", "hello", "--name", "fresh"], { cwd: top, env });
	t.equal(deploy.code, 0, deploy.stderr);
	const second = await runtime(["deploy", "hello", "--name", "fresh", "--json", "--fields", "name,revision"], {
		cwd: top,
		env,
	});
	t.same(JSON.parse(second.stdout), { name: "fresh", revision: 2 });
});

t.test("update by name keeps the build; env, args and metadata say only what changes", async (t) => {
	const { fake, top, env } = await fixture(t);
	fake.seed("kept");
	const body = () => fake.requests.findLast(({ method }) => method === "PATCH")?.body;
	const changed = await runtime(["update", "kept", "--env", "A=1", "--unset-env", "B", "--"], { cwd: top, env });
	t.equal(changed.code, 0, changed.stderr);
	t.same(body(), { env: { A: "1", B: null }, args: [] });
	t.match(changed.stderr, "nothing to upload");
	t.notMatch(changed.stderr, "build ");
	await runtime(["update", "kept", "--", "-x"], { cwd: top, env });
	t.same(body(), { args: ["-x"] });
	const again = await runtime(["update", "kept"], { cwd: top, env });
	t.equal(again.code, 0);
	t.same(body(), { source: "source://seed" }, "by name alone: the same source anew");
	const note = await runtime(["update", "kept", "--metadata", "k=v"], { cwd: top, env });
	t.equal(note.code, 0);
	t.match(note.stderr, "nothing to rebuild or restart");
	t.equal(fake.uploads.length, 0);
});

t.test("symbolic links and an odd folder name are mentioned", async (t) => {
	const { top, env } = await fixture(t);
	mkdirSync(join(top, "My_App"));
	write(join(top, "My_App"), GO_FILES);
	symlinkSync("main.go", join(top, "My_App/link.go"));
	const { code, stderr } = await runtime(["run", "My_App"], { cwd: top, env });
	t.equal(code, 0, stderr);
	t.match(stderr, "warning: link.go is left out: a symbolic link");
	t.match(stderr, "the service is named my-app");
});

t.test("a server of another contract is mentioned", async (t) => {
	const { top, env } = await fixture(t, { contract: "3.0.0" });
	const { stderr } = await runtime(["run", "hello"], { cwd: top, env });
	t.match(stderr, /warning: The server speaks contract 3\.0\.0, this client \d/);
});

t.test("--dry-run lists, and asks no server", async (t) => {
	const { fake, top, env } = await fixture(t);
	const { code, stdout, stderr } = await runtime(["run", "hello", "--dry-run"], { cwd: top, env });
	t.equal(code, 0);
	t.equal(stdout, "34\tgo.mod\n62\tmain.go\n");
	t.equal(stderr, `hello:latest: 2 files, 96 B of ${join(top, "hello")}, entrypoint .; nothing was sent\n`);
	const json = await runtime(["deploy", "hello", "--dry-run", "--json"], { cwd: top, env });
	t.match(JSON.parse(json.stdout), { name: "hello", size: 96, files: [{ path: "go.mod", size: 34 }, {}] });
	t.equal(fake.requests.length, 0);
});
