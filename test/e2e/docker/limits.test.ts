import t from "tap";
import { archiveFolder } from "../../fixtures/archive.ts";
import { cli } from "../../harness/cli.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { until } from "../../harness/server.ts";
import { BEHAVES, MIB, running, Site, text } from "./site.ts";

const without = await Dockerd.missing();
if (without !== false) t.plan(0, without);
else {
	const site = await Site.open(t, ["--max-memory", "256", "--memory", "128", "--max-cpu", "1.5"], { alone: true });
	const server = await site.server();
	const { api } = server;
	const cwd = await site.project(BEHAVES);
	const run = (args: readonly string[]) => cli(args, { cwd, env: server.env });

	await t.test("a program that wants more memory than it may is told so", async (t) => {
		const health = ["--health-timeout", "60", "--no-wait"];
		const { code } = await run(["run", ".", "--name", "hungry", "--memory", "48", ...health, "--", "eat"]);
		t.equal(code, 0);
		const service = await api.settled("hungry");
		t.match(service, {
			...{ status: "Error", limits: { memory: 48 } },
			error: { code: "exited", phase: "start", exitCode: 137, message: /it used more than its 48 MiB of memory/ },
		});
		t.match((await run(["status", "hungry", "--json"])).stdout, /used more than its 48 MiB of memory/);
		const waited = await run(["wait", "hungry"]);
		t.equal(waited.code, 1);
		t.match(waited.stderr, /used more than its 48 MiB of memory/);
	});

	await t.test("one that ran and then wants too much is started again, and it is told", async (t) => {
		const { code, stderr, stdout } = await run(["run", ".", "--name", "glutton", "--memory", "48", "--", "serve"]);
		t.equal(code, 0, stderr);
		const url = stdout.trim();
		const first = await text(url, "/host");
		await text(url, "/eat").catch(() => undefined);
		await until(async () => (await text(url, "/host").catch(() => first)) !== first, "another one answers");
		const events = JSON.stringify(await api.entries("/services/glutton/latest/events"));
		t.match(events, /used more than its 48 MiB of memory/);
		t.equal((await running(api, "glutton")).revision, 1);
	});

	await t.test("nobody gets more than the operator gives", async (t) => {
		const { code, stderr } = await run(["run", ".", "--name", "greedy", "--memory", "512", "--", "serve"]);
		t.equal(code, 1);
		t.match(stderr, /at most 256 MiB/);
		t.match(stderr, /limits[./]memory|--memory/);
		t.equal(await api.find("greedy"), undefined);
		const source = await api.uploadFolder(BEHAVES);
		const ask = (limits: object) => api.call("POST", "/services", { name: "greedy", source, limits });
		t.match(await ask({ memory: 257 }), {
			...{ status: 400, body: { code: "invalid_argument", field: "limits/memory", detail: /at most 256 MiB/ } },
		});
		t.match(await ask({ cpu: 2 }), { status: 400, body: { field: "limits/cpu", detail: /at most 1\.5 cores/ } });
		const update = await run(["update", ".", "--name", "glutton", "--memory", "512"]);
		t.equal(update.code, 1);
		t.match(update.stderr, /at most 256 MiB/);
		t.equal((await running(api, "glutton")).revision, 1, "the one that runs is as it was");
	});

	await t.test("what a program finds in its container", async (t) => {
		const source = await api.uploadFolder(BEHAVES);
		await api.create({ name: "guest", source, args: ["serve"], env: { MINE: "1" } });
		const { url, id } = await running(api, "guest");
		const seen: { env: string[]; uid: number; write: string[]; CapEff: string; NoNewPrivs: string } = JSON.parse(
			await text(url, "/env"),
		);
		t.match(seen, { uid: 65_532, CapEff: /^0+$/, NoNewPrivs: "1" });
		t.same(seen.write, ["/tmp"], "all but its scratch is read-only");
		const names = seen.env.map((entry) => entry.slice(0, entry.indexOf("="))).sort();
		t.ok(names.includes("MINE") && names.includes("PORT"));
		t.same(
			names.filter((name) => /LOADER|TOKEN|SECRET|CA$|DOCKER|RUNTIME/i.test(name)),
			[],
		);
		t.notMatch(seen.env.join("\n"), /rbl_|BEGIN CERTIFICATE/);
		const { HostConfig, Config } = await site.container({ id });
		t.match(HostConfig, { ReadonlyRootfs: true, Privileged: false, CapDrop: ["ALL"], PidsLimit: 256 });
		t.match(Config.User, /^65532/);
		t.ok(HostConfig.Memory !== undefined && HostConfig.Memory >= 128 * MIB && HostConfig.Memory < 160 * MIB);
		t.same(HostConfig.Binds ?? [], [], "nothing of the host is in it");
	});

	await t.test("programs of two namespaces do not reach one another", async (t) => {
		const other = { "runtime-namespace": "other" };
		const chunks: Uint8Array[] = [];
		for await (const chunk of archiveFolder(BEHAVES)) chunks.push(chunk);
		const { source } = Object((await api.send(new Uint8Array(Buffer.concat(chunks)), other)).body);
		const request = { name: "guest", source, args: ["serve"] };
		t.equal((await api.call("POST", "/services", request, other)).status, 202);
		const find = async () => Object((await api.call("GET", "/services/guest/latest", undefined, other)).body);
		await until(async () => (await find()).status === "Running", "its namesake runs");
		const [mine, theirs, neighbour] = [await api.get("guest"), await find(), await api.get("glutton")];
		const address = async (service: { id: string }) => {
			const { NetworkSettings, Config } = await site.container(service);
			const [network] = Object.entries(NetworkSettings.Networks);
			const port = Config.Env.find((entry) => entry.startsWith("PORT="))?.slice(5);
			return { network: network?.[0], at: `${network?.[1].IPAddress}:${port}` };
		};
		const [own, foreign] = [await address(mine), await address(theirs)];
		t.not(own.network, foreign.network);
		t.equal(await text(neighbour.url, `/reach?at=${own.at}`), "true", "its neighbour reaches it");
		t.equal(await text(theirs.url, `/reach?at=${own.at}`), "false");
		t.equal(await text(mine.url, `/reach?at=${foreign.at}`), "false");
		t.equal((await api.call("DELETE", "/services/guest/latest", undefined, other)).status, 202);
		await until(
			async () => (await site.docker.listNetworks()).every(({ Name }) => Name !== foreign.network),
			"a namespace's network goes with its last service",
		);
		t.equal(await text(mine.url, "/"), "revision 1");
	});
}
