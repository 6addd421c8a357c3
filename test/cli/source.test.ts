import { createHash } from "node:crypto";
import { mkdirSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { extract } from "tar-stream";
import { isCliError } from "../../clients/cli/errors.ts";
import { writeArchive } from "../../clients/cli/source/archive.ts";
import { builderOf, KNOWN_BUILDERS, nothingToBuild } from "../../clients/cli/source/buildable.ts";
import { listFiles, type SourceFile } from "../../clients/cli/source/files.ts";
import { remoteSource } from "../../clients/cli/source/remote.ts";
import { locate, looksRemote, validName } from "../../clients/cli/source/root.ts";
import { folder, GO_FILES, git, write } from "./harness.ts";

const { signal } = new AbortController();

async function archive(files: readonly SourceFile[]): Promise<Buffer> {
	const pieces: Buffer[] = [];
	// A copy: the writer reuses its buffers.
	await writeArchive(
		files,
		async (piece) => {
			pieces.push(Buffer.from(piece));
		},
		{ signal },
	);
	return Buffer.concat(pieces);
}

async function unpack(
	bytes: Buffer,
): Promise<Map<string, { mode: number | undefined; mtime: Date | undefined; text: Buffer }>> {
	const entries = new Map<string, { mode: number | undefined; mtime: Date | undefined; text: Buffer }>();
	const reader = extract();
	reader.end(gunzipSync(bytes));
	for await (const entry of reader) {
		const parts: Buffer[] = [];
		for await (const part of entry) if (part instanceof Uint8Array) parts.push(Buffer.from(part));
		entries.set(entry.header.name, { mode: entry.header.mode, mtime: entry.header.mtime, text: Buffer.concat(parts) });
	}
	return entries;
}

const paths = async (root: string): Promise<string[]> => (await listFiles(root, signal)).files.map((file) => file.path);

t.test("root and entrypoint", (t) => {
	const top = folder(t, {
		"repo/.git/HEAD": "x",
		"repo/go.mod": "",
		"repo/cmd/api/main.go": "",
		"repo/web/package.json": "",
		"repo/inner/.git": "gitdir: elsewhere",
		"repo/inner/a/main.go": "",
		"module/go.mod": "",
		"module/cmd/x/main.go": "",
		"node/package.json": "",
		"node/src/index.js": "",
		"nested/go.mod": "",
		"nested/sub/go.mod": "",
		"nested/sub/cmd/main.go": "",
		"My App_2/go.mod": "",
		"plain/readme": "",
	});
	const table: [cwd: string, typed: string, root: string, entrypoint: string, name: string][] = [
		["repo", ".", "repo", ".", "repo"],
		["repo", "./cmd/api", "repo", "cmd/api", "api"],
		["repo/cmd/api", ".", "repo", "cmd/api", "api"],
		["plain", "../repo/cmd/api", "repo", "cmd/api", "api"],
		["repo/cmd", "..", "repo", ".", "repo"],
		["repo/web", ".", "repo", "web", "web"],
		["repo", "inner/a", "repo/inner", "a", "a"],
		["module", "cmd/x", "module", "cmd/x", "x"],
		["node/src", ".", "node", "src", "src"],
		["nested/sub/cmd", ".", "nested/sub", "cmd", "cmd"],
		[".", "My App_2", "My App_2", ".", "my-app-2"],
		[".", "plain/", "plain", ".", "plain"],
	];
	for (const [cwd, typed, root, entrypoint, name] of table) {
		const found = locate(typed, join(top, cwd), { HOME: "/nowhere" });
		t.match(found, { root: join(top, root), entrypoint, name, typed }, `${typed} in ${cwd}`);
	}
	t.equal(locate("My App_2", top, {}).renamed, true);
	const flagged = locate("repo", top, {}, "cmd/api");
	t.match(
		flagged,
		{ root: join(top, "repo"), entrypoint: "cmd/api", name: "repo" },
		"--entrypoint counts from the typed folder",
	);
	t.throws(() => locate("repo", top, {}, "../plain"), /outside of the source/);
	symlinkSync(join(top, "repo/cmd"), join(top, "link"));
	t.match(locate("link/api", top, {}), { root: join(top, "repo"), entrypoint: "cmd/api" }, "through a symbolic link");
	t.end();
});

t.test("the root folder and the home folder are refused, and never found by searching", (t) => {
	const home = folder(t, {
		".git/HEAD": "x",
		"go.mod": "",
		"project/go.mod": "",
		"project/cmd/main.go": "",
		"loose/readme": "",
	});
	t.throws(() => locate("/", home, { HOME: home }), /the whole file system/);
	t.throws(() => locate(".", home, { HOME: home }), /your home folder/);
	t.match(locate("project/cmd", home, { HOME: home }), { root: join(home, "project") });
	t.match(locate("loose", home, { HOME: home }), { root: join(home, "loose"), entrypoint: "." });
	t.end();
});

t.test("without git, installed packages stay here; elsewhere a node_modules is a folder as any other", async (t) => {
	const files = { "package.json": "{}", "node_modules/a/index.js": "", "deep/node_modules/b.js": "", "main.js": "" };
	const top = folder(t, files);
	const { signal } = new AbortController();
	const listed = await listFiles(top, signal);
	t.same(
		listed.files.map(({ path }) => path),
		["deep/node_modules/b.js", "main.js", "package.json"],
	);
	t.same(listed.skipped, [{ path: "node_modules", why: "the server installs packages itself" }]);
	git(top, "init", "-q");
	t.equal((await listFiles(top, signal)).files.length, 4, "what git takes is taken");
});

t.test("what is no folder is named as what it is", (t) => {
	const top = folder(t, { "main.go": "", "github.com/a/b/go.mod": "" });
	t.throws(() => locate("main.go", top, {}), /is a file; name its folder/);
	t.throws(() => locate("nosuch", top, {}), /There is no folder nosuch/);
	t.match(locate("github.com/a/b", top, {}), { name: "b" }, "a folder that exists is a folder");
	for (const typed of ["git@github.com:a/b.git", "ssh://git@host/x", "gitlab.com/group/project"])
		t.ok(looksRemote(typed), typed);
	for (const typed of [".", "./cmd/api", "cmd/api", "../x", "v1.2/x"]) t.notOk(looksRemote(typed), typed);
	t.end();
});

t.test("a repository's name and version are made of its address", (t) => {
	for (const [typed, name, version] of [
		["github.com/golang/example", "example", "latest"],
		["github.com/golang/example/hello@master", "hello", "master"],
		["github.com/a/b/cmd/My_App@feature/x", "my-app", "feature/x"],
		["https://git.example.com/a/b.git@v1.2.3+meta", "b", "v1.2.3-meta"],
		["https://git.example.com:8443/a/b/", "b", "latest"],
		["gitlab.com/group/sub/project@..", "project", "latest"],
	] as const)
		t.match(remoteSource(typed), { typed, name, version }, typed);
	t.throws(() => remoteSource("git@github.com:a/b.git"), /over https, not ssh/);
	t.throws(() => remoteSource("ssh://git@host/a/b"), /over https, not ssh/);
	t.throws(() => remoteSource("https://user:secret@host/a/b"), /No credentials/);
	t.end();
});

t.test("names", (t) => {
	t.equal(validName("Hello_World"), "hello-world");
	t.equal(validName("--x--"), "x");
	t.equal(validName("___"), undefined);
	fc.assert(
		fc.property(fc.string(), (base) => {
			const name = validName(base);
			return name === undefined || /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name);
		}),
	);
	t.end();
});

