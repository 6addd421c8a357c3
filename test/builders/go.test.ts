import { execFile, execFileSync } from "node:child_process";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import type { BuildOptions } from "../../src/builders/builder.ts";
import { createGoBuilder, type GoBuilderOptions } from "../../src/builders/go/go.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import {
	builderSuite,
	bytesOf,
	type Files,
	failureOf,
	HOST_TARGET,
	temporaryFolder,
	treeOf,
} from "../conformance/builder.ts";
import { archiveFolder } from "../fixtures/archive.ts";
import { goSamples, MOD, main } from "./go-samples.ts";

// Kept between runs and shared by all tests: with an empty cache, a build of net/http takes up to a minute.
const CACHE = join(tmpdir(), "runtime-builds-test-cache");
const MONOREPO = join(import.meta.dirname, "../fixtures/monorepo");

const signal = new AbortController().signal;
const log = () => undefined;

await builderSuite(t, {
	name: "go",
	factory: (workFolder) => createGoBuilder({ cacheFolder: CACHE, workFolder }),
	samples: goSamples(),
});

type Extra = Partial<GoBuilderOptions> & { readonly entrypoint?: string; readonly env?: Record<string, string> };

async function builderFor(t: Test, extra: Extra = {}) {
	return createGoBuilder({ cacheFolder: CACHE, workFolder: await temporaryFolder(t), ...extra });
}

const options = (entrypoint = ".", env: Record<string, string> = {}): BuildOptions => ({
	namespace: "default",
	entrypoint,
	env,
	target: HOST_TARGET,
});

async function failing(t: Test, files: Files, extra: Extra = {}) {
	const builder = await builderFor(t, extra);
	return failureOf(builder.build(await treeOf(t, files), options(extra.entrypoint), { signal, log }));
}

/** Builds a folder of the monorepo from the whole of it, and runs it where it is said to end by itself. */
async function monorepo(t: Test, entrypoint: string, extra: Extra = {}) {
	const builder = await builderFor(t, extra);
	const tree = openSourceTree({ open: async () => archiveFolder(MONOREPO), workFolder: await temporaryFolder(t) });
	t.teardown(() => tree[Symbol.asyncDispose]());
	const lines: string[] = [];
	await using build = await builder.build(tree, options(entrypoint), { signal, log: (line) => lines.push(line) });
	const path = join(await temporaryFolder(t), "program");
	await writeFile(path, await bytesOf(build));
	await chmod(path, 0o755);
	return { path, lines };
}

