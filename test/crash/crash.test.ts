import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import t, { type Test } from "tap";
import { systemCode } from "../../src/errors.ts";
import { archiveOf } from "../fixtures/archive.ts";
import type { Service } from "../harness/api.ts";
import { processesUnder, programsUnder } from "../harness/processes.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { workIn } from "../harness/work-folder.ts";

/** Rounds of each kind of kill; the long form asks for more. */
const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 5);
/** Kinds to try, by a part of their name; for work on one of them. */
const ONLY = process.env.CRASH_KIND ?? "";
const PROBE = path.resolve(import.meta.dirname, "../fixtures/monorepo/probe");

type Round = { readonly t: Test; readonly server: TestServer; readonly source: string; readonly point: string };

/**
 * A kind of kill: what is ready before, what is done to the server that then dies, and what must be so afterwards. The
 * points are tried in turn; each is a place in the code, and which of its passages (`hit`) is the fatal one.
 */
type Kind = {
	readonly name: string;
	readonly points: readonly string[];
	/** Of the server. */
	readonly args?: readonly string[];
	readonly before?: (round: Round) => Promise<void>;
	/** Rejects when the server dies under it; resolves with whether the request was acknowledged. */
	readonly act: (round: Round) => Promise<boolean>;
	readonly after: (round: Round, acknowledged: boolean) => Promise<void>;
};

const running = async (round: Round, greeting: string): Promise<Service> => {
	const service = await round.server.api.settled("victim");
	round.t.match(service, { status: "Running", target: null, error: null }, JSON.stringify(service));
	round.t.match(await (await fetch(service.url ?? "")).text(), new RegExp(`^${greeting} `));
	return service;
};

const create = async ({ server, source }: Round, greeting: string): Promise<boolean> => {
	await server.api.create({ name: "victim", source, env: { GREETING: greeting }, metadata: { source: "." } });
	return true;
};

const DEV = ["--profile", "dev"];

/** After a kill in the middle of a create: it runs if it was acknowledged, and else it runs or was never there. */
const created = async (round: Round, acknowledged: boolean): Promise<void> => {
	const found = await round.server.api.find("victim");
	if (acknowledged || found !== undefined) await running(round, "one");
	else round.t.pass("not acknowledged, and not there");
};

const kinds: readonly Kind[] = [
	{
		name: "mid-upload",
		points: [
			"blob.half_written:1",
			"blob.after_fsync:1",
			"blob.after_rename:1",
			"manager.upload_stored:1",
			"blob.before_fsync:1",
		],
		act: async ({ server }) => {
			const answer = await server.api.send(
				new Uint8Array(await archiveOf({ "go.mod": "module x\n", "big.bin": noise() })),
			);
			return answer.status === 201;
		},
		after: async ({ t, server }, acknowledged) => {
			t.notOk(acknowledged, "no upload was acknowledged");
			t.same(await objects(server.dataDir), await objects(server.dataDir, 1), "one object: the source of before");
		},
	},
	{
		name: "Pending",
		points: ["manager.after_pending:1", "manager.before_pending:1"],
		act: (round) => create(round, "one"),
		after: created,
	},
	{
		name: "Building",
		points: ["manager.build_start:1", "manager.build_done:1", "manager.build_stored:1", "manager.build_recorded:1"],
		act: (round) => create(round, "one"),
		after: created,
	},
	{
		name: "Starting",
		points: ["manager.before_apply:1", "manager.after_apply:1", "manager.before_verdict:1", "manager.after_verdict:1"],
		act: (round) => create(round, "one"),
		after: created,
	},
	{
		name: "update",
		points: [
			"manager.after_update:1",
			"manager.before_apply:1",
			"manager.after_apply:1",
			"manager.before_verdict:1",
			"manager.before_update:1",
		],
		before: async (round) => {
			await create(round, "one");
			await running(round, "one");
		},
		act: async ({ server }) => {
			await server.api.update("victim", { env: { GREETING: "two" } });
			return true;
		},
		after: async (round, acknowledged) => {
			const service = await round.server.api.settled("victim");
			const updated = service.revision === 2;
			round.t.ok(updated || !acknowledged, "an acknowledged update is there");
			await running(round, updated ? "two" : "one");
		},
	},
	{
		name: "delete",
		points: [
			"manager.after_delete:1",
			"manager.runtime_removed:1",
			"manager.bytes_removed:1",
			"manager.record_removed:1",
			"manager.before_delete:1",
		],
		before: async (round) => {
			await create(round, "one");
			await running(round, "one");
		},
		act: async ({ server }) => (await server.api.call("DELETE", "/services/victim/latest")).status === 202,
		after: async (round, acknowledged) => {
			const { t, server } = round;
			const gone = async () => (await server.api.find("victim")) === undefined;
			const found = await server.api.find("victim");
			if (!acknowledged && found?.status === "Running") return void (await running(round, "one"));
			await until(gone, "the deleted service is gone");
			await until(async () => (await programsUnder(server.dataDir)).length === 0, "its program has ended");
			t.same(await objects(server.dataDir), await objects(server.dataDir, 1), "only the source is left");
		},
	},
	{
		name: "rollback",
		points: [
			"manager.after_update:1",
			"manager.before_apply:1",
			"manager.after_apply:1",
			"manager.before_verdict:1",
			"manager.before_update:1",
		],
		before: async (round) => {
			await create(round, "one");
			await running(round, "one");
			await round.server.api.update("victim", { env: { GREETING: "two" } });
			await running(round, "two");
		},
		act: async ({ server }) =>
			(await server.api.call("POST", "/services/victim/latest/rollback", { revision: 1 })).status === 202,
		after: async (round, acknowledged) => {
			const { revision } = await round.server.api.settled("victim");
			round.t.ok(revision === 3 || (revision === 2 && !acknowledged), "an acknowledged rollback is there");
			await running(round, revision === 3 ? "one" : "two");
			const log = await round.server.api.entries("/builds/victim/latest/log?revision=1");
			round.t.ok(
				log.length > 0 && (await objects(round.server.dataDir, 2)),
				"one source and one build: nothing was built",
			);
		},
	},
	{
		name: "synchronous create",
		args: DEV,
		points: [
			"manager.after_pending:1",
			"manager.folder_made:1",
			"manager.folder_prepared:1",
			"manager.before_apply:1",
			"manager.after_apply:1",
			"manager.before_reveal:1",
			"manager.after_reveal:1",
		],
		act: async ({ server, source }) => {
			const request = { name: "victim", source, env: { GREETING: "one" } };
			return (await server.api.call("POST", "/services", request)).status === 201;
		},
		after: async (round, acknowledged) => {
			const { t, server } = round;
			t.notOk(acknowledged, "nobody was told");
			const { dataDir } = server;
			if (round.point === "manager.after_reveal:1") {
				await running(round, "one");
				return;
			}
			t.equal(await server.api.find("victim"), undefined, "it is not there");
			await until(async () => (await programsUnder(dataDir)).length === 0, "its program has ended");
			for (const folder of ["directories", "build-logs"])
				await until(
					async () => (await readdir(path.join(dataDir, folder)).catch(() => [])).length === 0,
					`${folder} is empty`,
				);
			t.same(await objects(dataDir), await objects(dataDir, 1), "only the source is left");
			// What was half made is being removed; its name is free once that is done.
			const again = () => server.api.call("POST", "/services", { name: "victim", source: round.source });
			await until(async () => (await again()).status === 201, "its name is free");
		},
	},
];