t.test("what builds, and what is found near what does not", (t) => {
	const top = folder(t, {
		".git/HEAD": "x",
		"go.mod": "module x\n",
		"cmd/api/main.go": "package main\n",
		"cmd/worker/main.go": "// Worker.\npackage main\n",
		"lib/lib.go": "package lib\n",
		"docs/readme.md": "",
		"web/package.json": "{}",
		"web/index.js": "",
	});
	const at = (path: string) => locate(path, top, {});
	t.equal(builderOf(at("cmd/api"), KNOWN_BUILDERS), "go");
	t.equal(builderOf(at("web"), KNOWN_BUILDERS), "node");
	t.equal(builderOf(at("docs"), KNOWN_BUILDERS), undefined);
	t.equal(builderOf(at("."), KNOWN_BUILDERS), undefined, "a module's root without Go files");
	const error = nothingToBuild(at("docs"), KNOWN_BUILDERS, top);
	t.equal(error.message, "Nothing to build in ./docs (no go.mod, package.json)");
	t.same(error.lines, ["Found nearby:  ./web  ./cmd/api  ./cmd/worker", "Try:  runtime run ./web"]);
	t.same(nothingToBuild(at("docs"), [{ name: "go", markers: ["go.mod"] }], top).lines, [
		"Found nearby:  ./cmd/api  ./cmd/worker",
		"Try:  runtime run ./cmd/api",
	]);
	t.match(nothingToBuild(at("."), KNOWN_BUILDERS, top).message, "go.mod, but no program beside it");
	t.end();
});

