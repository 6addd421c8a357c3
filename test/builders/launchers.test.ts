import { execFile } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { BuildError, type SourceTree } from "../../src/builders/builder.ts";
import type { Launcher } from "../../src/builders/launcher.ts";
import { NodeLauncher } from "../../src/builders/launchers/node.ts";
import { ProcfileLauncher } from "../../src/builders/launchers/procfile.ts";
import { PythonLauncher } from "../../src/builders/launchers/python.ts";
import { shell } from "../../src/builders/launchers/shell-command.ts";
import type { Tools } from "../../src/builders/launchers/tools.ts";
import { OpenSandbox } from "../../src/builders/sandbox/open.ts";
import { Draft } from "../../src/manager/draft.ts";
import { FolderMaker } from "../../src/manager/folder-maker.ts";
import { newWish } from "../../src/manager/wish.ts";
import { Directories } from "../../src/sources/directories.ts";

const target = { os: "linux", arch: "amd64" };

/** A source's folder, and tools of the test's own: each says its words and ends with its code. */
async function open(t: Test, files: Record<string, string>, scripts: Record<string, string> = {}) {
	const place = await mkdtemp(path.join(tmpdir(), "runtime-launchers-"));
	t.teardown(() => rm(place, { recursive: true, force: true }));
	const [root, bin, workFolder] = [path.join(place, "root"), path.join(place, "bin"), path.join(place, "work")];
	for (const folder of [root, bin, workFolder]) await mkdir(folder);
	for (const [name, text] of Object.entries(files)) {
		await mkdir(path.dirname(path.join(root, name)), { recursive: true });
		await writeFile(path.join(root, name), text);
	}
	for (const [name, script] of Object.entries(scripts)) {
		await writeFile(path.join(bin, name), `#!/bin/sh\n${script}\n`);
		await chmod(path.join(bin, name), 0o755);
	}
	const serverEnv = { PATH: `${bin}:${process.env.PATH}`, HOME: place };
	const tools: Tools = { sandbox: new OpenSandbox(), cacheFolder: path.join(place, "cache"), workFolder, serverEnv };
	const lines: string[] = [];
	const call = { signal: new AbortController().signal, log: (line: string) => lines.push(line) };
	return { root, tools, lines, call };
}

async function failure(work: Promise<unknown>): Promise<BuildError> {
	const error: unknown = await work.then(
		() => undefined,
		(reason: unknown) => reason,
	);
	if (error instanceof BuildError) return error;
	throw new Error(`no BuildError: ${error}`);
}

t.test("Procfile: web, or the only one there is; arguments follow", async (t) => {
	const launcher = new ProcfileLauncher();
	for (const [text, expected] of [
		["web: serve --port $PORT", "serve --port $PORT"],
		["worker: work\nweb:   serve  \n", "serve"],
		["# nothing\nonly-one: go", "go"],
		["web: serve\r\n", "serve"],
		["web:\n\nonly: go\n", "go"],
	] as const) {
		const { root, call } = await open(t, { "app/Procfile": text });
		t.equal(await launcher.detect(root, "app"), true);
		t.equal(await launcher.detect(root, "."), false);
		const launch = await launcher.prepare(root, { namespace: "default", entrypoint: "app", target }, call);
		t.same(launch, {
			...{ command: ["/bin/sh", "-c", `${expected} "$@"`, "sh"], folder: "app" },
			...{ launcher: "procfile", requires: "none" },
		});
	}
	for (const text of ["", "a: b\nc: d\n", "web:\n", "nonsense"]) {
		const { root, call } = await open(t, { Procfile: text });
		const error = await failure(launcher.prepare(root, { namespace: "default", entrypoint: ".", target }, call));
		t.match(error, { code: "source_invalid", message: /web/ }, JSON.stringify(text));
	}
});

