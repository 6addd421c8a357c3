import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { access, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve as resolvePath } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import type { SourceTree } from "../../../src/builders/builder.ts";
import { AppError, isAppError, messageOf } from "../../../src/errors.ts";
import { parseRemote, type RemoteAddress } from "../../../src/sources/remotes/address.ts";
import { GitSources } from "../../../src/sources/remotes/remote-sources.ts";
import { type HostConfig, Remotes, type RemotesOptions } from "../../../src/sources/remotes/remotes.ts";
import { unpack } from "../../../src/sources/unpack.ts";
import { makeCertificates } from "../../hosts/certificates.ts";
import { type ForgeKind, startForge, type Trouble } from "../../hosts/forge.ts";
import { startGitHost } from "../../hosts/git.ts";
import { git, makeRepository, makeSmallRepository } from "../../hosts/repository.ts";

const place = await mkdtemp(join(tmpdir(), "runtime-remotes-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const certificates = await makeCertificates(place, ["localhost"]);
const root = join(place, "repositories");
const monorepo = await makeRepository(root, "acme/monorepo");
const { commits } = monorepo;
const workFolder = join(place, "work");
const call = () => ({ signal: AbortSignal.timeout(120_000) });
const host = await startGitHost({ root, certificates });
t.teardown(() => host.close());
const open = { allowPrivate: true, ca: certificates.ca } as const;
const plain: HostConfig = { host: host.host, kind: "git", ...open };
// Generous: the machine may be busy. The limit itself is tested apart.
const makeRemotes = (hosts: readonly HostConfig[], more: Partial<RemotesOptions> = {}) =>
	new Remotes({ hosts, workFolder, timeoutMs: 60_000, ...more });

function parse(text: string, hosts: readonly HostConfig[]): RemoteAddress {
	const address = parseRemote(text, { knownHosts: hosts });
	if (address === null) throw new Error(`${text} is no remote`);
	return address;
}

async function failure(work: Promise<unknown>): Promise<AppError> {
	try {
		return new AppError("internal", `resolved to ${JSON.stringify(await work)}`);
	} catch (error) {
		return isAppError(error) ? error : new AppError("internal", messageOf(error), { cause: error });
	}
}

async function filesOf(tree: SourceTree): Promise<string[]> {
	const folder = await tree.directory(call());
	const entries = await readdir(folder, { recursive: true, withFileTypes: true });
	return entries
		.filter((entry) => !entry.isDirectory())
		.map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
		.sort();
}

async function sha256(archive: AsyncIterable<Uint8Array>): Promise<string> {
	const hash = createHash("sha256");
	for await (const chunk of archive) hash.update(chunk);
	return hash.digest("hex");
}

t.test("a plain git host: branches with slashes, tags, commits, folders", async (t) => {
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const url = `https://${host.host}/acme/monorepo.git`;
	const cases: readonly (readonly [string, object])[] = [
		["acme/monorepo", { folder: ".", ref: "main", commit: commits.main }],
		["acme/monorepo.git/helloserver", { folder: "helloserver", ref: "main", commit: commits.main }],
		["acme/monorepo/cmd/server", { folder: "cmd/server", ref: "main", commit: commits.main }],
		["acme/monorepo@feature/one/two", { folder: ".", ref: "feature/one/two", commit: commits.feature }],
		[
			"acme/monorepo/only/here@feature/one/two",
			{ folder: "only/here", ref: "feature/one/two", commit: commits.feature },
		],
		["acme/monorepo@v1.0", { folder: ".", ref: "v1.0", commit: commits.tagged }],
		["acme/monorepo/helloserver@light/tag", { folder: "helloserver", ref: "light/tag", commit: commits.tagged }],
		["acme/monorepo@refs/tags/v1.0", { folder: ".", ref: "v1.0", commit: commits.tagged }],
		[`acme/monorepo@${commits.main}`, { folder: ".", ref: commits.main, commit: commits.main }],
		[
			`acme/monorepo/helloserver@${commits.between}`,
			{ folder: "helloserver", ref: commits.between, commit: commits.between },
		],
		[`acme/monorepo@${commits.main.slice(0, 10)}`, { folder: ".", ref: commits.main, commit: commits.main }],
		[
			"acme/monorepo/-/tree/feature/one/two/only/here",
			{ folder: "only/here", ref: "feature/one/two", commit: commits.feature },
		],
		["acme/monorepo/-/tree/feature/one/two", { folder: ".", ref: "feature/one/two", commit: commits.feature }],
	];
	for (const [text, expected] of cases)
		t.strictSame(
			await remotes.resolve(parse(`https://${host.host}/${text}`, [plain]), call()),
			{ url, ...expected },
			text,
		);
	t.strictSame(await readdir(workFolder), [], "nothing is left behind");
});

t.test("what is unknown is said, with the field, and nothing is left behind", async (t) => {
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const cases: readonly (readonly [string, string, RegExp])[] = [
		["acme/nosuch", "not_found", /no repository acme\/nosuch/],
		["acme/monorepo/nosuch", "not_found", /no folder nosuch/],
		["acme/monorepo/helloserver/main.go", "not_found", /no folder helloserver\/main.go/],
		["acme/monorepo/only/here", "not_found", /no folder only\/here at main/],
		["acme/monorepo@nosuch", "not_found", /no branch, tag or commit nosuch/],
		["acme/monorepo@feature/one", "not_found", /no branch, tag or commit feature\/one/],
		[`acme/monorepo@${"0".repeat(39)}1`, "not_found", /no branch, tag or commit 0000/],
		["acme/monorepo@0000001", "invalid_argument", /too short/],
		["acme/monorepo/-/tree/nosuch/x", "not_found", /nosuch\/x/],
	];
	for (const [text, code, message] of cases) {
		const error = await failure(remotes.resolve(parse(`${host.host}/${text}`, [plain]), call()));
		t.equal(error.code, code, text);
		t.equal(error.field, "source", text);
		t.match(error.message, message, text);
		t.ok(error.hint, text);
	}
	t.strictSame(await readdir(workFolder), []);
});

t.test("nested groups and repositories without .git in their address", async (t) => {
	await makeSmallRepository(root, "group/sub/project", { "cmd/app/main.go": "package main\n" });
	await git(root, "clone", "--quiet", "--bare", join(root, "group/sub/project.git"), join(root, "bare", "other"));
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const nested = await remotes.resolve(parse(`${host.host}/group/sub/project/cmd/app`, [plain]), call());
	t.match(nested, { url: `https://${host.host}/group/sub/project.git`, folder: "cmd/app" });
	const other = await remotes.resolve(parse(`${host.host}/bare/other/cmd`, [plain]), call());
	t.match(other, { url: `https://${host.host}/bare/other`, folder: "cmd" });
});

t.test("a checkout holds the commit's files, its archive the same ones, and disposal leaves nothing", async (t) => {
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const expected = (await git(monorepo.work, "ls-tree", "-r", "--name-only", "main")).split("\n").sort();
	const hashes: string[] = [];
	for (const turn of [1, 2]) {
		const address = parse(`${host.host}/acme/monorepo/helloserver`, [plain]);
		const pinned = await remotes.resolve(address, call());
		// The second from the address alone, as after a trouble of the host.
		const tree = remotes.open(turn === 1 ? pinned : address);
		t.strictSame(await tree.pinned(call()), pinned);
		t.strictSame(await filesOf(tree), expected);
		const folder = await tree.directory(call());
		t.equal(await tree.directory(call()), folder, "made once");
		t.equal(await readFile(join(folder, "CHANGES"), "utf8"), "third\n");
		t.equal((await stat(join(folder, "CHANGES"))).mode & 0o777, 0o644);
		t.notOk(existsSync(join(folder, ".git")));
		hashes.push(await sha256(await tree.archive(call())));
		const copy = join(place, `copy-${turn}`);
		t.match(await unpack(await tree.archive(call()), copy, {}, call()), { files: expected.length });
		t.equal(
			await readFile(join(copy, "helloserver/main.go"), "utf8"),
			await readFile(join(folder, "helloserver/main.go"), "utf8"),
		);
		await tree[Symbol.asyncDispose]();
		t.equal((await failure(tree.directory(call()))).code, "internal", "disposed of");
		t.strictSame(await readdir(workFolder), []);
	}
	t.equal(hashes[0], hashes[1], "the same bytes");
});

t.test("every ref can be checked out, also where the server gives out no commits by name", async (t) => {
	for (const oldProtocol of [false, true]) {
		const server = await startGitHost({ root, certificates, oldProtocol });
		t.teardown(() => server.close());
		const hosts = [{ host: server.host, kind: "git", ...open } as const];
		const remotes = makeRemotes(hosts);
		t.teardown(() => remotes[Symbol.asyncDispose]());
		for (const [ref, changes] of [
			["main", "third\n"],
			["feature/one/two", "second\n"],
			["v1.0", null],
			[commits.between, "second\n"],
		] as const) {
			const pinned = await remotes.resolve(parse(`${server.host}/acme/monorepo/helloserver@${ref}`, hosts), call());
			await using tree = remotes.open(pinned);
			const folder = await tree.directory(call());
			const found = await readFile(join(folder, "CHANGES"), "utf8").catch(() => null);
			t.equal(found, changes, `${ref} ${oldProtocol ? "by the old protocol" : ""}`);
		}
		// A branch that has moved on since it was pinned.
		const url = `https://${server.host}/acme/monorepo.git`;
		await using moved = remotes.open({ url, folder: ".", ref: "main", commit: commits.between });
		t.equal(await readFile(join(await moved.directory(call()), "CHANGES"), "utf8"), "second\n");
		await using gone = remotes.open({ url, folder: ".", ref: "main", commit: `${"0".repeat(39)}1` });
		t.equal((await failure(gone.directory(call()))).code, "not_found");
		await using noFolder = remotes.open({ url, folder: "nosuch", ref: "main", commit: commits.main });
		t.match(await failure(noFolder.directory(call())), { code: "not_found", message: /no folder nosuch/ });
		await using noRepository = remotes.open(parse(`${server.host}/acme/nosuch`, hosts));
		t.equal((await failure(noRepository.directory(call()))).code, "not_found");
	}
	t.strictSame(await readdir(workFolder), []);
});

t.test("links, submodules, filters and hostile names", async (t) => {
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const checkout = async (name: string, files: Readonly<Record<string, string>>, limits = {}) => {
		const { commit } = await makeSmallRepository(root, `small/${name}`, files);
		return remotes.open({ url: `https://${host.host}/small/${name}.git`, folder: ".", ref: "main", commit }, limits);
	};
	await using linked = await checkout("links", {
		"lib/a.txt": "a",
		"lib/deep/b.txt": "b",
		"lib/to-a": "-> a.txt",
		copy: "-> lib",
		"x/chain": "-> ../copy/deep/b.txt",
		dangling: "-> nowhere",
		loop: "-> loop",
		".gitattributes": "*.txt filter=evil eol=crlf\n",
		".gitmodules": '[submodule "m"]\n\tpath = m\n\turl = https://127.0.0.1:1/x\n',
	});
	t.strictSame(await filesOf(linked), [
		...[".gitattributes", ".gitmodules", "copy/a.txt", "copy/deep/b.txt", "copy/to-a"],
		...["lib/a.txt", "lib/deep/b.txt", "lib/to-a", "x/chain"],
	]);
	t.equal(await readFile(join(await linked.directory(call()), "x/chain"), "utf8"), "b");
	t.equal(await readFile(join(await linked.directory(call()), "copy/to-a"), "utf8"), "a");

	const refused: readonly (readonly [string, Record<string, string>, RegExp])[] = [
		["absolute", { x: "-> /etc/passwd" }, /"x" .*leads out of the repository/],
		["escape", { "a/x": "-> ../../etc/passwd" }, /leads out of the repository/],
		["through", { "sub/x": "1", "a/b": "-> ../sub", "a/c": "-> b/../../x" }, /leads out of the repository/],
		["circle", { "a/f": "f", "a/self": "-> ." }, /circle/],
		["case", { "a/f": "f", "A/F": "g" }, /repository's entry .* differs from "A" only in case/],
	];
	for (const [name, files, message] of refused) {
		await using tree = await checkout(name, files);
		const error = await failure(tree.directory(call()));
		t.equal(error.code, "invalid_argument", name);
		t.match(error.message, message, name);
		t.equal(error.field, "source", name);
	}
	await using large = await checkout("large", { "a.txt": "x".repeat(5000) }, { bytes: 4999 });
	t.match(await failure(large.directory(call())), { code: "invalid_argument", message: /more than 4999 bytes/ });
	await using many = await checkout("many", { a: "1", b: "2", c: "3" }, { entries: 2 });
	t.match(await failure(many.directory(call())), { code: "invalid_argument", message: /more than 2 files/ });
	const noise = Array.from({ length: 40_000 }, (_, index) => createHash("md5").update(String(index)).digest("hex"));
	await using heavy = await checkout("heavy", { "a.txt": noise.join("") }, { fetchBytes: 50_000 });
	t.match(await failure(heavy.directory(call())), { code: "invalid_argument", message: /larger than 50000 bytes/ });
	await using late = await checkout("late", { a: "1" }, { timeMs: 1 });
	t.match(await failure(late.directory(call())), { code: "unavailable", message: /within/ });

	const withModule = await makeSmallRepository(root, "small/module", { "main.go": "package main\n" });
	const work = `${root}-work/small/module`;
	await git(work, "update-index", "--add", "--cacheinfo", `160000,${commits.main},third/party`);
	await git(work, "commit", "--quiet", "-m", "a submodule");
	await git(work, "push", "--quiet", withModule.bare, "HEAD");
	await using module = remotes.open(parse(`${host.host}/small/module`, [plain]));
	t.strictSame(await filesOf(module), ["main.go"]);
	t.strictSame(await readdir(join(await module.directory(call()), "third/party")), []);
});

t.test("a cancelled call rejects with cancelled, and the folder goes", async (t) => {
	let cancel: AbortController | undefined;
	const server = await startGitHost({
		root,
		certificates,
		before: (request) => {
			if (cancel === undefined || !(request.url ?? "").endsWith("/git-upload-pack")) return false;
			cancel.abort();
			return true;
		},
	});
	t.teardown(() => server.close());
	const hosts = [{ host: server.host, kind: "git", ...open } as const];
	const remotes = makeRemotes(hosts);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const address = parse(`${server.host}/acme/monorepo`, hosts);
	const pinned = await remotes.resolve(address, call());
	cancel = new AbortController();
	t.equal((await failure(remotes.resolve(address, { signal: cancel.signal }))).code, "cancelled");
	cancel = new AbortController();
	await using tree = remotes.open(pinned);
	t.equal((await failure(tree.directory({ signal: cancel.signal }))).code, "cancelled");
	t.strictSame(await readdir(workFolder), []);
	cancel = undefined;
	t.ok(await tree.directory(call()), "another call makes it");
	const late = AbortSignal.abort();
	t.equal((await failure(remotes.resolve(address, { signal: late }))).code, "cancelled");
});

t.test("so many look-ups at a time; the others wait, and not longer than their time", async (t) => {
	const hanging = new Set<string>();
	let hangs = true;
	const server = await startGitHost({
		root,
		certificates,
		before: (request) => {
			if (hangs) hanging.add((request.url ?? "").split("/")[2]?.replace(/\.git$/, "") ?? "");
			return hangs;
		},
	});
	t.teardown(() => server.close());
	const hosts = [{ host: server.host, kind: "git", ...open } as const];
	const remotes = makeRemotes(hosts, { timeoutMs: 1_500, parallel: 2 });
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const names = ["one", "two", "three", "four", "five"];
	const leaving = new AbortController();
	const waiting = names.map((name) => failure(remotes.resolve(parse(`${server.host}/acme/${name}`, hosts), call())));
	const left = failure(remotes.resolve(parse(`${server.host}/acme/left`, hosts), leaving));
	leaving.abort();
	t.equal((await left).code, "cancelled", "who waits can go");
	const errors = await Promise.all(waiting);
	for (const error of errors) t.match(error, { code: "unavailable", field: "source" });
	t.same([...hanging].sort(), ["one", "two"]);
	hangs = false;
	const patient = makeRemotes(hosts, { parallel: 2 });
	t.teardown(() => patient[Symbol.asyncDispose]());
	const address = parse(`${server.host}/acme/monorepo@v1.0`, hosts);
	const found = await Promise.all(names.map(() => patient.resolve(address, call())));
	t.same([...new Set(found.map(({ commit }) => commit))], [commits.tagged], "each has its turn");
	t.strictSame(await readdir(workFolder), []);
});

t.test("whether a source is pinned is told, not read from its text", async (t) => {
	const remotes = makeRemotes([plain]);
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const sources = new GitSources(remotes, [plain]);
	const typed = `https://${host.host}/acme/monorepo/helloserver@${commits.between}`;
	const expected = { source: `https://${host.host}/acme/monorepo.git@${commits.between}`, folder: "helloserver" };
	t.match(await sources.pin(typed, call()), expected);
	await using deferred = sources.open(typed, null);
	t.match(await deferred.pinned?.(call()), expected);
	t.ok((await filesOf(deferred)).includes("helloserver/main.go"), "all of the repository, as of a pinned one");
	await using pinned = sources.open(expected.source, commits.between);
	t.equal(pinned.pinned, undefined);
	t.strictSame(await filesOf(pinned), await filesOf(deferred));
	t.throws(() => sources.open(expected.source, commits.main), { code: "internal" });
});

t.test("a private repository: its token goes to its host, and is seen nowhere", async (t) => {
	const token = "s3cret/tok+en=1";
	const server = await startGitHost({ root, certificates, token, username: "robot" });
	t.teardown(() => server.close());
	const known = (more: object): HostConfig[] => [{ host: server.host, kind: "git", ...open, ...more }];
	const address = parse(`${server.host}/acme/monorepo/helloserver`, known({}));

	const without = makeRemotes(known({}));
	t.teardown(() => without[Symbol.asyncDispose]());
	t.match(await failure(without.resolve(address, call())), { code: "permission_denied", message: /asks for a token/ });

	const wrong = makeRemotes(known({ token: "wr0ng-token", username: "robot" }));
	t.teardown(() => wrong[Symbol.asyncDispose]());
	const refusal = await failure(wrong.resolve(address, call()));
	t.match(refusal, { code: "permission_denied", message: /refuses this server's token/ });
	t.notMatch(JSON.stringify([refusal.message, refusal.hint, messageOf(refusal.cause)]), /wr0ng/);

	// Git's arguments and everything it writes are looked through while it runs.
	const log = join(place, "arguments.log");
	const recorder = join(place, "recording-git");
	const script = `#!/bin/sh\nprintf '%s\\n' "$*" >>${log}\ngrep -rl 's3cret' "$HOME" >>${log}.found 2>/dev/null\nexec git "$@"\n`;
	await writeFile(recorder, script, { mode: 0o755 });
	const right = makeRemotes(known({ token, username: "robot" }), { git: recorder });
	t.teardown(() => right[Symbol.asyncDispose]());
	const pinned = await right.resolve(address, call());
	t.match(pinned, { url: `https://${server.host}/acme/monorepo.git`, commit: commits.main });
	await using tree = right.open(pinned);
	const folder = await tree.directory(call());
	const told = await readFile(log, "utf8");
	t.match(told, / ls-remote /);
	t.match(told, / fetch /);
	t.notMatch(told, /s3cret/);
	t.equal(await readFile(`${log}.found`, "utf8"), "", "in no file");
	t.equal(folder.includes("s3cret"), false);
	t.notMatch(JSON.stringify(pinned), /s3cret/);

	const seen = host.requests.length;
	const other = makeRemotes([...known({ token, username: "robot" }), plain]);
	t.teardown(() => other[Symbol.asyncDispose]());
	await other.resolve(parse(`${host.host}/acme/monorepo`, [plain]), call());
	t.ok(host.requests.length > seen);
	t.ok(
		host.requests.every(({ authorization }) => authorization === undefined),
		"another host gets none",
	);
});

const FORGES: readonly { readonly kind: ForgeKind; readonly group: string }[] = [
	{ kind: "github", group: "acme" },
	{ kind: "gitlab", group: "acme/team/deep" },
	{ kind: "bitbucket", group: "acme" },
];

for (const { kind, group } of FORGES)
	t.test(`${kind}, played from its documents, and git beside it`, async (t) => {
		const path = `${group}/${kind}`;
		const { bare, commits } = await makeRepository(root, path);
		const token = "t0ken-of-the-operator";
		const server = await startGitHost({ root, certificates, token });
		t.teardown(() => server.close());
		const renamed = new Map([["former/name", path]]);
		const forge = await startForge({ kind, certificates, token, repositories: new Map([[path, bare]]), renamed });
		t.teardown(() => forge.close());
		const hosts: readonly HostConfig[] = [{ host: server.host, kind, api: forge.api, token, ...open }];
		const remotes = makeRemotes(hosts);
		t.teardown(() => remotes[Symbol.asyncDispose]());
		const resolve = (text: string, more = remotes) => more.resolve(parse(text, hosts), call());
		const url = `https://${server.host}/${path}.git`;
		const at = `${server.host}/${path}`;

		t.strictSame(await resolve(at), { url, folder: ".", ref: "main", commit: commits.main });
		t.match(await resolve(`${at}/helloserver@v1.0`), { folder: "helloserver", ref: "v1.0", commit: commits.tagged });
		t.match(await resolve(`${at}/only/here@feature/one/two`), { url, folder: "only/here", commit: commits.feature });
		t.match(await resolve(`${at}@${commits.between}`), { ref: commits.between, commit: commits.between });
		t.match(await resolve(`${at}/cmd/server@${commits.between.slice(0, 8)}`), {
			commit: commits.between,
			folder: "cmd/server",
		});
		const page = { github: "tree", gitlab: "-/tree", bitbucket: "src" }[kind];
		t.match(await resolve(`https://${at}/${page}/feature/one/two/only/here`), {
			folder: "only/here",
			ref: "feature/one/two",
			commit: commits.feature,
		});
		if (kind === "github")
			t.match(await resolve(`${server.host}/former/name/helloserver`), { url }, "after a renaming");
		t.ok(forge.requests.length > 0 && server.requests.length > 0, "both were asked");

		const unknown: readonly (readonly [string, RegExp])[] = [
			[`${server.host}/acme/nosuch`, /no repository acme\/nosuch/],
			[`${at}/nosuch`, /no folder nosuch/],
			[`${at}/helloserver/main.go@v1.0`, /no folder helloserver\/main.go|no repository/],
			[`${at}@nosuch`, /no branch, tag or commit nosuch/],
			[`${at}@0000001`, /no branch, tag or commit 0000001/],
			[`${at}@${"0".repeat(39)}1`, /no branch, tag or commit 0000/],
		];
		for (const [text, message] of unknown) {
			const error = await failure(resolve(text));
			t.match(error, { code: "not_found", field: "source", message }, text);
		}

		const impatient = makeRemotes(hosts, { timeoutMs: 1_000 });
		t.teardown(() => impatient[Symbol.asyncDispose]());
		const troubles: readonly Trouble[] = ["403", "429", "500", "slow", "garbage", "wrong-shape", "cut"];
		for (const trouble of troubles) {
			forge.trouble(trouble);
			const error = await failure(resolve(`${at}/helloserver`, trouble === "slow" ? impatient : remotes));
			t.match(error, { code: "unavailable", field: "source" }, String(trouble));
			t.notMatch(error.message, /t0ken/);
			// What is accepted all the same is settled and checked while it is built, by git alone.
			await using tree = remotes.open(parse(`${at}/helloserver@feature/one/two`, hosts));
			t.match(await tree.pinned(call()), { url, folder: "helloserver", commit: commits.feature });
			if (trouble !== "403" && trouble !== "garbage") continue;
			await access(join(await tree.directory(call()), "helloserver/main.go"));
			await using wrong = remotes.open(parse(`${at}.git/nosuch`, hosts));
			t.equal((await failure(wrong.directory(call()))).code, "not_found", `a wrong folder, ${trouble}`);
		}
		forge.trouble("401");
		t.equal((await failure(resolve(at))).code, "permission_denied");
		const elsewhere = await startForge({ kind, certificates, repositories: new Map([[path, bare]]) });
		t.teardown(() => elsewhere.close());
		forge.trouble({ redirect: `${elsewhere.api}/x` });
		t.equal((await failure(resolve(at))).code, "permission_denied", "a redirect to an address that is not allowed");
		t.equal(elsewhere.requests.length, 0);
		forge.trouble(undefined);
		await forge.close();
		t.equal((await failure(resolve(at))).code, "unavailable", "nobody listens");
		t.strictSame(await readdir(workFolder), []);
	});

t.test("a git host that fails", async (t) => {
	let status = 0;
	let body = "";
	const server = await startGitHost({
		root,
		certificates,
		before: (_request, response) => {
			if (status === 0) return false;
			if (status === 1) return true;
			response.writeHead(status, { "content-type": "text/html" }).end(body);
			return true;
		},
	});
	t.teardown(() => server.close());
	const hosts = [{ host: server.host, kind: "git", ...open } as const];
	const remotes = makeRemotes(hosts, { timeoutMs: 1_500 });
	t.teardown(() => remotes[Symbol.asyncDispose]());
	const address = parse(`${server.host}/acme/monorepo`, hosts);
	for (const [code, expected] of [
		[200, "unavailable"],
		[403, "unavailable"],
		[429, "unavailable"],
		[500, "unavailable"],
		[503, "unavailable"],
		[401, "permission_denied"],
		[404, "not_found"],
		[410, "not_found"],
		[1, "unavailable"],
	] as const) {
		status = code;
		body = "<html>Welcome</html>";
		const started = performance.now();
		t.match(await failure(remotes.resolve(address, call())), { code: expected, field: "source" }, String(code));
		t.ok(performance.now() - started < 10_000, "within its limit");
	}
	status = 0;
	const untrusting = makeRemotes([{ host: server.host, kind: "git", allowPrivate: true }]);
	t.teardown(() => untrusting[Symbol.asyncDispose]());
	t.equal(
		(await failure(untrusting.resolve(address, call()))).code,
		"unavailable",
		"a certificate that nobody vouches for",
	);
	const noGit = makeRemotes(hosts, { git: "/nonexistent/git" });
	t.teardown(() => noGit[Symbol.asyncDispose]());
	t.match(await failure(noGit.resolve(address, call())), { code: "unavailable", hint: /Install git/ });
	const oldGit = join(place, "old-git");
	await writeFile(oldGit, "#!/bin/sh\necho git version 2.36.9\n", { mode: 0o755 });
	const old = makeRemotes(hosts, { git: oldGit });
	t.teardown(() => old[Symbol.asyncDispose]());
	t.match(await failure(old.resolve(address, call())), { code: "unavailable", message: /older than 2.37/ });
	t.strictSame(await readdir(workFolder), []);
});

// A real monorepo of somebody else's. It is not part of the project; a clone of the project alone does without.
const bundle = resolvePath(import.meta.dirname, "../../../../shared/inputs/golang-example.bundle");
if (!existsSync(bundle)) t.test("golang/example", { skip: "outside the project" }, () => undefined);
else
	t.test("golang/example as a remote", async (t) => {
		const bare = join(root, "golang/example.git");
		await promisify(execFile)("git", ["clone", "--quiet", "--bare", bundle, bare]);
		const head = await git(bare, "rev-parse", "HEAD");
		await git(bare, "update-ref", "refs/heads/feature/one/two", head);
		const remotes = makeRemotes([plain]);
		t.teardown(() => remotes[Symbol.asyncDispose]());
		const first = await git(bare, "rev-list", "-n", "1", "--skip=3", "HEAD");
		for (const ref of ["", "@feature/one/two", `@${head}`]) {
			const pinned = await remotes.resolve(parse(`${host.host}/golang/example/helloserver${ref}`, [plain]), call());
			t.match(pinned, { commit: head, folder: "helloserver" });
			await using tree = remotes.open(pinned);
			t.match(await readFile(join(await tree.directory(call()), "helloserver/server.go"), "utf8"), /package main/);
		}
		t.equal((await remotes.resolve(parse(`${host.host}/golang/example@${first}`, [plain]), call())).commit, first);
	});