const IGNORING = {
	".gitignore": "*.log\n/build/\n!keep.log\n",
	".runtimeignore": "*.secret\ndocs/\n",
	"a.log": "",
	"keep.log": "",
	"build/x": "",
	"sub/.gitignore": "!b.log\nlocal\n",
	"sub/b.log": "",
	"sub/local": "",
	"sub/.runtimeignore": "!allowed.secret\n",
	"sub/allowed.secret": "",
	"x.secret": "",
	"docs/readme": "",
	"docs/.runtimeignore": "!readme\n",
	"node_modules/m/index.js": "",
	"main.go": "",
	"ümlaut ☃.txt": "",
};
const LEFT = [
	".gitignore",
	".runtimeignore",
	"keep.log",
	"main.go",
	"node_modules/m/index.js",
	"sub/.gitignore",
	"sub/.runtimeignore",
	"sub/allowed.secret",
	"sub/b.log",
	"ümlaut ☃.txt",
];

t.test("which files, without git and with it", async (t) => {
	const plain = folder(t, IGNORING);
	t.same(await paths(plain), LEFT);
	const repository = folder(t, IGNORING);
	git(repository, "init", "-q");
	t.equal((await listFiles(repository, signal)).by, "git");
	t.same(await paths(repository), LEFT);
	git(repository, "add", "-f", "a.log", "main.go");
	git(repository, "commit", "-qm", "x");
	t.ok((await paths(repository)).includes("a.log"), "what git has is not ignored");
	rmSync(join(repository, "main.go"));
	t.notOk((await paths(repository)).includes("main.go"), "listed but deleted");
	write(repository, { "inner/.git/HEAD": "broken", "inner/file": "" });
	t.ok((await paths(repository)).includes("inner/file"), "a folder that git does not look into");
	mkdirSync(join(repository, "other"));
	git(join(repository, "other"), "init", "-q");
	write(repository, { "other/code.go": "", "other/.gitignore": "junk", "other/junk": "" });
	const inner = await paths(repository);
	t.ok(inner.includes("other/code.go") && inner.includes("other/.gitignore"), "a repository inside");
	t.notOk(inner.some((path) => path === "other/junk" || path.includes(".git/")));
});

t.test("symbolic links are left out and named", async (t) => {
	const top = folder(t, { "go.mod": "", "real/file": "" });
	symlinkSync("go.mod", join(top, "link"));
	symlinkSync("real", join(top, "folder-link"));
	for (const make of [() => undefined, () => git(top, "init", "-q")]) {
		make();
		const { files, skipped } = await listFiles(top, signal);
		t.same(
			files.map(({ path }) => path),
			["go.mod", "real/file"],
		);
		t.same(skipped.map(({ path }) => path).sort(), ["folder-link", "link"]);
	}
});

