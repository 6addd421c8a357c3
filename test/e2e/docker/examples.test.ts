import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { cli } from "../../harness/cli.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { gitInit } from "../examples.ts";
import { running, Site, text } from "./site.ts";

/** A real monorepo of somebody else's. It is not part of the project; a clone of the project alone has a stand-in. */
const bundle = path.resolve(import.meta.dirname, "../../../../shared/inputs/golang-example.bundle");
const standIn = path.resolve(import.meta.dirname, "../../fixtures/monorepo");

async function clone(to: string): Promise<void> {
	if (existsSync(bundle)) {
		execFileSync("git", ["clone", "--quiet", bundle, to]);
		return;
	}
	await cp(standIn, to, { recursive: true });
	gitInit(to);
}

const without = await Dockerd.missing();
if (without !== false) t.plan(0, without);
else {
	const site = await Site.open(t);
	const server = await site.server();
	const place = await mkdtemp(path.join(tmpdir(), "docker-examples-"));
	t.teardown(() => rm(place, { recursive: true, force: true }));
	const cwd = path.join(place, "x");
	await clone(cwd);
	const run = (args: readonly string[]) => cli(args, { cwd, env: server.env });

	await t.test("helloserver of a monorepo runs in a container", async (t) => {
		const { code, stdout, stderr } = await run(["run", "./helloserver", "--", "-addr", "$HOST:$PORT"]);
		t.equal(code, 0, stderr);
		const url = stdout.trim();
		t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/, "stdout is the URL and nothing else");
		t.match(await text(url), /Hello, Gopher!/);
		const service = await running(server.api, "helloserver");
		t.match(service, { url, metadata: { source: "./helloserver" }, build: { builder: "go" } });
		const { Config, State } = await site.container(service);
		t.ok(State.Running);
		t.match(Config.Cmd, ["-addr", /^0\.0\.0\.0:\d+$/]);
		t.match((await run(["logs", "helloserver"])).stdout, /serving http:\/\/0\.0\.0\.0:\d+/);
		t.match((await run(["status"])).stdout, new RegExp(`^helloserver\\tlatest\\trunning\\t${url}\\t`, "m"));
	});

	await t.test("a Node service runs in a container", async (t) => {
		const folder = await site.project(path.resolve(import.meta.dirname, "../../../examples/hello-node"));
		const { code, stdout, stderr } = await cli(["run", ".", "--name", "node"], { cwd: folder, env: server.env });
		t.equal(code, 0, stderr);
		const url = stdout.trim();
		const answer = await fetch(url);
		t.equal(answer.status, 200);
		t.match(await answer.text(), /\S/);
		const service = await running(server.api, "node");
		t.match(service, { url, build: { builder: "node" } });
		const { Config, HostConfig } = await site.container(service);
		t.match(Config.Image, /runtime-builds\/node:/);
		t.equal(HostConfig.ReadonlyRootfs, true);
		t.match((await run(["logs", "node"])).stdout, /\S/);
	});

	await t.test("one that does not read $PORT is told where it listens instead", async (t) => {
		const { code, stderr } = await run(["run", "./helloserver", "--name", "deaf", "--health-timeout", "5"]);
		t.equal(code, 1);
		t.match(stderr, /\$PORT/);
		t.match(stderr, /8080/);
		t.match(await server.api.get("deaf"), { status: "Error", error: { code: "not_listening", message: /8080/ } });
		t.equal((await run(["kill", "deaf"])).code, 0);
	});
}
