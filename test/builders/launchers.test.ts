import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { BuildError, type SourceTree } from "../../src/builders/builder.ts";
import type { Launcher } from "../../src/builders/launcher.ts";
import { NodeLauncher } from "../../src/builders/launchers/node.ts";
import { ProcfileLauncher } from "../../src/builders/launchers/procfile.ts";
import { PythonLauncher } from "../../src/builders/launchers/python.ts";
import { findTool, packageSettings, type Tools } from "../../src/builders/launchers/tools.ts";
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
	const tools: Tools = { path: `${bin}:/usr/bin:/bin`, workFolder, env: { npm_config_registry: "https://packages" } };
	const lines: string[] = [];
	const call = { signal: new AbortController().signal, log: (line: string) => lines.push(line) };
	return { root, bin, workFolder, tools, lines, call };
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

t.test(
	"package.json: its start script; dependencies without their scripts, by the lock where there is one",
	async (t) => {
		const manifest = { scripts: { start: "node main.js" } };
		const npm = 'echo "ran $* $npm_config_registry $SECRET"';
		for (const [extra, more, expected] of [
			[{}, {}, []],
			[{ dependencies: {} }, {}, []],
			[{ devDependencies: { a: "1" } }, {}, []],
			[{ dependencies: { a: "1" } }, {}, ["install"]],
			[{ dependencies: { a: "1" } }, { "package-lock.json": "{}" }, ["ci"]],
		] as const) {
			const files = { "package.json": JSON.stringify({ ...manifest, ...extra }), ...more };
			const { root, tools, lines, call, workFolder } = await open(t, files, { npm });
			const launcher = new NodeLauncher(tools);
			t.equal(await launcher.detect(root, "."), true);
			const launch = await launcher.prepare(root, { namespace: "default", entrypoint: ".", target }, call);
			t.match(launch, {
				folder: ".",
				launcher: "node",
				requires: "node",
				command: ["/bin/sh", "-c", /node main\.js "\$@"$/],
			});
			const ran = lines.filter((line) => line.startsWith("ran "));
			t.same(
				ran,
				expected.map((verb) => `ran ${verb} --omit=dev --ignore-scripts --no-audit --no-fund https://packages `),
			);
			t.same(await readdir(workFolder), [], "no home is left");
		}
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
	},
);

t.test(
	"a tool that fails is build_failed with its last line; one that is not there says what to install",
	async (t) => {
		const files = { "package.json": JSON.stringify({ scripts: { start: "x" }, dependencies: { a: "1" } }) };
		const bad = await open(t, files, { npm: "echo first; echo 'npm error 404'; echo; exit 7" });
		const error = await failure(
			new NodeLauncher(bad.tools).prepare(bad.root, { namespace: "default", entrypoint: ".", target }, bad.call),
		);
		t.match(error, { code: "build_failed", exitCode: 7, message: /npm install ended with 7: npm error 404/ });
		t.ok(bad.lines.includes("first"), "all of its words are in the log");
		t.same(await readdir(bad.workFolder), []);
		const none = { ...bad.tools, path: bad.workFolder };
		const missing = await failure(
			new NodeLauncher(none).prepare(bad.root, { namespace: "default", entrypoint: ".", target }, bad.call),
		);
		t.match(missing, { code: "unavailable", message: /npm is not installed on the server: install/ });
		t.equal(await findTool("npm", bad.tools, "x"), path.join(bad.bin, "npm"));
	},
);

t.test("a cancelled call ends the tool before it rejects", async (t) => {
	const files = { "package.json": JSON.stringify({ scripts: { start: "x" }, dependencies: { a: "1" } }) };
	const { root, tools, workFolder } = await open(t, files, { npm: "echo begun; exec sleep 600" });
	const abort = new AbortController();
	const call = { signal: abort.signal, log: (line: string) => (line === "begun" ? abort.abort() : undefined) };
	await t.rejects(new NodeLauncher(tools).prepare(root, { namespace: "default", entrypoint: ".", target }, call), {
		code: "cancelled",
	});
	t.same(await readdir(workFolder), []);
});

t.test("Python: main.py is compiled first; requirements go into an environment of its own", async (t) => {
	const python3 = 'echo "ran $*"';
	for (const [requirements, expected] of [
		[null, []],
		["# nothing\n\n", []],
		[
			"flask==3\n",
			[
				"-m venv ROOT/.runtime/venv",
				"-m pip --python=ROOT/.runtime/venv/bin/python3 install --quiet -r requirements.txt",
			],
		],
	] as const) {
		const files = { "main.py": "", ...(requirements === null ? {} : { "requirements.txt": requirements }) };
		const { root, bin, tools, lines, call } = await open(t, files, { python3 });
		const launcher = new PythonLauncher(tools);
		t.equal(await launcher.detect(root, "."), true);
		const launch = await launcher.prepare(root, { namespace: "default", entrypoint: ".", target }, call);
		const interpreter =
			expected.length === 0 ? path.join(bin, "python3") : path.join(root, ".runtime/venv/bin/python3");
		t.same(launch, {
			...{ command: [interpreter, "-u", "main.py"], folder: "." },
			...{ launcher: "python", requires: "python" },
		});
		const ran = lines.filter((line) => line.startsWith("ran ")).map((line) => line.slice(4).replaceAll(root, "ROOT"));
		t.same(ran, ["-m py_compile main.py", ...expected]);
	}
	const bad = await open(
		t,
		{ "main.py": "" },
		{ python3: "echo '  File \"main.py\", line 1'; echo 'SyntaxError: x'; exit 1" },
	);
	const error = await failure(
		new PythonLauncher(bad.tools).prepare(bad.root, { namespace: "default", entrypoint: ".", target }, bad.call),
	);
	t.match(error, { code: "build_failed", message: /SyntaxError/ });
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
			const { root, tools, call } = await open(t, Object.fromEntries(inner), { python3: "exit 0" });
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
			const made = maker.make(service, revision, source, call);
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

t.test("of the server's environment the tools get what says where packages come from, and no more", async (t) => {
	const env = {
		...{ npm_config_registry: "a", PIP_INDEX_URL: "b", HTTPS_PROXY: "c", no_proxy: "d", NODE_EXTRA_CA_CERTS: "e" },
		...{
			SSL_CERT_FILE: "f",
			RUNTIME_TOKEN: "secret",
			NODE_OPTIONS: "--require x",
			AWS_SECRET: "secret",
			EMPTY: undefined,
		},
	};
	t.same(Object.values(packageSettings(env)).sort(), ["a", "b", "c", "d", "e", "f"]);
});