t.test("package.json: its start script, or what it lacks", async (t) => {
	const { root, tools, call } = await open(t, { "package.json": '{"scripts":{"start":"node main.js"}}' });
	const launcher = new NodeLauncher(tools);
	t.equal(await launcher.detect(root, "."), true);
	const launch = await launcher.prepare(root, { namespace: "default", entrypoint: ".", target }, call);
	t.match(launch, {
		...{ folder: ".", launcher: "node", requires: "node" },
		command: ["/bin/sh", "-c", /node main\.js "\$@"$/],
	});
	for (const [text, message] of [
		["{", /package\.json is not JSON/],
		["[]", /^package\.json has no scripts\.start/],
		["null", /^package\.json has no scripts\.start/],
		['{"scripts":{"start":" "}}', /^package\.json has no scripts\.start/],
		['{"scripts":{"start":1}}', /^package\.json has no scripts\.start/],
	] as const) {
		const { root, tools, call } = await open(t, { "package.json": text });
		const error = await failure(
			new NodeLauncher(tools).prepare(root, { namespace: "default", entrypoint: ".", target }, call),
		);
		t.match(error, { code: "source_invalid", message }, text);
		t.match(await new NodeLauncher(tools).detect(root, "."), { lacking: message }, "and leaves it to the others");
	}
	const bad = await open(t, { "package.json": '{"scripts":{"start":"if x"}}' });
	t.match(
		await failure(
			new NodeLauncher(bad.tools).prepare(bad.root, { namespace: "default", entrypoint: ".", target }, bad.call),
		),
		{ code: "source_invalid", message: /^scripts\.start of package\.json is no line of shell/ },
	);
});

