import { execFile } from "node:child_process";
import { promisify } from "node:util";
import t from "tap";
import { Dockerd } from "../../harness/dockerd.ts";
import { until } from "../../harness/server.ts";
import { Load } from "../../load/clients.ts";
import { PROBE, running, Site, text } from "./site.ts";

const without = await Dockerd.missing();
if (without !== false) t.plan(0, without);
else {
	const site = await Site.open(t);
	let server = await site.server();
	const source = await server.api.uploadFolder(PROBE);
	await server.api.create({ name: "app", source, env: { GREETING: "r1" } });
	const { url, id } = await running(server.api, "app");
	const command = (name: string, ...args: string[]) => promisify(execFile)(name, args);
	const noAttributes = await command("lsattr", "-d", site.dataDir).then(
		() => false,
		() => "this disk has no attributes",
	);
	const moves = async () => server.api.entries("/services/app/latest/events");
	const answers = async (said: RegExp) => said.test(await text(url).catch(() => ""));

	await t.test("a server that is killed is missed by nobody", async (t) => {
		const before = await site.container({ id });
		const load = new Load(url ?? "", { keepAlive: 2, fresh: 2, pauseMs: 15 });
		for (let round = 1; round <= 2; round++) {
			await server.kill();
			server = await site.server();
			t.match(await running(server.api, "app"), { url, revision: 1 });
		}
		const { requests, failures, longest } = await load.stop();
		t.comment(`${requests} requests, ${failures.length} failed, longest ${longest.toFixed(0)} ms`);
		t.same(failures.slice(0, 5), [], `no failed request of ${requests}`);
		t.ok(requests > 200, "there was load");
		const after = await site.container({ id });
		t.same([after.Id, after.State.Pid], [before.Id, before.State.Pid], "the same container");
		t.match(await server.api.call("GET", "/services"), { status: 200, body: { services: [{ name: "app" }] } });
	});

	for (const signal of ["SIGTERM", "SIGKILL"] as const)
		await t.test(`an engine that is restarted (${signal}) brings its services back`, async (t) => {
			const before = await site.container({ id });
			const known = (await moves()).length;
			await site.dockerd.down(signal);
			await until(async () => (await server.api.get("app")).status === "Unknown", "it is Unknown");
			t.match(await server.api.call("GET", "/services"), { status: 200 });
			await site.dockerd.up();
			const back = Date.now();
			await until(async () => (await server.api.get("app")).status === "Running", "it is Running again");
			await until(() => answers(/^r1 /), "it answers");
			t.comment(`it answers ${Date.now() - back} ms after the engine does`);
			t.match(await running(server.api, "app"), { url, revision: 1, error: null });
			const news = (await moves()).slice(known);
			t.notMatch(JSON.stringify(news), /crash_loop|"exited"/, "which is no crash");
			t.equal((await site.container({ id })).Name, before.Name);
			const load = new Load(url ?? "", { keepAlive: 1, fresh: 1, pauseMs: 5 });
			await until(() => answers(/^r1 /), "it answers");
			t.same((await load.stop()).failures, []);
		});

	await t.test("what is asked for while the engine is away is done when it is back", async (t) => {
		const spare = await server.api.uploadFolder(PROBE);
		await server.api.create({ name: "doomed", source });
		const doomed = await running(server.api, "doomed");
		await site.dockerd.down("SIGKILL");
		await until(async () => (await server.api.get("app")).status === "Unknown", "it is Unknown");
		await server.api.update("app", { env: { GREETING: "r2" } });
		await server.api.create({ name: "late", source: spare });
		t.equal((await server.api.call("DELETE", "/services/doomed/latest")).status, 202);
		t.match(await server.api.get("app"), { status: "Unknown", revision: 1, target: { revision: 2 } });
		t.equal((await server.api.get("doomed")).status, "Stopping");
		t.match(await server.api.get("late"), { status: /^(Pending|Building|Starting)$/ });
		// What was accepted outlives the server, too.
		await server.kill();
		server = await site.server();
		t.match(await server.api.get("app"), { target: { revision: 2 } });
		await site.dockerd.up();
		const back = Date.now();
		await until(async () => (await server.api.get("app")).revision === 2, "the update is done");
		t.match(await running(server.api, "app"), { revision: 2, url, error: null });
		t.ok(await answers(/^r2 /));
		t.match(await text((await running(server.api, "late")).url), /^probe /);
		await until(async () => (await server.api.find("doomed")) === undefined, "the deleted service is gone");
		t.comment(`all is done ${Date.now() - back} ms after the engine answers`);
		await until(async () => (await site.containers(doomed)).length === 0, "and its container");
		await until(async () => (await site.containers({ id })).length === 1, "the replaced revision is gone");
	});

	await t.test(
		"a base image that somebody removed comes back, and its services, with nobody doing anything",
		async (t) => {
			const { Config, Id } = await site.container({ id });
			await site.docker.getImage(Config.Image).remove({ force: true });
			await site.docker.getContainer(Id).kill();
			const killed = Date.now();
			await until(() => answers(/^r2 /), "it answers again");
			t.comment(`it answers ${Date.now() - killed} ms after its image and its container are gone`);
			t.match(await running(server.api, "app"), { revision: 2, url, error: null });
			await site.docker.getImage(Config.Image).inspect();
		},
	);

	await t.test("what a service waits for after its end is what its status says", async (t) => {
		const { Config, Id } = await site.container({ id });
		const image = Config.Image;
		const [repo = "", tag = ""] = image.split(":");
		// Of this name it is made again at once, unless something of this name cannot be started.
		await site.docker.getImage(image).tag({ repo: "kept", tag: "1" });
		await site.docker.getImage(image).remove({ force: true });
		const broken = await site.docker.createContainer({ Image: "kept:1", Entrypoint: ["/nothing"] });
		await broken.commit({ repo, tag, Entrypoint: ["/nothing"] });
		await broken.remove();
		await site.docker.getContainer(Id).kill();
		await until(
			async () => /could not be started/.test((await server.api.get("app")).error?.message ?? ""),
			"its status says what it waits for",
		);
		t.match(await server.api.get("app"), { status: "Starting", revision: 2, error: { code: "internal" } });
		await site.docker.getImage(image).remove({ force: true });
		await site.docker.getImage("kept:1").tag({ repo, tag });
		t.match(await running(server.api, "app"), { revision: 2, url, error: null });
		await until(() => answers(/^r2 /), "it answers again");
		await site.docker.getImage("kept:1").remove();
	});

	await t.test("a container that the engine cannot remove is in nobody's way", { skip: noAttributes }, async (t) => {
		const before = await site.container({ id });
		// As after a kill of the engine, which may leave a mount that it does not see any more: what it wants to delete is held.
		const { UpperDir: held = "" } = { ...before.GraphDriver.Data } as { UpperDir?: string };
		await command("chattr", "+i", held);
		t.teardown(() => command("chattr", "-i", held).catch(() => undefined));
		await site.docker.getContainer(before.Id).kill();
		const killed = Date.now();
		await until(
			async () => (await site.containers({ id })).some(({ Id, State }) => Id !== before.Id && State === "running"),
			"another one runs",
		);
		await until(() => answers(/^r2 /), "another one answers");
		t.match(await running(server.api, "app"), { revision: 2, url });
		t.comment(`another one answers ${Date.now() - killed} ms after the kill`);
		const [dead] = (await site.containers({ id })).filter(({ Id }) => Id === before.Id);
		t.match(dead, { State: /^(dead|removing)$/ });
		await command("chattr", "-i", held);
		await until(
			async () => (await site.containers({ id })).length === 1,
			"it is removed when that is possible",
			120_000,
		);
	});

	await t.test("its output is there, from before and after", async (t) => {
		const lines = (await server.api.entries("/services/app/latest/logs")).map(({ text }) => String(text));
		t.ok(lines.some((line) => /r1 [0-9a-f]{16} listening/.test(line)));
		t.ok(lines.some((line) => /r2 [0-9a-f]{16} listening/.test(line)));
	});

	await t.test("a server that starts while the engine is away serves its API, and then the rest", async (t) => {
		await server.stop();
		await site.dockerd.down();
		server = await site.server();
		t.match(await server.api.call("GET", "/services"), { status: 200 });
		await until(async () => (await server.api.get("app")).status === "Unknown", "it is Unknown");
		await site.dockerd.up();
		await until(async () => (await server.api.get("app")).status === "Running", "it is Running again");
		t.match(await server.api.get("app"), { revision: 2, url });
		await until(() => answers(/^r2 /), "it answers");
	});
}
