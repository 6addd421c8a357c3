import { execFileSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Test } from "tap";
import { type CliResult, cli } from "../harness/cli.ts";
import { programsUnder } from "../harness/processes.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";

export type Examples = {
	/** A git repository with the folders `helloserver`, one that prints and ends, and one with a third-party module. */
	readonly repository: string;
	readonly printer: { readonly folder: string; readonly says: RegExp };
	readonly builds: string;
	/** A folder beside the repository, for paths such as `../x/helloserver`. */
	readonly beside: string;
};

/** The main job by the CLI, on a repository of several Go modules. */
export async function exampleSuite(t: Test, examples: Examples): Promise<void> {
	const { repository } = examples;
	const server = await TestServer.start({ dataDir: await dataFolder(t), args: ["--stop-services"] });
	t.teardown(() => server.stop());
	const run = (args: readonly string[], cwd = repository) => cli(args, { cwd, env: server.env });
	const listening = ["--", "-addr", "$HOST:$PORT"];

	const answersHello = async (t: Test, result: CliResult, typed: string, name: string) => {
		t.equal(result.code, 0, result.stderr);
		const url = result.stdout.trim();
		t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/, "stdout is the URL and nothing else");
		t.match(await (await fetch(url)).text(), /Hello, Gopher!/);
		const service = await server.api.get(name);
		t.match(service, { status: "Running", url, metadata: { source: typed }, error: null, build: { builder: "go" } });
	};

	await t.test("run of a folder, from the repository's root", async (t) => {
		await answersHello(t, await run(["run", "./helloserver", ...listening]), "./helloserver", "helloserver");
	});

	await t.test("run . from inside the folder", async (t) => {
		const result = await run(["run", ".", "--name", "inside", ...listening], path.join(repository, "helloserver"));
		await answersHello(t, result, ".", "inside");
	});

	await t.test("run of a folder elsewhere", async (t) => {
		await mkdir(examples.beside, { recursive: true });
		const typed = path.join(path.relative(examples.beside, repository), "helloserver");
		const result = await run(["run", typed, "--name", "elsewhere", ...listening], examples.beside);
		await answersHello(t, result, typed, "elsewhere");
	});

	await t.test("a module with dependencies builds", async (t) => {
		const result = await run(["run", `./${examples.builds}`, "--no-wait", "--name", "deps"]);
		t.equal(result.code, 0, result.stderr);
		await until(async () => (await server.api.get("deps")).build !== null, "it has a build", 180_000);
		t.equal((await run(["kill", "deps"])).code, 0);
	});

	await t.test("a server that does not read $PORT is told so", async (t) => {
		const result = await run(["run", "./helloserver", "--name", "deaf", "--health-timeout", "2"]);
		t.equal(result.code, 1);
		t.match(result.stderr, /\$PORT/);
		t.match(result.stderr, /8080/);
		const service = await server.api.get("deaf");
		t.match(service, { status: "Error", error: { code: "not_listening", message: /\$PORT.*8080|8080.*\$PORT/s } });
		t.notOk(
			(await programsUnder(server.dataDir)).some(({ command }) => command.includes(service.id)),
			"its processes are gone",
		);
	});

	await t.test("a program that prints and ends is Stopped, with its output in the logs", async (t) => {
		const { folder, says } = examples.printer;
		const result = await run(["run", `./${folder}`, "--name", "printer"]);
		t.equal(result.code, 0, result.stderr);
		t.match(await server.api.get("printer"), { status: "Stopped", error: null });
		const logs = await run(["logs", "printer"]);
		t.match(logs.stdout, says);
	});

	await t.test("a compile error is shown everywhere, and the old revision goes on", async (t) => {
		const folder = path.join(repository, "helloserver");
		const main = path.join(
			folder,
			(await readFile(path.join(folder, "server.go"), "utf8").catch(() => "")) ? "server.go" : "main.go",
		);
		const text = await readFile(main, "utf8");
		t.teardown(() => writeFile(main, text));
		await writeFile(main, text.replace("import (\n", 'import (\n\t"example.com/no/such/module"\n'));
		const line = text.slice(0, text.indexOf("import (")).split("\n").length + 1;
		const where = new RegExp(`helloserver/${path.basename(main)}:${line}:\\d+: .*example\\.com/no/such/module`);
		const result = await run(["update", "./helloserver"]);
		t.equal(result.code, 1);
		t.match(result.stderr, where);
		t.match(result.stderr, /revision 1 keeps running/i);

		const service = await server.api.get("helloserver");
		t.match(service, {
			status: "Running",
			revision: 1,
			target: { revision: 2, status: "Error", error: { code: "build_failed", phase: "build" } },
		});
		const [diagnostic] = service.target?.error?.diagnostics ?? [];
		t.match(diagnostic, {
			file: `helloserver/${path.basename(main)}`,
			line,
			message: /example\.com\/no\/such\/module/,
		});
		const status = await run(["status"]);
		t.match(`${status.stdout}${status.stderr}`, /running r1, r2 error/);

		const before = (await programsUnder(server.dataDir)).filter(({ exe }) => exe.includes(service.id));
		t.equal(before.length, 1);
		process.kill(before[0]?.pid ?? 0, "SIGKILL");
		await until(async () => {
			const now = (await programsUnder(server.dataDir)).filter(({ exe }) => exe.includes(service.id));
			return now.length === 1 && now[0]?.pid !== before[0]?.pid && now[0]?.exe === before[0]?.exe;
		}, "the program is back, with its own bytes");
		await until(async () => (await server.api.get("helloserver")).status === "Running", "it is Running again");
		t.match(await (await fetch(service.url ?? "")).text(), /Hello, Gopher!/);
	});

	await t.test("kill leaves nothing to be seen", async (t) => {
		t.equal((await run(["kill", "inside"])).code, 0);
		await until(async () => (await server.api.find("inside")) === undefined, "it is gone");
		t.notMatch((await run(["status"])).stdout, /^inside\t/m);
		t.equal((await run(["status", "inside"])).code, 1);
	});
}

/** Makes a folder a git repository with one commit, as a person's is. */
export function gitInit(folder: string): void {
	const git = (...args: string[]) =>
		execFileSync("git", ["-c", "user.name=test", "-c", "user.email=test@example.com", ...args], { cwd: folder });
	git("init", "--quiet");
	git("add", ".");
	git("commit", "--quiet", "-m", "first");
}