t.test("lines of shell: what follows goes to the last command, or else is the line's own", async (t) => {
	const signal = new AbortController().signal;
	const said = async (line: string, args: readonly string[]) => {
		const [file = "", ...rest] = await shell(line, "the line", { signal });
		return (await promisify(execFile)(file, [...rest, ...args])).stdout.trim().replaceAll("\n", "|");
	};
	const show = "printf '[%s]'";
	for (const [line, without, withArgs] of [
		[`${show} x`, "[x]", "[x][a b][$c]"],
		[`FOO=1 ${show} x`, "[x]", "[x][a b][$c]"],
		[`true && ${show} x`, "[x]", "[x][a b][$c]"],
		[`false || ${show} x`, "[x]", "[x][a b][$c]"],
		[`echo y | cat - && ${show} x`, "y|[x]", "y|[x][a b][$c]"],
		[`if true; then ${show} x; fi`, "[x]", "[x]"],
		[`if true; then ${show} x "$@"; fi`, "[x]", "[x][a b][$c]"],
		[`for i in 1 2; do ${show} $i; done`, "[1][2]", "[1][2]"],
		[`(${show} x)`, "[x]", "[x]"],
		[`{ ${show} x; }`, "[x]", "[x]"],
		[`case x in x) ${show} x;; esac`, "[x]", "[x]"],
		[`${show} x # a comment`, "[x]", "[x][a b][$c]"],
		[`${show} x # it's # one`, "[x]", "[x][a b][$c]"],
		[`if true; then ${show} x; fi # a comment`, "[x]", "[x]"],
		[`${show} '# none' "#" a#b $#`, "[# none][#][a#b][0]", "[# none][#][a#b][2][a b][$c]"],
		[`${show} "$(echo "a # b")"`, "[a # b]", "[a # b][a b][$c]"],
		[`${show} x;`, "[x]", "[x]"],
		[`(${show} x) &`, "[x]", "[x]"],
		[`${show} x >&2 2>/dev/null; ${show} y`, "[y]", "[y][a b][$c]"],
		[`true\n${show} x`, "[x]", "[x][a b][$c]"],
		["cat <<EOF\nhi $#\nEOF", "hi 0", "hi 2"],
		["cat <<'EOF' | cat\nhi # there\nEOF\n", "hi # there", "hi # there"],
		[`cat <<EOF && ${show} x\nhi\nEOF`, "hi|[x]", "hi|[x]"],
		[`cat <<EOF\nhi\nEOF\n${show} x`, "hi|[x]", "hi|[x][a b][$c]"],
		[`${show} x \\`, "[x][\\]", "[x][\\]"],
		[`${show} x\\\\`, "[x\\]", "[x\\][a b][$c]"],
	] as const) {
		t.equal(await said(line, []), without, line);
		t.equal(await said(line, ["a b", "$c"]), withArgs, `${line}, with arguments`);
	}
	for (const line of ["if true", "a &&", "echo 'x", ")", "a \0", `echo ${"x".repeat(70_000)}`])
		await t.rejects(shell(line, "the line", { signal }), { code: "source_invalid", message: /^the line is / });
	const hashes = await shell(`echo '${" #".repeat(30_000)}' # c`, "the line", { signal: AbortSignal.timeout(20_000) });
	t.match(hashes, ["/bin/sh", "-c", /^echo ' # #/, "sh"], "a shell is not started for each of many hashes");
	await t.rejects(shell(`(${"x".repeat(60_000)}`, "the line", { signal }), { message: /^.{1,400}$/ });
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-shell-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	await shell(`touch ${folder}/ran $(touch ${folder}/ran)`, "the line", { signal });
	t.same(await readdir(folder), [], "nothing of it is run before its time");
	const cancelled = shell("x", "the line", { signal: AbortSignal.abort() });
	await t.rejects(cancelled, { code: "cancelled" });
});

t.test(
	"a package.json without a start script leaves the folder to whoever is next; the last error says so",
	async (t) => {
		const plain = JSON.stringify({ scripts: { build: "x" } });
		for (const [files, expected] of [
			[{ "main.py": "" }, "python"],
			[{ Procfile: "web: serve" }, "procfile"],
			[{ "go.mod": "module x\n\ngo 1.21\n" }, "go"],
			[{}, /^there is nothing to run in app: app\/package\.json has no scripts\.start; add /],
		] as const) {
			const inner = Object.entries({ ...files, "package.json": plain }).map(([name, text]) => [`app/${name}`, text]);
			const { root, tools, call } = await open(t, Object.fromEntries(inner), {});
			const go: Launcher = {
				...{ name: "go", markers: ["go.mod"] },
				detect: async () => "go.mod" in files,
				prepare: async () => ({ command: ["x"], folder: "app", launcher: "go", requires: "none" }),
			};
			// Whatever their order.
			const launchers = [new NodeLauncher(tools), go, new PythonLauncher(tools), new ProcfileLauncher()];
			const maker = new FolderMaker(launchers, new Directories(path.join(root, "..", "directories")), target);
			const source: SourceTree = {
				archiveType: "targz",
				archive: () => Promise.reject(new Error("not asked for")),
				directory: async () => root,
				[Symbol.asyncDispose]: async () => undefined,
			};
			const draft = Draft.create({ id: "id1", namespace: "default", name: "app", version: "v", metadata: {} }, "");
			draft.add(newWish({ name: "app", source: "source://x", entrypoint: "app" }, null), null);
			const { service } = draft.commit();
			const [revision] = service.revisions;
			if (revision === undefined) throw new Error("no revision");
			const made = maker.make(service, revision, source, { ...call, keep: () => undefined });
			if (typeof expected === "string") t.match(await made, { launch: { launcher: expected } });
			else t.match(await failure(made), { code: "source_invalid", message: expected });
		}
	},
);

t.test("files that are read whole have a limit, and the error names the file", async (t) => {
	const large = " ".repeat(1024 ** 2 + 1);
	const { root, tools, call } = await open(t, {
		...{ "package.json": large, Procfile: `web: x${large}`, "requirements.txt": large, "main.py": large },
	});
	const options = { namespace: "default", entrypoint: ".", target };
	for (const [launcher, file] of [
		[new NodeLauncher(tools), "package.json"],
		[new ProcfileLauncher(), "Procfile"],
		[new PythonLauncher(tools), "requirements.txt"],
	] as const) {
		const error = await failure(launcher.prepare(root, options, call));
		t.match(error, { code: "source_invalid", message: `${file} has ` });
		t.match(error.message, /at most 1048576/);
	}
	t.match(await new NodeLauncher(tools).detect(root, "."), { lacking: /^package\.json has \d+ bytes/ });
	t.equal(await new PythonLauncher(tools).detect(root, "."), true, "a program may be as long as it likes");
	const folders = await open(t, { "package.json/x": "", "Procfile/x": "", "main.py/x": "" });
	for (const launcher of [new NodeLauncher(folders.tools), new ProcfileLauncher(), new PythonLauncher(folders.tools)])
		t.equal(await launcher.detect(folders.root, "."), false, "a folder is no file");
});