function noise(): Uint8Array {
	const bytes = new Uint8Array(6 * 1024 * 1024);
	// Not to be compressed away: the upload has to be in the middle somewhere.
	let state = 1;
	for (let index = 0; index < bytes.length; index++) {
		state = (Math.imul(state, 1103515245) + 12345) >>> 0;
		bytes[index] = state >>> 24;
	}
	return bytes;
}

/** Names of stored object files; with a count, throws unless there are that many. */
async function objects(dataDir: string, expected?: number): Promise<string[]> {
	const names = await readdir(path.join(dataDir, "blobs", "objects"), { recursive: true, withFileTypes: true });
	const files = names.filter((entry) => entry.isFile()).map(({ name }) => name);
	if (expected !== undefined && files.length !== expected)
		throw new Error(`${files.length} objects instead of ${expected}: ${files.join(" ")}`);
	return files.sort();
}

async function round(t: Test, kind: Kind, point: string): Promise<void> {
	const dataDir = await dataFolder(t);
	const log = path.join(dataDir, "failpoints");
	const args = kind.args ?? [];
	let server = await TestServer.start({ dataDir, args });
	t.teardown(() => server.stop());
	const source = await server.api.uploadFolder(PROBE);
	const sources = { t, source, point };
	await kind.before?.({ ...sources, server });
	const runningBefore = await programsUnder(dataDir);
	await server.stop();

	server = await TestServer.start({
		...{ dataDir, args },
		env: { RUNTIME_FAILPOINTS: `${point}=kill`, RUNTIME_FAILPOINT_LOG: log },
	});
	const died = new Promise((resolve) => server.child.once("exit", (_code, signal) => resolve(signal)));
	const acknowledged = await kind.act({ ...sources, server }).catch(() => false);
	t.equal(await died, "SIGKILL", "the server was killed");
	t.match(
		await readFile(log, "utf8"),
		new RegExp(`^${point.replace(":", " ").replaceAll(".", "\\.")}$`, "m"),
		`${point} was reached`,
	);

	if (point === "manager.build_recorded:1")
		t.not((await workIn(dataDir)).length, 0, "what the build left is there yet");

	server = await TestServer.start({ dataDir, args });
	await kind.after({ ...sources, server }, acknowledged);

	const programs = await programsUnder(dataDir);
	const services = await server.api.call("GET", "/services");
	const shown = JSON.stringify(services.body);
	const runs = (shown.match(/"status":"Running"/g) ?? []).length;
	t.equal(programs.length, runs, `each running service has one program: ${JSON.stringify(programs)}`);
	if (kind.name === "update" && !runningBefore.length) t.fail("nothing ran before the update");
	t.same(await workIn(dataDir), [], "no temporary folder is left");
	// The companion may be writing its state this very moment.
	await until(async () => (await temporaryIn(dataDir)).length === 0, "no temporary file is left");
	t.equal(await server.stop(), 0);
	t.same(await readdir(path.join(dataDir, "work")), [], "nor one of the sandbox");
	await until(
		async () => (await processesUnder(dataDir)).every(({ command }) => !command.includes("go build")),
		"no build outlives the server",
	);
}

async function temporaryIn(dataDir: string): Promise<string[]> {
	const names = await readdir(dataDir, { recursive: true }).catch((error: unknown) => {
		// A folder that was removed while we looked: looked at again.
		if (systemCode(error) === "ENOENT") return ["looked.tmp"];
		throw error;
	});
	return names.filter((name) => /\.(tmp|temp|part|new)$/.test(name));
}

// Each round has a data folder of its own; most of its time it waits.
t.jobs = 2;
for (const kind of kinds.filter(({ name }) => name.includes(ONLY)))
	for (let index = 0; index < ROUNDS; index++) {
		const point = kind.points[index % kind.points.length] ?? "";
		t.test(`kill -9 in ${kind.name}, round ${index + 1}, at ${point}`, { buffered: true }, (t) =>
			round(t, kind, point),
		);
	}