t.test("the same files give the same bytes, whatever their times and order", async (t) => {
	const long = `${"long-folder-name/".repeat(8)}file`;
	const contents = {
		"b.txt": "b",
		"a/z.txt": "z",
		"a-b": "x",
		[long]: "long",
		ümlaut: "u",
		"big.bin": "0123456789".repeat(100_000),
		empty: "",
	};
	const one = folder(t, contents);
	const two = folder(t, Object.fromEntries(Object.entries(contents).reverse()));
	for (const path of Object.keys(contents)) utimesSync(join(two, path), 1000, 1000);
	const first = await archive((await listFiles(one, signal)).files);
	t.ok(first.equals(await archive((await listFiles(one, signal)).files)), "twice");
	t.ok(first.equals(await archive((await listFiles(two, signal)).files)), "another folder, other times");
	const entries = await unpack(first);
	t.same(
		[...entries.keys()],
		Object.keys(contents).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
	);
	for (const [path, text] of Object.entries(contents)) {
		const entry = entries.get(path);
		t.equal(entry?.text.toString(), text, path);
		t.equal(entry?.mtime?.getTime(), 0);
		t.equal(entry?.mode, 0o644);
	}
});

t.test("any tree comes back as it was", async () => {
	const name = fc
		.stringMatching(/^[a-zA-Zé☃ ._-]{1,60}$/)
		.filter((text) => !/^\.+$/.test(text) && !text.startsWith(".") && text.trim() === text);
	const tree = fc.uniqueArray(
		fc.tuple(fc.array(name, { minLength: 1, maxLength: 4 }), fc.uint8Array({ maxLength: 3000 })),
		{
			selector: ([parts]) => parts[0]?.toLowerCase(),
			maxLength: 8,
			minLength: 1,
		},
	);
	await fc.assert(
		fc.asyncProperty(tree, async (entries) => {
			const top = folder({ teardown: () => undefined }, {});
			try {
				for (const [parts, bytes] of entries) {
					const path = join(top, ...parts.map((part) => `f${part}`));
					mkdirSync(dirname(path), { recursive: true });
					writeFileSync(path, bytes);
				}
				const back = await unpack(await archive((await listFiles(top, signal)).files));
				const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
				for (const [parts, bytes] of entries) {
					const found = back.get(parts.map((part) => `f${part}`).join("/"));
					if (found === undefined || digest(found.text) !== digest(bytes)) return false;
				}
				return back.size === entries.length;
			} finally {
				rmSync(top, { recursive: true, force: true });
			}
		}),
		{ numRuns: 40 },
	);
});

t.test("a file that changes while it is read is an error", async (t) => {
	const top = folder(t, { ...GO_FILES, "big.bin": "x".repeat(3_000_000) });
	for (const change of [
		() => truncateSync(join(top, "big.bin"), 100),
		() => writeFileSync(join(top, "big.bin"), "y".repeat(4_000_000)),
	]) {
		writeFileSync(join(top, "big.bin"), "x".repeat(3_000_000));
		const { files } = await listFiles(top, signal);
		let touched = false;
		const options = {
			signal,
			onRead: () => {
				if (!touched) change();
				touched = true;
			},
		};
		await t.rejects(
			writeArchive(files, async () => undefined, options),
			{ code: "source_changed", message: /big\.bin changed while it was being uploaded/ },
		);
		t.ok(touched);
	}
	const gone = (await listFiles(top, signal)).files;
	rmSync(join(top, "big.bin"));
	const error: unknown = await writeArchive(gone, async () => undefined, { signal }).catch((reason: unknown) => reason);
	t.ok(isCliError(error, "source_changed"));
});
