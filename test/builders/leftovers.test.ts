import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import t, { type Test } from "tap";
import { createGoBuilder } from "../../src/builders/go/go.ts";
import { GoSeed } from "../../src/builders/go/seed.ts";
import { Leftovers, sweepCaches } from "../../src/builders/leftovers.ts";
import type { Confined, Sandbox } from "../../src/builders/sandbox/sandbox.ts";
import { HOST_TARGET, treeOf } from "../conformance/builder.ts";
import { TestServer } from "../harness/server.ts";
import { MOD, main } from "./go-samples.ts";
import { BWRAP, skip } from "./hostile/sandboxes.ts";

const signal = new AbortController().signal;
const source = (file: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, "../../src", file)).href);

async function folderFor(t: Test): Promise<string> {
	const path = await mkdtemp(join(tmpdir(), "leftovers-"));
	t.teardown(() => rm(path, { recursive: true, force: true }));
	return path;
}

/** A server's life, as far as this goes; resolves when it says `ready`, or has ended. */
async function life(t: Test, program: string, env: Record<string, string>) {
	const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
		env: { ...process.env, ...env },
		stdio: ["ignore", "pipe", "inherit"],
	});
	const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
	const kill = () => {
		child.kill("SIGKILL");
		return ended;
	};
	t.teardown(kill);
	for await (const line of createInterface(child.stdout)) if (line === "ready") break;
	return { kill, ended };
}

t.test("a sandbox's folder in the system's place for temporary files", { skip }, async (t) => {
	const place = await folderFor(t);
	const tmp = join(place, "tmp");
	await mkdir(tmp);
	const workFolder = join(place, "a-long-name-".repeat(8), "sandbox");
	const program = (at: string) => `
		import { Bubblewrap } from ${source("builders/sandbox/bubblewrap.ts")};
		setInterval(() => {}, 1000);
		const options = { file: ${JSON.stringify(BWRAP)}, workFolder: ${JSON.stringify(at)} };
		await Bubblewrap.open(options, { signal: new AbortController().signal });
		console.log("ready");`;
	const first = await life(t, program(workFolder), { TMPDIR: tmp });
	const [killed = ""] = await readdir(tmp);
	t.match(killed, /^sandbox-/);
	const other = join(place, "b-long-name-".repeat(8), "sandbox");
	await life(t, program(other), { TMPDIR: tmp });
	await life(t, program(workFolder), { TMPDIR: tmp });
	t.equal((await readdir(tmp)).length, 3, "what lives is left alone");
	const [, , ...parts] = killed.split("-");
	const lure = killed.replace(parts.join("-"), "1.0-lure");
	await symlink(place, join(tmp, lure));
	await first.kill();
	await life(t, program(other), { TMPDIR: tmp });
	t.ok((await readdir(tmp)).includes(killed), "it is not another server's to remove");
	await life(t, program(workFolder), { TMPDIR: tmp });
	const left = await readdir(tmp);
	t.notOk(left.includes(killed), "its own next start removes it");
	t.equal(left.length, 5, "and nothing else");
	t.ok(left.includes(lure), "a link is not followed, and not touched");
});

const plan = {
	toolchain: { file: "/go", version: "go1.26.8", root: "/", settings: {} },
	env: { GOOS: "a", GOARCH: "b" },
};

/** Compiles nothing. */
function sandboxThat(run: Sandbox["run"]): Sandbox {
	return { name: "bubblewrap", run };
}

t.test("what was being made or copied of a build cache's seed when the server was killed", async (t) => {
	const place = await folderFor(t);
	const [cache, data, other] = [join(place, "cache"), join(place, "data"), join(place, "other")];
	const own = join(cache, "namespaces", "mine", "go");
	for (const folder of [data, other, own]) await mkdir(folder, { recursive: true });
	const into = join(own, "build");
	const program = `
		import { GoSeed } from ${source("builders/go/seed.ts")};
		const sandbox = { name: "bubblewrap", run: async () => ({ exitCode: 0 }) };
		const seed = new GoSeed(${JSON.stringify(join(cache, "go"))}, sandbox, ${JSON.stringify(data)});
		const call = { signal: new AbortController().signal, log: () => undefined };
		await seed.plant(${JSON.stringify(into)}, ${JSON.stringify(plan)}, call);
		console.log("ready");`;
	for (const point of ["seed.made", "seed.before_rename"])
		await (await life(t, program, { RUNTIME_FAILPOINTS: `${point}:1=kill` })).ended;
	const left = async () => [
		...(await readdir(join(cache, "go"))).filter((name) => name.startsWith("making-")),
		...(await readdir(own)).filter((name) => name.startsWith("build-")),
	];
	t.equal((await left()).length, 2);

	const making = Promise.withResolvers<void>();
	const goOn = Promise.withResolvers<void>();
	const living = new GoSeed(
		join(cache, "go"),
		sandboxThat(async () => {
			making.resolve();
			await goOn.promise;
			return { exitCode: 0 };
		}),
		data,
	);
	const env = { ...plan.env, GOOS: "another" };
	const work = living.plant(into, { ...plan, env }, { signal, log: () => undefined });
	await making.promise;
	await sweepCaches(cache, other);
	t.equal((await left()).length, 3, "another server with the same caches leaves them");
	await sweepCaches(cache, data);
	t.equal((await left()).length, 1, "what is being made is left alone");
	goOn.resolve();
	await work;
	t.same(await left(), []);
	t.same(await readdir(own), ["build"]);
	await sweepCaches(join(place, "nowhere"), data);
	await symlink("knot", join(cache, "namespaces", "knot"));
	await writeFile(join(cache, "namespaces", "file"), "");
	await sweepCaches(cache, data);
});

t.test("a server that starts sweeps its caches", async (t) => {
	const place = await folderFor(t);
	const [data, cache] = [join(place, "data"), join(place, "cache")];
	for (const folder of [data, join(cache, "go")]) await mkdir(folder, { recursive: true });
	const made = await (await Leftovers.of(data)).make(join(cache, "go"), "making");
	// By a process that nobody is: it is above the highest number.
	await rename(made, made.replace(`-${process.pid}.`, "-4194305."));
	const server = await TestServer.start({ dataDir: data, env: { RUNTIME_CACHE_DIR: cache } });
	t.teardown(() => server.kill());
	t.same(await readdir(join(cache, "go")), []);
});

t.test("a seed is made without anything that a tenant has set", async (t) => {
	const place = await folderFor(t);
	const ran: Confined[] = [];
	const builder = createGoBuilder({
		...{ cacheFolder: join(place, "cache"), workFolder: join(place, "data", "work") },
		sandbox: sandboxThat(async (command) => {
			ran.push(command);
			return { exitCode: 1 };
		}),
	});
	const set = { GOAMD64: "v3", GOARM64: "v8.1", GOEXPERIMENT: "synctest", GOFIPS140: "latest" };
	const options = { namespace: "mine", entrypoint: ".", env: set, target: HOST_TARGET };
	const tree = await treeOf(t, { "go.mod": MOD, "main.go": main("") });
	await t.rejects(builder.build(tree, options, { signal, log: () => undefined }));
	const [seed, own] = [ran.find(({ args }) => args.includes("net/http")), ran.find(({ args }) => args.at(-1) === ".")];
	t.match(own?.env, set, "its own build has it");
	t.match(seed?.env, { GOOS: HOST_TARGET.os, GOARCH: HOST_TARGET.arch, CGO_ENABLED: "0" });
	for (const name of Object.keys(set)) t.equal(seed?.env[name], undefined, name);
});
