import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { parse } from "yaml";
import { Dockerd } from "../harness/dockerd.ts";
import { debianBase, goBase, missingForBase } from "../hosts/debian-base.ts";

/** The Dockerfile and the compose.yaml, built and started, with bases that are made of Debian's packages. */
const root = path.resolve(import.meta.dirname, "../..");
const missing = (await Dockerd.missing()) || (await missingForBase());

t.test("the image is built from the Dockerfile and runs as compose.yaml says", { skip: missing }, async (t) => {
	const engine = await Dockerd.start();
	t.teardown(() => engine.stop());
	const folder = await mkdtemp(path.join(tmpdir(), "image-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const docker = client(engine.socket);

	const trust = "ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt";
	await docker("import", "-c", trust, await debianBase(), "test/debian:1");
	await docker("import", await goBase(folder), "test/go:1");
	const bases = { BASE: "test/debian:1", BUILD_BASE: "test/debian:1", GO_BASE: "test/go:1" };
	const args = Object.entries(bases).flatMap(([name, value]) => ["--build-arg", `${name}=${value}`]);
	await docker("build", "--network", "host", "-t", "test/server:1", ...args, root);

	const composed = async (t: Test, name: string, secured: boolean) => {
		const { services, volumes } = parse(await readFile(path.join(root, "compose.yaml"), "utf8"));
		const { runtime } = services;
		const { gid } = await stat(engine.socket);
		t.same(Object.keys(services), ["runtime"]);
		t.same(Object.keys(volumes), ["data"]);
		t.equal(runtime.network_mode, "host");
		const port = await freePort();
		await docker(
			...["run", "-d", "--name", name, "--network", runtime.network_mode, "--group-add", String(gid)],
			...runtime.volumes.flatMap((volume: string) => [
				"-v",
				volume.replace(/^\/var\/run\/docker\.sock:/, `${engine.socket}:`),
			]),
			...(secured ? [] : runtime.security_opt).flatMap((option: string) => ["--security-opt", option]),
			...["-e", "RUNTIME_LOG_LEVEL=info"],
			// Where this machine's Go gets its modules from is no part of the image, and no module is needed here.
			...["test/server:1", ...runtime.command.map((word: string) => word.replace(":8080", `:${port}`))],
		);
		await healthy(t, docker, name);
		const log = await docker("logs", name);
		if (secured) t.match(log, /builds run in containers, which takes longer: bwrap does not work here/);
		else t.notMatch(log, /builds run in containers/);
		const token = (await docker("exec", name, "cat", "admin-token")).trim();
		const cli = (...words: string[]) =>
			promisify(execFile)(process.execPath, [path.join(root, "clients/cli/bin.mjs"), ...words], {
				cwd: path.join(root, "examples/hello"),
				env: { ...process.env, RUNTIME_URL: `http://127.0.0.1:${port}`, RUNTIME_TOKEN: token, NO_COLOR: "1" },
				timeout: 10 * 60_000,
			});
		const { stdout } = await cli("run", ".");
		const url = stdout.trim().split("\n").at(-1) ?? "";
		t.match(await (await fetch(url)).text(), /Hello/);
		t.equal(
			(await docker("ps", "-a", "--filter", "label=runtime-builds.build", "-q")).trim(),
			"",
			"none is left of builds",
		);
		const running = await docker("ps", "--filter", "label=runtime-builds.name=hello", "-q");
		t.equal(running.trim().split("\n").length, 1, "it runs in a container of its own");
		await docker("restart", "-t", "30", name);
		await healthy(t, docker, name);
		t.equal((await docker("ps", "--filter", "label=runtime-builds.name=hello", "-q")).trim(), running.trim());
		t.match(
			await (await fetch(url)).text(),
			/Hello/,
			"the same container at the same URL after a restart of the server",
		);
		await cli("kill", "hello");
		t.equal((await docker("ps", "-a", "--filter", "label=runtime-builds.name=hello", "-q")).trim(), "");
		await docker("rm", "-f", "-v", name);
		t.equal((await docker("volume", "ls", "-q")).trim(), "data", "nor volumes");
		await docker("volume", "rm", "data");
	};
	await t.test("without its security options it builds in containers", (t) => composed(t, "secured", true));
});

type Client = (...args: string[]) => Promise<string>;

function client(socket: string): Client {
	return async (...args) => {
		const { stdout, stderr } = await promisify(execFile)("docker", args, {
			env: { ...process.env, DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: "0" },
			maxBuffer: 64 * 1024 ** 2,
			timeout: 20 * 60_000,
		});
		return args[0] === "logs" ? stdout + stderr : stdout;
	};
}

async function healthy(t: Test, docker: Client, name: string): Promise<void> {
	const deadline = Date.now() + 120_000;
	for (;;) {
		const [status, health] = (await docker("inspect", "-f", "{{.State.Status}} {{.State.Health.Status}}", name))
			.trim()
			.split(" ");
		if (health === "healthy") return;
		if (status !== "running" || Date.now() > deadline) {
			t.comment(await docker("logs", name));
			throw new Error(`${name} is ${status}, ${health}`);
		}
		await sleep(200);
	}
}

function freePort(): Promise<number> {
	return new Promise((resolve, reject) => {
		const server = createServer();
		server.once("error", reject);
		server.listen(0, "127.0.0.1", () => {
			const address = server.address();
			server.close(() => (address !== null && typeof address === "object" ? resolve(address.port) : reject()));
		});
	});
}
