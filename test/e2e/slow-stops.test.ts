import { writeFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { dataFolder, TestServer, until } from "../harness/server.ts";

/** More than the server looks after at the same time. */
const MANY = 20;
const QUICK = { health: { type: "none" }, restart: "never" } as const;

/** Does not hear SIGTERM, and ends once the gate is there. */
const DEAF = "web: trap '' TERM; echo deaf; while [ ! -e \"$GATE\" ]; do sleep 0.2; done; :";
const PLAIN = "web: echo plain; exec sleep 3600";

t.test("services that take their time to stop hold up no others", { timeout: 280_000 }, async (t) => {
	const dataDir = await dataFolder(t);
	const args = ["--profile", "dev", "--stop-services", "--stop-grace", "600"];
	const server = await TestServer.start({ dataDir, args });
	const gate = path.join(dataDir, "gate");
	t.teardown(async () => {
		await writeFile(gate, "");
		await server.stop();
	});
	const { api } = server;
	const make = async (name: string, procfile: string) => {
		const source = await api.uploadFiles({ Procfile: procfile });
		const answer = await api.call("POST", "/services", { name, source, env: { GATE: gate }, ...QUICK });
		if (answer.status !== 201) throw new Error(`${name}: ${answer.status} ${JSON.stringify(answer.body)}`);
	};
	const names = Array.from({ length: MANY }, (_, index) => `deaf${index}`);
	await make("quick", PLAIN);
	for (let index = 0; index < MANY; index += 4)
		await Promise.all(names.slice(index, index + 4).map((name) => make(name, DEAF)));
	const states = () => Promise.all(names.map(async (name) => (await api.get(name)).status));
	for (const name of names) {
		await until(
			async () => (await api.entries(`/services/${name}/latest/logs`)).some(({ text }) => text === "deaf"),
			`${name} does not hear SIGTERM`,
		);
		t.equal((await api.call("POST", `/services/${name}/latest/stop`)).status, 202);
	}
	await until(async () => (await states()).every((status) => status === "Stopping"), "all of them are being stopped");

	t.equal((await api.call("POST", "/services/quick/latest/stop")).status, 202);
	await until(async () => (await api.get("quick")).status === "Stopped", "another one is stopped");
	t.equal((await api.call("POST", "/services/quick/latest/start")).status, 202);
	await until(async () => (await api.get("quick")).status === "Running", "and started");
	await make("new", PLAIN);
	t.equal((await api.get("new")).status, "Running", "and a new one runs");
	t.same(await states(), Array(MANY).fill("Stopping"), "while they were at it all the time");

	await writeFile(gate, "");
	await until(async () => (await states()).every((status) => status === "Stopped"), "they end when they like");
});
