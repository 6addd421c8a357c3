/**
 * What the prior art's integration tests test, and its defects, each true (or not true) of us. Here are those that nothing
 * else tests; the others are tested elsewhere:
 *
 * | of its integration tests | where |
 * | --- | --- |
 * | run local source → running; `run .`; `run ../../../x` | test/e2e/examples.ts |
 * | run and kill → gone from status | test/e2e/examples.ts ("kill leaves nothing to be seen") |
 * | a GitHub source, a branch with a slash, GitLab, monorepos, generic remotes, credentials for each host | test/e2e/remotes.test.ts, test/sources/remotes/ |
 * | edit, update, the reply changes; update by the running service's short name | here |
 * | existing logs; `-n 1 -f` streams fresh lines | here |
 * | a service importing a parent directory's package | here; test/builders/go.test.ts |
 * | an idiomatic folder layout | here |
 * | `git init` then `run .` | here |
 * | builder: no archive, invalid archive, tar, zip | here; test/sources/unpack.test.ts; test/routes/uploads.test.ts |
 * | blob store: missing key, not found, write and read, wrong namespace, delete, read after delete | test/conformance/blob.ts, test/blob/blobs.test.ts |
 *
 * | of its defects | where |
 * | --- | --- |
 * | uploads overwrite each other | here |
 * | source and binary buffered whole | test/load/upload-memory.test.ts |
 * | vendored dependencies compiled anew at every build | test/builders/go.test.ts (`-trimpath`); here: a second build is the same bytes |
 * | `running` means "forked" | test/e2e/examples.ts ("a server that does not read $PORT is told so"), test/conformance/runtime.ts |
 * | a local compile error shows `error=n/a` | test/e2e/examples.ts ("a compile error is shown everywhere …") |
 * | a service left Building by a crash stays so | test/crash/crash.test.ts (Building), test/manager/recovery.test.ts |
 * | delete does not cancel the build | test/manager/verbs.test.ts ("delete while building …") |
 * | a failed update is hidden while the old one runs | test/e2e/examples.ts, test/e2e/dev-profile.test.ts |
 * | prefix matching: reading `v1` returns `v10` | here; test/conformance/service-store.ts |
 * | unpacking never checks paths | test/sources/unpack.test.ts |
 * | the loader's mode, hash and signals | test/conformance/runtime.ts, test/runtimes/process.test.ts |
 * | env values with `=` are dropped | here |
 * | keys `a-b:c` and `a:b-c` collide | here |
 * | temporary source directories are never removed | here; test/crash/crash.test.ts (each round) |
 * | running an existing service does nothing and exits 0; `status nosuch` prints nothing and exits 0 | here |
 * | an administrator deploying into another namespace cannot find its source | here |
 */
import { execFileSync, spawn } from "node:child_process";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";
import { cli } from "../harness/cli.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { workIn } from "../harness/work-folder.ts";

const LAUNCHER = path.resolve(import.meta.dirname, "../../clients/cli/bin.mjs");
const place = await mkdtemp(path.join(tmpdir(), "runtime-prior-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const repository = path.join(place, "repository");
await cp(path.resolve(import.meta.dirname, "../fixtures/monorepo"), repository, { recursive: true });
const dataDir = await dataFolder(t);
const server = await TestServer.start({ dataDir, args: ["--stop-services"] });
t.teardown(() => server.stop());
const { api } = server;
const run = (args: readonly string[], cwd = repository) => cli(args, { cwd, env: server.env });
const reply = async (url: string) => (await fetch(url)).text();

await t.test("edit, update, the reply changes; by the running service's short name as well", async (t) => {
	const folder = path.join(repository, "probe");
	const first = await run(["run", "./probe", "--name", "edited"]);
	t.equal(first.code, 0, first.stderr);
	const url = first.stdout.trim();
	t.match(await reply(url), /^probe /);
	const main = path.join(folder, "main.go");
	await writeFile(main, (await readFile(main, "utf8")).replace('builtText = "probe"', 'builtText = "edited"'));
	const updated = await run(["update", "./probe", "--name", "edited"]);
	t.equal(updated.code, 0, updated.stderr);
	t.match(await reply(url), /^edited /);
	const short = await run(["update", "edited", "--env", "GREETING=a=b=c"]);
	t.equal(short.code, 0, short.stderr);
	t.match(await reply(url), /^a=b=c /, "env values with = are kept whole");
});

await t.test("logs: what there is, and -n 1 -f streams fresh lines", async (t) => {
	const { stdout } = await run(["logs", "edited"]);
	t.match(stdout, /\S/);
	const { RUNTIME_URL: _url, RUNTIME_TOKEN: _token, ...inherited } = process.env;
	const child = spawn(process.execPath, [LAUNCHER, "logs", "edited", "-n", "1", "-f"], {
		env: { ...inherited, ...server.env },
		stdio: ["ignore", "pipe", "ignore"],
	});
	t.teardown(() => child.kill("SIGKILL"));
	let seen = "";
	child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
		seen += chunk;
	});
	await until(() => seen !== "", "the last line");
	t.equal(seen.trimEnd().split("\n").length, 1, "one line of what there is");
	t.equal((await api.call("POST", "/services/edited/latest/restart")).status, 202);
	await until(() => seen.trimEnd().split("\n").length > 1, "fresh lines");
	t.pass("fresh lines came");
});

