import t, { type Test } from "tap";
import { cli } from "../../harness/cli.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { until } from "../../harness/server.ts";
import { BEHAVES, PROBE, probeSaying, running, Site } from "./site.ts";

const without = await Dockerd.missing();
if (without !== false) t.plan(0, without);
else {
	const site = await Site.open(t);
	let server = await site.server();
	await site.imagesMade();
	const behaves = await server.api.uploadFolder(BEHAVES);
	const before = await site.belongings();
	t.match(before, /image .*runtime-builds\/none/);

	const kill = (name: string) => cli(["kill", name], { cwd: site.dataDir, env: server.env });
	const nothingLeft = async (t: Test, name: string) => {
		t.equal(await server.api.find(name), undefined, "the CLI waited until it was gone");
		await site.untilAsBefore(before, 1_000);
		t.same(await site.belongings(), before);
	};
	const status = async (name: string) => (await server.api.find(name))?.status;

	await t.test("killed while it runs, with three instances", async (t) => {
		const run = await cli(["run", ".", "--name", "app", "--instances", "3"], {
			cwd: await site.project(PROBE),
			env: server.env,
		});
		t.equal(run.code, 0, run.stderr);
		t.equal((await site.containers()).length, 3);
		t.not(await site.belongings(), before);
		const { code, stderr } = await kill("app");
		t.equal(code, 0, stderr);
		await nothingLeft(t, "app");
	});

	await t.test("killed while it is built", async (t) => {
		const source = await server.api.uploadFiles(await probeSaying(`built at ${Date.now()}`));
		await server.api.create({ name: "app", source });
		await until(async () => (await status("app")) === "Building", "it is being built");
		t.equal((await kill("app")).code, 0);
		await nothingLeft(t, "app");
	});

	await t.test("killed while it starts", async (t) => {
		await server.api.create({ name: "app", source: behaves, args: ["hang"] });
		await until(async () => (await status("app")) === "Starting", "it starts");
		await until(async () => (await site.containers()).some(({ State }) => State === "running"), "its container runs");
		t.equal((await kill("app")).code, 0);
		await nothingLeft(t, "app");
	});

	await t.test("killed while it is being replaced", async (t) => {
		await server.api.create({ name: "app", source: behaves, args: ["serve"] });
		const first = await running(server.api, "app");
		await server.api.update("app", { args: ["hang"] });
		await until(async () => (await site.containers(first)).length === 2, "both revisions run");
		t.equal((await kill("app")).code, 0);
		await nothingLeft(t, "app");
	});

	await t.test("killed after a start that failed", async (t) => {
		await server.api.create({ name: "app", source: behaves, args: ["exit3"] });
		const service = await server.api.settled("app");
		t.match(service, { status: "Error", error: { code: "exited", exitCode: 3, lastLines: [/failing/] } });
		await until(async () => (await site.containers()).length === 0, "of what has failed there is no container");
		t.equal((await kill("app")).code, 0);
		await nothingLeft(t, "app");
	});

	await t.test("killed while it does not heed SIGTERM", async (t) => {
		await server.api.create({ name: "app", source: behaves, args: ["stubborn"] });
		await running(server.api, "app");
		t.equal((await kill("app")).code, 0);
		await nothingLeft(t, "app");
	});

	// While the program still has its grace, then at places where what was done and what is known of it differ.
	for (const point of [null, "manager.after_delete:1", "manager.runtime_removed:1"])
		await t.test(`the server is killed in the middle of a kill, ${point ?? "while the program ends"}`, async (t) => {
			if (point !== null) {
				await server.stop();
				server = await site.server({ RUNTIME_FAILPOINTS: `${point}=kill` });
			}
			await server.api.create({ name: "app", source: behaves, args: ["stubborn"] });
			await running(server.api, "app");
			const answer = server.api.call("DELETE", "/services/app/latest").catch(() => undefined);
			if (point === null) {
				t.match(await answer, { status: 202 });
				// It owns the containers: somebody else finds them half ended.
				process.kill(await site.companion(), "SIGKILL");
				await server.kill();
			} else {
				await until(() => server.child.signalCode === "SIGKILL", "the server killed itself");
				await answer;
			}
			server = await site.server();
			await until(async () => (await status("app")) === undefined, "it is gone");
			await nothingLeft(t, "app");
		});
}
