import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { processesUnder } from "../harness/processes.ts";
import { SHARED_CACHE } from "../harness/server.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
/** The oldest that `engines` promises. */
const OLDEST = "22.19.0";
const LIMIT = 240_000;

type Result = { readonly code: number | null; readonly stdout: string; readonly stderr: string };
type Env = Readonly<Record<string, string>>;

/** Without what tests and a clone bring along. */
function environment(extra: Env): NodeJS.ProcessEnv {
	const env: NodeJS.ProcessEnv = {};
	for (const [key, value] of Object.entries(process.env))
		if (!/^(RUNTIME_|TAP|NODE_OPTIONS|NODE_PATH|npm_)/i.test(key)) env[key] = value;
	return { ...env, ...extra };
}

async function run(command: string, args: readonly string[], cwd: string, env: Env = {}): Promise<Result> {
	const child = spawn(command, args, { cwd, env: environment(env), stdio: ["ignore", "pipe", "pipe"], timeout: LIMIT });
	let stdout = "";
	let stderr = "";
	child.stdout.setEncoding("utf8").on("data", (text: string) => {
		stdout += text;
	});
	child.stderr.setEncoding("utf8").on("data", (text: string) => {
		stderr += text;
	});
	const [code] = await once(child, "close");
	return { code: typeof code === "number" ? code : null, stdout, stderr };
}

async function must(command: string, args: readonly string[], cwd: string, env: Env = {}): Promise<string> {
	const { code, stdout, stderr } = await run(command, args, cwd, env);
	if (code !== 0) throw new Error(`${command} ${args.join(" ")}: ${code}\n${stdout}${stderr}`);
	return stdout;
}

/** Kept between runs, by version. */
async function nodeOf(version: string): Promise<string> {
	const kept = path.join(tmpdir(), `runtime-test-node-${version}`);
	const program = path.join(kept, "node_modules", "node", "bin", "node");
	if (!existsSync(program)) {
		const made = mkdtempSync(`${kept}-`);
		writeFileSync(path.join(made, "package.json"), JSON.stringify({ private: true, allowScripts: { node: true } }));
		await must("npm", ["install", "--no-save", "--no-audit", "--no-fund", `node@${version}`], made);
		rmSync(kept, { recursive: true, force: true });
		renameSync(made, kept);
	}
	const found = (await must(program, ["-v"], kept)).trim();
	if (found !== `v${version}`) throw new Error(`${program} is ${found}`);
	return program;
}

const top = mkdtempSync(path.join(tmpdir(), "runtime-package-"));
t.teardown(() => rmSync(top, { recursive: true, force: true }));

const packed =
	(await must("npm", ["pack", "--silent", "--pack-destination", top], ROOT)).trim().split("\n").at(-1) ?? "";
const app = path.join(top, "app");
mkdirSync(app);
writeFileSync(path.join(app, "package.json"), '{"private":true}');
await must("npm", ["install", "--no-audit", "--no-fund", path.join(top, packed)], app);
const installed = path.join(app, "node_modules", "runtime-builds");
const launcher = path.join(installed, "clients", "cli", "bin.mjs");

