import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { cli } from "../harness/cli.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { makeCertificates } from "../hosts/certificates.ts";
import { startForge, type Trouble } from "../hosts/forge.ts";
import { startGitHost } from "../hosts/git.ts";
import { makeRepository } from "../hosts/repository.ts";

const place = await mkdtemp(path.join(tmpdir(), "runtime-e2e-remotes-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const certificates = await makeCertificates(place, ["localhost"]);
const root = path.join(place, "repositories");
const { commits, bare } = await makeRepository(root, "acme/monorepo");
const token = "glpat-only-for-this-test-0123456789";
const host = await startGitHost({ root, certificates });
t.teardown(() => host.close());
const locked = await startGitHost({ root, certificates, token });
t.teardown(() => locked.close());
const forge = await startForge({ kind: "github", certificates, repositories: new Map([["acme/monorepo", bare]]) });
t.teardown(() => forge.close());

const hostsFile = path.join(place, "hosts.json");
const open = { allowPrivate: true, ca: certificates.ca };
await writeFile(
	hostsFile,
	JSON.stringify([
		{ host: host.host, kind: "github", api: forge.api, ...open },
		{ host: locked.host, kind: "git", token, username: "robot", ...open },
	]),
);

async function serve(t: Test): Promise<TestServer> {
	const server = await TestServer.start({
		dataDir: await dataFolder(t),
		env: { RUNTIME_GIT_HOSTS: hostsFile },
		args: ["--stop-services"],
	});
	t.teardown(() => server.stop());
	return server;
}

const listen = ["--", "-addr", "$HOST:$PORT"];
const folder = "acme/monorepo/helloserver";

t.test("a remote runs by folder, on a branch with slashes, at a tag and at a commit", async (t) => {
	const server = await serve(t);
	const cases = [
		{ name: "head", source: `${host.host}/${folder}`, commit: commits.main },
		{ name: "branch", source: `${host.host}/${folder}@feature/one/two`, commit: commits.feature },
		{ name: "tag", source: `${host.host}/${folder}@v1.0`, commit: commits.tagged },
		{ name: "commit", source: `https://${host.host}/${folder}@${commits.between}`, commit: commits.between },
	];
	for (const { name, source, commit } of cases) {
		const result = await cli(["run", source, "--name", name, "--version", "latest", ...listen], {
			cwd: place,
			env: server.env,
		});
		t.equal(result.code, 0, `${source}: ${result.stderr}`);
		t.match(await (await fetch(result.stdout.trim())).text(), /Hello, Gopher!/);
		const service = await server.api.get(name);
		t.match(service, { status: "Running", commit, entrypoint: "helloserver", metadata: { source } });
		t.ok(service.source.endsWith(`@${commit}`), service.source);
	}
	// By HTTP alone the same holds.
	await server.api.create({ name: "curl", source: `${host.host}/${folder}@v1.0`, args: ["-addr", "$HOST:$PORT"] });
	t.match(await server.api.settled("curl"), { status: "Running", commit: commits.tagged });
});

t.test("an unknown repository, folder or ref is said, by CLI and by HTTP, and creates nothing", async (t) => {
	const server = await serve(t);
	for (const [source, words] of [
		[`${host.host}/acme/nosuch/helloserver`, /nosuch|repository/],
		[`${host.host}/acme/monorepo/nosuch`, /nosuch/],
		[`${host.host}/${folder}@nosuch`, /nosuch/],
	] as const) {
		const byHttp = await server.api.call("POST", "/services", { name: "x", source });
		t.match(byHttp, { status: 404, body: { code: "not_found", field: "source", detail: words } }, source);
		const byCli = await cli(["run", source, "--name", "x"], { cwd: place, env: server.env });
		t.equal(byCli.code, 1, byCli.stderr);
		t.match(byCli.stderr, words);
		t.equal(await server.api.find("x"), undefined);
	}
	t.same(await server.api.call("GET", "/services").then(({ body }) => body), { services: [] });
});

t.test("a host in trouble does not block a valid source: it is checked while Building", async (t) => {
	const server = await serve(t);
	for (const trouble of ["403", "429", "500", "slow", "garbage"] as const satisfies readonly Trouble[]) {
		forge.trouble(trouble);
		const name = `in-${trouble}`;
		const source = `${host.host}/${folder}@v1.0`;
		const created = await server.api.create({ name, source, args: ["-addr", "$HOST:$PORT"] });
		t.match(created, { status: "Pending" }, trouble);
		t.match(await server.api.settled(name), { status: "Running", commit: commits.tagged, entrypoint: "helloserver" });
		const wrong = await server.api.create({ name: `no-${trouble}`, source: `${host.host}/${folder}@nosuch` });
		t.match(wrong, { status: "Pending" });
		t.match(await server.api.settled(`no-${trouble}`), {
			status: "Error",
			error: { code: "source_invalid", phase: "source", message: /nosuch/ },
		});
		forge.trouble(undefined);
	}
});

t.test(
	"a host in trouble: a commit in a whole URL is not taken for a pinned source; an update goes to the folder that is typed",
	async (t) => {
		const server = await serve(t);
		forge.trouble("500");
		t.teardown(() => forge.trouble(undefined));
		const args = ["-addr", "$HOST:$PORT"];
		const source = `https://${host.host}/${folder}@${commits.between}`;
		t.match(await server.api.create({ name: "app", source, args }), { status: "Pending", commit: null, source });
		const settled = { status: "Running", commit: commits.between, entrypoint: "helloserver" };
		t.match(await server.api.settled("app"), settled);
		const other = { source: `${host.host}/acme/monorepo/nosuch`, entrypoint: "helloserver" };
		t.match(await server.api.call("PATCH", "/services/app/latest", other), { status: 202 });
		await until(async () => (await server.api.get("app")).target?.status === "Error", "the folder is missed");
		const next = { source: `${host.host}/${folder}@v1.0` };
		t.match(await server.api.call("PATCH", "/services/app/latest", next), { status: 202 });
		await until(async () => (await server.api.get("app")).revision === 3, "revision 3 serves");
		t.match(await server.api.get("app"), { status: "Running", commit: commits.tagged, entrypoint: "helloserver" });
	},
);

t.test("a private repository needs its host's token, which is shown nowhere", async (t) => {
	const server = await serve(t);
	const source = `${locked.host}/${folder}`;
	await server.api.create({ name: "private", source, args: ["-addr", "$HOST:$PORT"] });
	t.match(await server.api.settled("private"), { status: "Running", commit: commits.main });
	const shown = JSON.stringify([
		await server.api.get("private"),
		await server.api.entries("/services/private/latest/events"),
		await server.api.entries("/builds/private/latest/log"),
		server.output,
	]);
	t.notMatch(shown, token);
});

t.test("an address of this machine is refused unless the operator allows it", async (t) => {
	const server = await TestServer.start({ dataDir: await dataFolder(t), args: ["--stop-services"] });
	t.teardown(() => server.stop());
	const answer = await server.api.call("POST", "/services", { name: "x", source: `${host.host}/${folder}` });
	t.match(answer, { status: 403, body: { code: "permission_denied", field: "source" } });
	t.equal(await server.api.find("x"), undefined);
});

const bundle = path.resolve(import.meta.dirname, "../../../shared/inputs/golang-example.bundle");
if (!existsSync(bundle)) {
	t.test("golang/example as a remote, data from outside the project", { skip: "outside the project" }, () => undefined);
} else {
	t.test("golang/example runs as a remote", async (t) => {
		await mkdir(path.join(root, "golang"), { recursive: true });
		const repository = path.join(root, "golang", "example.git");
		execFileSync("git", ["clone", "--quiet", "--bare", bundle, repository]);
		const git = (...args: string[]) => execFileSync("git", args, { cwd: repository, encoding: "utf8" }).trim();
		const commit = git("rev-parse", "HEAD");
		git("branch", "integrationtest/branch_name", commit);
		git("tag", "v9.9.9", commit);
		const server = await serve(t);
		// The played API does not know this repository: a plain host, as a self-hosted one is.
		const plain = path.join(place, "plain.json");
		await writeFile(plain, JSON.stringify([{ host: host.host, kind: "git", ...open }]));
		await server.stop();
		const other = await TestServer.start({
			dataDir: server.dataDir,
			env: { RUNTIME_GIT_HOSTS: plain },
			args: ["--stop-services"],
		});
		t.teardown(() => other.stop());
		for (const [name, ref] of [
			["head", ""],
			["branch", "@integrationtest/branch_name"],
			["tag", "@v9.9.9"],
			["commit", `@${commit}`],
		] as const) {
			const source = `${host.host}/golang/example.git/helloserver${ref}`;
			const result = await cli(["run", source, "--name", name, "--version", "latest", ...listen], {
				cwd: place,
				env: other.env,
			});
			t.equal(result.code, 0, result.stderr);
			t.match(await (await fetch(result.stdout.trim())).text(), /Hello, Gopher!/);
			t.match(await other.api.get(name), { commit });
		}
		const missing = await other.api.call("POST", "/services", {
			name: "no",
			source: `${host.host}/golang/example.git/nosuch`,
		});
		if (missing.status === 202)
			await until(async () => (await other.api.get("no")).error?.code === "source_invalid", "the folder is missed");
		else t.match(missing, { status: 404, body: { field: "source" } });
	});
}