t.test("the monorepo: nested modules, a package of a parent folder, a vendor folder", async (t) => {
	const printer = await monorepo(t, "printer");
	t.equal((await promisify(execFile)(printer.path)).stdout, "line 1\nline 2\nline 3\n");
	t.match(printer.lines[0], /^go build printer \(go1/);
	const vendored = await monorepo(t, "vendored", { env: { GOPROXY: "off" } });
	t.match((await promisify(execFile)(vendored.path)).stdout, /vendored package/);
	await t.rejects(promisify(execFile)((await monorepo(t, "crasher")).path), { code: 3, stderr: /database/ });
	await monorepo(t, "cmd/server");
	for (const name of ["helloserver", "worker", "probe"]) await monorepo(t, name);
	const error = await failureOf(
		(await builderFor(t)).build(
			openSourceTree({ open: async () => archiveFolder(MONOREPO), workFolder: await temporaryFolder(t) }),
			options("shared/greet"),
			{ signal, log },
		),
	);
	t.equal(error.code, "source_invalid");
	t.match(error.message, /shared\/greet is a library, not a program.*crasher/);
});

t.test("a dependency comes from the module proxy; an unreachable proxy says so", async (t) => {
	const { lines } = await monorepo(t, "withdeps", { cacheFolder: CACHE });
	t.ok(lines.length >= 1);
	const empty = await temporaryFolder(t);
	const files: Files = {
		"go.mod": `${MOD}\nrequire github.com/google/uuid v1.6.0\n`,
		"go.sum":
			"github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
		"main.go": main("\tprintln(uuid.NewString())", 'import "github.com/google/uuid"\n'),
	};
	const error = await failing(t, files, { cacheFolder: empty, env: { GOPROXY: "http://127.0.0.1:1" } });
	t.equal(error.code, "unavailable");
	t.ok(error.retryable);
	t.match(error.message, /could not fetch a module: main\.go:3:8: .*uuid@v1\.6\.0.*refused/);
	const noSum = await failing(t, { ...files, "go.sum": "" });
	t.equal(noSum.code, "build_failed");
	t.match(noSum.diagnostics[0], {
		file: "main.go",
		line: 3,
		column: 8,
		message: /missing go\.sum entry[\s\S]*go mod tidy/,
	});
});

t.test("mistakes, each with its place and what to do", async (t) => {
	const imports = (path: string) => ({ "go.mod": MOD, "main.go": main("", `import _ "${path}"\n`) });
	const cases: [string, Files, { code?: string; message: RegExp; first?: object }, Extra?][] = [
		[
			"missing import",
			imports("github.com/nobody/nothing"),
			{
				message: /^main\.go:3:8: .*github\.com\/nobody\/nothing.*go mod tidy/,
				first: { file: "main.go", line: 3, column: 8 },
			},
		],
		["not in std", imports("notstd/foo"), { message: /^main\.go:3:8: package notstd\/foo is not in std/ }],
		["internal", imports("internal/abi"), { message: /^main\.go:3:8: use of internal package/ }],
		[
			"several, in a folder below",
			{
				"go.mod": MOD,
				"lib/l.go": "package lib\n\nfunc A() int { return true }\n",
				"cmd/main.go": main("\tlib.A()", 'import "example.com/x/lib"\n'),
			},
			{ message: /^lib\/l\.go:3:23: cannot use true/, first: { file: "lib/l.go", line: 3, column: 23 } },
			{ entrypoint: "cmd" },
		],
		[
			"more than one",
			{ "go.mod": MOD, "main.go": main("\ta()\n\tb()\n\tc()") },
			{ message: /^main\.go:5:2: undefined: a \(and 2 more\)$/ },
		],
		[
			"continued lines, in a folder below",
			{ "go.mod": MOD, "cmd/main.go": `${main("")}func main() {}\n` },
			{ message: /^cmd\/main\.go:7:6: main redeclared in this block cmd\/main\.go:4:6: other declaration of main$/ },
			{ entrypoint: "cmd" },
		],
		[
			"go.mod above the entrypoint",
			{ "go.mod": `${MOD}requir foo\n`, "cmd/main.go": main("") },
			{ message: /^go\.mod:4: unknown directive: requir$/ },
			{ entrypoint: "cmd" },
		],
		["syntax", { "go.mod": MOD, "main.go": "package main\n\nfunc {\n" }, { message: /^main\.go:3:6: syntax error/ }],
		[
			"import cycle",
			{
				"go.mod": MOD,
				"main.go": main("", 'import _ "example.com/x/a"\n'),
				"a/a.go": 'package a\nimport _ "example.com/x/b"\n',
				"b/b.go": 'package b\nimport _ "example.com/x/a"\n',
			},
			{ message: /import cycle not allowed/, first: { file: "main.go" } },
		],
		["no func main", { "go.mod": MOD, "main.go": "package main\n" }, { message: /function main is undeclared/ }],
		[
			"go.mod syntax",
			{ "go.mod": `${MOD}\nrequir foo\n`, "main.go": main("") },
			{ message: /^go\.mod:5: unknown directive: requir/ },
		],
		[
			"inconsistent vendor folder",
			{ "go.mod": `${MOD}\nrequire example.com/y v1.0.0\n`, "vendor/modules.txt": "", "main.go": main("") },
			{ message: /inconsistent vendoring/ },
		],
		[
			"no Go files",
			{ "go.mod": MOD, "cmd/a/main.go": main(""), "docs/x.txt": "" },
			{ code: "source_invalid", message: /no Go program in docs.*are in: cmd\/a/ },
			{ entrypoint: "docs" },
		],
		[
			"other systems only",
			{ "go.mod": MOD, "main.go": `//go:build plan9\n\n${main("")}` },
			{ code: "source_invalid", message: /build constraints exclude all Go files/ },
		],
		[
			"no go.mod",
			{ "a/main.go": main("") },
			{ code: "source_invalid", message: /no go\.mod in the source's root.*go mod init.*are in: a/ },
		],
		[
			"entrypoint is a file",
			{ "go.mod": MOD, "main.go": main("") },
			{ code: "source_invalid", message: /no folder main\.go in the source.*are in: \./ },
			{ entrypoint: "main.go" },
		],
		[
			"replace escapes",
			{ "go.mod": `${MOD}\nreplace example.com/y => ../y\n`, "main.go": main("") },
			{ code: "source_invalid", message: /^go\.mod:5: `replace example\.com\/y => \.\.\/y` points outside/ },
		],
		[
			"replace in a block escapes",
			{ "go.mod": `${MOD}\nreplace ( // both\n\texample.com/z v1.0.0 => "./../../y" // far\n)\n`, "main.go": main("") },
			{ code: "source_invalid", message: /^go\.mod:6: / },
		],
		[
			"replace with an absolute folder",
			{ "go.mod": `${MOD}\nreplace example.com/y => /usr/local/y\n`, "main.go": main("") },
			{ code: "source_invalid", message: /^go\.mod:5: / },
		],
		[
			"go line too new",
			{ "go.mod": "module example.com/x\n\ngo 1.999\n", "main.go": main("") },
			{
				code: "unavailable",
				message: /^go\.mod:3 needs Go 1\.999 and the machine that builds has go1\.[\d.]+\. Install Go 1\.999/,
			},
		],
	];
	for (const [name, files, expected, extra] of cases)
		await t.test(name, async (t) => {
			const error = await failing(t, files, extra);
			t.equal(error.code, expected.code ?? "build_failed");
			t.match(error.message, expected.message);
			if (expected.first !== undefined) t.match(error.diagnostics[0], expected.first);
			t.notMatch(JSON.stringify([error.message, error.diagnostics]), tmpdir());
		});
});

t.test("a replace inside the source is fine, and go.work is ignored", async (t) => {
	const builder = await builderFor(t);
	const files = {
		"go.work": "go 1.999\n\nuse ./nowhere\n",
		"app/go.mod":
			"module example.com/x\n\ngo 1.21\n\nrequire example.com/y v0.0.0\n\nreplace example.com/y => ../lib\n",
		"app/main.go": main("\tprintln(y.A)", 'import "example.com/y"\n'),
		"lib/go.mod": "module example.com/y\n\ngo 1.21\n",
		"lib/y.go": "package y\n\nconst A = 1\n",
	};
	await using build = await builder.build(await treeOf(t, files), options("app"), { signal, log });
	t.ok(build.size > 0);
});

t.test("a build sees neither the server's environment nor settings that could run commands", async (t) => {
	const folder = await temporaryFolder(t);
	const fake = join(folder, "go");
	const real = execFileSync("/bin/sh", ["-c", "command -v go"], { encoding: "utf8" }).trim();
	await writeFile(fake, `#!/bin/sh\n[ "$1" = build ] && env && pwd && exit 1\nexec "${real}" "$@"\n`);
	await chmod(fake, 0o755);
	const lines: string[] = [];
	const builder = await builderFor(t, {
		goCommand: fake,
		serverEnv: {
			...process.env,
			SECRET_TOKEN: "s3cret",
			GOFLAGS: "-toolexec=evil",
			HTTPS_PROXY: "http://proxy.example:1",
			GOPROXY: "http://modules.example",
		},
		env: { GOPRIVATE: "git.example/*", NETRC: "/somewhere/netrc", PATH: "/evil" },
	});
	const env = { GOFLAGS: "-toolexec=evil", GOCACHEPROG: "evil", GOAMD64: "v1", PATH: "/evil" };
	const tree = await treeOf(t, { "go.mod": MOD, "main.go": main("") });
	await failureOf(builder.build(tree, options(".", env), { signal, log: (line) => lines.push(line) }));
	const seen = Object.fromEntries(lines.filter((line) => /^\w+=/.test(line)).map((line) => line.split(/=(.*)/s)));
	t.match(seen, {
		GOPROXY: "http://modules.example",
		GOPRIVATE: "git.example/*",
		NETRC: "/somewhere/netrc",
		HTTPS_PROXY: "http://proxy.example:1",
		GOFLAGS: "-modcacherw",
		GOWORK: "off",
		GOENV: "off",
		GOTOOLCHAIN: "local",
		CGO_ENABLED: "0",
		GOAMD64: "v1",
	});
	t.notMatch(lines.filter((line) => line.includes("=")).join("\n"), /s3cret|evil/);
	t.ok(lines.includes("GOCACHEPROG is not passed to the Go build"));
});

t.test("no Go on the machine, and one that comes later", async (t) => {
	const bin = await temporaryFolder(t);
	await mkdir(bin, { recursive: true });
	const builder = await builderFor(t, { serverEnv: { PATH: bin, HOME: bin } });
	const files = { "go.mod": MOD, "main.go": main("") };
	const error = await failureOf(builder.build(await treeOf(t, files), options(), { signal, log }));
	t.equal(error.code, "unavailable");
	t.ok(error.retryable);
	t.match(error.message, /no Go on the machine that builds.*Install Go/);
	const real = execFileSync("/bin/sh", ["-c", "command -v go"], { encoding: "utf8" }).trim();
	await writeFile(join(bin, "go"), `#!/bin/sh\nexec "${real}" "$@"\n`, { mode: 0o755 });
	await using build = await builder.build(await treeOf(t, files), options(), { signal, log });
	t.ok(build.size > 0);
});