t.test("it holds what runs, and nothing else", async (t) => {
	const list = (await must("tar", ["tzf", path.join(top, packed)], top)).trim().split("\n");
	const files = list.map((name) => name.replace(/^package\//, ""));
	const single = ["CHANGELOG.md", "LICENSE", "README.md", "openapi.yaml", "package.json"];
	const loaders = ["amd64", "arm64"].map((arch) => `dist/images/loader/linux-${arch}`);
	for (const name of [
		...[...single, ...loaders],
		...["clients/cli/bin.mjs", "clients/cli/runtime.schema.json", "dist/src/main.js"],
	])
		t.ok(files.includes(name), name);
	const other = files.filter(
		(name) =>
			!single.includes(name) &&
			!/^(dist\/(src|clients\/cli)\/.*\.m?js|dist\/images\/loader\/(linux-\w+|go\.mod|build\.env|\w+\.go)|clients\/cli\/(bin\.mjs|runtime\.schema\.json))$/.test(
				name,
			),
	);
	t.same(other, []);
	for (const name of files.filter((name) => /\.m?js$/.test(name))) {
		const text = readFileSync(path.join(installed, name), "utf8");
		t.notOk(text.includes(ROOT), `${name} names no folder of the machine it was made on`);
		t.notMatch(text, /^\s*(await )?using /m, `${name} holds nothing that the oldest Node cannot read`);
	}
	const manifest: { dependencies: Record<string, string>; devDependencies: Record<string, string> } = JSON.parse(
		readFileSync(path.join(ROOT, "package.json"), "utf8"),
	);
	for (const name of Object.keys(manifest.devDependencies))
		if (["typescript", "tap", "node"].includes(name))
			t.notOk(existsSync(path.join(app, "node_modules", name)), `${name} is not installed`);
	t.match(readFileSync(path.join(installed, "LICENSE"), "utf8"), "Apache License");
});

for (const version of [process.versions.node, OLDEST]) {
	t.test(`it works on Node ${version}`, async (t) => {
		const node = version === process.versions.node ? process.execPath : await nodeOf(version);
		const dataDir = mkdtempSync(path.join(top, "data-"));
		const project = mkdtempSync(path.join(top, "hello-"));
		const hello = path.join(project, "hello");
		cpSync(path.join(ROOT, "examples", "hello"), hello, { recursive: true });
		const env = { RUNTIME_DATA_DIR: dataDir };
		const cli = (...args: string[]) => run(node, [launcher, ...args], hello, env);

		t.match((await cli("--version")).stdout, /^\d+\.\d+\.\d+\n$/);
		t.match((await cli("help", "server")).stdout, "--data-dir");
		const server = spawn(node, [launcher, "server"], {
			cwd: project,
			env: environment({
				...env,
				RUNTIME_ADDRESS: "127.0.0.1:0",
				RUNTIME_CACHE_DIR: SHARED_CACHE,
				RUNTIME_STOP_SERVICES: "1",
			}),
			stdio: ["ignore", "pipe", "pipe"],
		});
		let output = "";
		const ended = once(server, "exit");
		t.teardown(async () => {
			server.kill("SIGTERM");
			await ended;
			// The companion ends by itself when nobody needs it.
			for (let round = 0; (await processesUnder(dataDir)).length > 0 && round < 300; round++)
				await new Promise((resolve) => setTimeout(resolve, 100));
		});
		const ready = new Promise<void>((resolve, reject) => {
			for (const stream of [server.stdout, server.stderr])
				stream.on("data", (data) => {
					output += String(data);
					if (output.includes("is ready at")) resolve();
				});
			server.once("exit", () => reject(new Error(`the server ended\n${output}`)));
		});
		await ready;
		const ran = await cli("run", ".");
		t.equal(ran.code, 0, ran.stderr);
		const url = ran.stdout.trim();
		t.equal(await (await fetch(url)).text(), "Hello from Runtime Builds\n");
		writeFileSync(
			path.join(hello, "main.go"),
			readFileSync(path.join(hello, "main.go"), "utf8").replace("Hello from", "Servus from"),
		);
		const updated = await cli("update", ".");
		t.equal(updated.code, 0, updated.stderr);
		t.equal(await (await fetch(url)).text(), "Servus from Runtime Builds\n");
		t.match((await cli("status")).stdout, /^hello\tlatest\trunning/);
		t.match((await cli("logs", "hello")).stdout, "listening on");
		t.equal((await cli("build", "download", "hello", "latest", "-o", "../built")).code, 0);
		t.match((await cli("__complete", "logs", "h")).stdout, "hello\n");
		const rolled = await cli("rollback", "hello", "1");
		t.equal(rolled.code, 0, rolled.stderr);
		t.equal(await (await fetch(url)).text(), "Hello from Runtime Builds\n");
		const address = /ready at (\S+)/.exec(output)?.[1] ?? "";
		t.equal((await fetch(`${address}/openapi.yaml`)).status, 200);
		t.match(await (await fetch(`${address}/docs`)).text(), "swagger-ui");
		t.equal((await cli("kill", "hello")).code, 0);
		server.kill("SIGTERM");
		const [code] = await ended;
		t.equal(code, 0, output);
		const times: number[] = [];
		for (let round = 0; round < 5; round++) {
			const began = performance.now();
			await cli("--version");
			times.push(performance.now() - began);
		}
		t.comment(`runtime --version takes ${Math.round(Math.min(...times))} ms`);
	});
}