await t.test("a package of a parent directory, in an idiomatic layout (cmd/server)", async (t) => {
	const result = await run(["run", "./cmd/server"]);
	t.equal(result.code, 0, result.stderr);
	t.match(await reply(result.stdout.trim()), /monorepo/);
});

await t.test("git init, then run .", async (t) => {
	const folder = path.join(place, "fresh");
	await cp(path.join(repository, "probe"), folder, { recursive: true });
	execFileSync("git", ["init", "--quiet"], { cwd: folder });
	const result = await run(["run", "."], folder);
	t.equal(result.code, 0, result.stderr);
	t.match(await reply(result.stdout.trim()), /^(probe|edited) /);
	t.match(await api.get("fresh"), { status: "Running", metadata: { source: "." } });
});

await t.test("builder: no archive, an invalid one, a zip", async (t) => {
	t.match((await api.call("POST", "/services", { name: "none", source: "source://nobody" })).body, {
		status: 404,
		field: "source",
	});
	const invalid = await api.send(new Uint8Array(gzipSync(Buffer.from("no tar at all"))));
	t.equal(invalid.status, 201);
	const { source } = invalid.body as { source: string };
	await api.create({ name: "invalid", source });
	t.match(await api.settled("invalid"), { status: "Error", error: { code: "source_invalid", phase: "source" } });
	const zip = await api.send(new Uint8Array(Buffer.from("PK\u0003\u0004 a zip archive")));
	t.match(zip, { status: 400, body: { field: "archive", hint: /tar -czf/ } }, "refused at once, in words that help");
});

const program = (text: string) => ({
	"go.mod": "module example.com/app\n\ngo 1.21\n",
	"main.go": `package main

import ("fmt"; "net/http"; "os")

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, ${JSON.stringify(text)}) })
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`,
});

await t.test("uploads do not overwrite each other, and names do not run into each other", async (t) => {
	const sources = await Promise.all(["one", "two"].map((text) => api.uploadFiles(program(text))));
	t.not(sources[0], sources[1]);
	const pairs = [
		["a-b", "c", 0],
		["a", "b-c", 1],
		["app", "v1", 0],
		["app", "v10", 1],
	] as const;
	for (const [name, version, index] of pairs)
		t.equal((await api.call("POST", "/services", { name, version, source: sources[index] })).status, 202);
	for (const [name, version, index] of pairs) {
		await until(async () => {
			const { body } = await api.call("GET", `/services/${name}/${version}`);
			return (body as { status: string }).status === "Running";
		}, `${name}:${version} runs`);
		const { body } = await api.call("GET", `/services/${name}/${version}`);
		t.equal(await reply((body as { url: string }).url), ["one", "two"][index]);
	}
	const { body } = await api.call("GET", "/services?name=app&version=v1");
	t.match(body, { services: [{ version: "v1" }] });
	t.equal((body as { services: unknown[] }).services.length, 1, "v1 is not v10");
	const digests = await Promise.all(
		["a-b/c", "app/v1"].map(
			async (at) => ((await api.call("GET", `/services/${at}`)).body as { build: { digest: string } }).build.digest,
		),
	);
	t.equal(digests[0], digests[1], "the same source is the same build, byte for byte");
	t.same(await workIn(dataDir), [], "no source is left unpacked");
});

await t.test("run of what exists, and status of what does not, are no successes", async (t) => {
	const again = await run(["run", "./probe", "--name", "edited"]);
	t.equal(again.code, 1);
	t.match(again.stderr, /exists/);
	const status = await run(["status", "nosuch"]);
	t.equal(status.code, 1);
	t.match(status.stderr, /nosuch/);
});

await t.test("an administrator deploys into another namespace and its source is found", async (t) => {
	const other = await TestServer.start({ dataDir: await dataFolder(t), args: ["--stop-services"] });
	t.teardown(() => other.stop());
	const result = await cli(["run", "./probe", "--name", "there", "--namespace", "team"], {
		cwd: repository,
		env: other.env,
	});
	t.equal(result.code, 0, result.stderr);
	const inside = { "runtime-namespace": "team" };
	t.match((await other.api.call("GET", "/services/there/latest", undefined, inside)).body, {
		status: "Running",
		namespace: "team",
	});
	t.equal(await other.api.find("there"), undefined, "and is in no other");
});
