import { readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import t, { type Test } from "tap";
import { BuildError } from "../../src/builders/builder.ts";
import { AppError, systemCode } from "../../src/errors.ts";
import { revisionOf, sourceKey } from "../../src/manager/model.ts";
import { specOf } from "../../src/manager/spec.ts";
import { RevisionFailed } from "../../src/manager/synchronous.ts";
import type { RuntimeFailure } from "../../src/runtimes/runtime.ts";
import { Directories } from "../../src/sources/directories.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import { type CoreOptions, named, TestCore, until } from "../harness/core.ts";
import { MARKER } from "../harness/fake-builder.ts";
import { FakeLauncher } from "../harness/fake-launcher.ts";

const never = { signal: new AbortController().signal };
const EXITED: RuntimeFailure = { code: "exited", message: "exited with code 3", exitCode: 3, lastLines: ["boom"] };

async function open(t: Test, options: CoreOptions = {}): Promise<{ core: TestCore; launcher: FakeLauncher }> {
	const launcher = new FakeLauncher();
	return { core: await TestCore.open(t, { launchers: [launcher], ...options }), launcher };
}

async function names(folder: string): Promise<string[]> {
	try {
		return await readdir(folder);
	} catch (error) {
		if (systemCode(error) === "ENOENT") return [];
		throw error;
	}
}

/** What is left of services: records, folders, unpacked sources, logs, and what the runtime holds. */
async function remains(core: TestCore): Promise<string[]> {
	const found: string[] = [];
	for await (const { name } of core.store.all()) found.push(`record ${name}`);
	for await (const { id } of core.runtime.list(never)) found.push(`runtime ${id}`);
	for (const folder of ["directories", "work", "build-logs"])
		for (const name of await names(path.join(core.folder, folder))) found.push(`${folder}/${name}`);
	return found;
}

const nothing = (core: TestCore) => {
	let last: string[] = [];
	return until(
		async () => {
			last = await remains(core);
			return last.length === 0;
		},
		() => `nothing is left; there is ${last.join(", ")}`,
	);
};

/** The texts of the sources that can still be used. */
async function kept(core: TestCore): Promise<string[]> {
	const texts: string[] = [];
	for await (const { namespace, id, collected } of core.store.sources()) {
		if (collected) continue;
		const call = { ...never, log: () => undefined };
		await using tree = openSourceTree({
			open: () => core.blobs.in(namespace).get(sourceKey(id), never),
			workFolder: path.join(core.folder, "work"),
		});
		texts.push(await readFile(path.join(await tree.directory(call), MARKER), "utf8"));
	}
	return texts.sort();
}

const failed = async (work: Promise<unknown>): Promise<RevisionFailed> => {
	const error: unknown = await work.then(
		() => undefined,
		(reason: unknown) => reason,
	);
	if (error instanceof RevisionFailed) return error;
	throw new Error(`it did not fail as a revision does: ${error}`);
};

t.test("a create is answered when it runs; until then nobody sees it, and its name is taken", async (t) => {
	const { core, launcher } = await open(t);
	const gate = Promise.withResolvers<void>();
	launcher.gate = () => gate.promise;
	const source = await core.upload("hello");
	const creating = core.changes.create("default", { name: "app", source, env: { A: "1" } }, {}, never);
	await until(
		() => launcher.active.length === 1,
		() => "it is being prepared",
	);
	await t.rejects(core.queries.get(named("app")), { code: "not_found" });
	await t.rejects(core.manager.remove(named("app")), { code: "not_found" });
	t.same((await core.queries.list("default", { matches: () => true }, 10, null)).services, []);
	await t.rejects(core.changes.create("default", { name: "app", source }, {}, never), {
		code: "conflict",
		message: "app:latest is being created",
		hint: /[Ww]ait for it/,
	});
	await t.rejects(core.changes.put(named("app"), { source }, {}, never), { code: "conflict" });
	await t.rejects(core.changes.update(named("app"), { env: { A: "2" } }, {}, never), { code: "not_found" });
	gate.resolve();
	const { service, settled, revision } = await creating;
	t.match({ settled, revision, live: service.live }, { settled: true, revision: 1, live: 1 });
	t.equal(revisionOf(service, 1)?.status, "Running");
	t.match(core.runtime.servedAt(service.url ?? ""), {
		env: { A: "1" },
		program: { kind: "directory", path: core.directories.path(service.id, 1), command: ["run", "hello"] },
	});
	t.equal((await core.queries.get(named("app"))).id, service.id);
	await core.crash();
	await core.at("app", 1, "Running");
	t.same(launcher.prepared, ["hello"], "prepared once");
});

t.test("what does not build or start is in the answer, and nothing of it is left", async (t) => {
	const { core, launcher } = await open(t);
	const build = await failed(
		core.changes.create("default", { name: "app", source: await core.upload("!no") }, {}, never),
	);
	t.match(build, { code: "build_failed", error: { code: "build_failed", phase: "build", exitCode: 1 } });
	t.same(build.error.diagnostics, [{ file: "main.fake", line: 1, column: 1, message: "no" }]);
	t.same(await remains(core), [], "already when it is answered");
	const source = await core.upload("fine");
	core.runtime.outcome = () => ({ kind: "fail", failure: EXITED });
	const start = await failed(core.changes.create("default", { name: "app", source }, {}, never));
	t.match(start.error, { code: "exited", phase: "start", exitCode: 3, lastLines: ["boom"] });
	t.same(await remains(core), []);
	const empty = await failed(core.changes.create("default", { name: "app", source, entrypoint: "nowhere" }, {}, never));
	t.match(empty.error, { code: "source_invalid", message: /main\.fake/ });
	t.same(await remains(core), []);
	core.runtime.outcome = () => ({ kind: "ready" });
	await core.changes.create("default", { name: "app", source }, {}, never);
	t.equal((await core.queries.get(named("app"))).newest, 1, "the name can be used at once");
	t.same(launcher.active, []);
});

t.test("a caller that goes away leaves nothing, whatever was being done", async (t) => {
	for (const where of ["preparing", "starting"] as const) {
		const { core, launcher } = await open(t);
		if (where === "preparing") launcher.gate = () => new Promise(() => undefined);
		else core.runtime.outcome = () => ({ kind: "hang" });
		const source = await core.upload("x");
		const caller = new AbortController();
		const creating = core.changes.create("default", { name: "app", source }, {}, caller);
		await until(
			() =>
				where === "preparing"
					? launcher.active.length > 0
					: core.runtime.calls.some((call) => call.startsWith("apply")),
			() => where,
		);
		caller.abort();
		await t.rejects(creating, { code: "cancelled" }, where);
		await nothing(core);
		t.same(launcher.active, [], "no tool goes on");
	}
});

t.test("past the time limit: `deadline`, and nothing is left", async (t) => {
	const { core, launcher } = await open(t, { synchronousTimeoutMs: 50 });
	launcher.gate = () => new Promise(() => undefined);
	const source = await core.upload("x");
	await t.rejects(core.changes.create("default", { name: "app", source }, {}, never), { code: "deadline" });
	t.same(await remains(core), []);
	launcher.gate = async () => undefined;
	core.runtime.outcome = () => ({ kind: "hang" });
	await t.rejects(core.changes.create("default", { name: "app", source }, {}, never), { code: "deadline" });
	t.same(await remains(core), []);
});

t.test("a crash leaves nothing of what was being created, and all of what was answered", async (t) => {
	for (const point of ["store.commit", "runtime.apply", "runtime.observe"] as const)
		for (const fault of ["die_before", "die_after"] as const)
			for (const hit of [1, 2, 3, 4, 5]) {
				const { core } = await open(t, { synchronousTimeoutMs: 3000 });
				const source = await core.upload("x");
				let calls = 0;
				core.life.fault = (name) => (name === point && ++calls === hit ? fault : "none");
				const { life } = core;
				let answered = false;
				const caller = new AbortController();
				void core.changes.create("default", { name: "app", source }, {}, caller).then(
					() => {
						answered = true;
					},
					() => undefined,
				);
				await Promise.race([
					life.died,
					until(
						() => answered,
						() => "it is answered",
					),
				]);
				await core.crash();
				caller.abort();
				if (answered) await core.at("app", 1, "Running");
				else {
					const revealed = async () => {
						const service = await core.store.get(named("app"));
						return service !== undefined && service.hidden !== true && service.desired === "running";
					};
					// The commit that reveals it is the last; past it, it is there although nobody was told.
					if (await revealed()) await core.at("app", 1, "Running");
					else await nothing(core);
				}
			}
	t.pass("thirty crashes");
});

t.test(
	"whatever a commit comes to, a create that was refused is all there or leaves nothing, without a restart",
	async (t) => {
		const ends = new Set<string>();
		for (const fault of ["fail_before", "fail_after"] as const)
			for (const hit of [1, 2, 3, 4, 5, 6]) {
				const { core } = await open(t);
				const source = await core.upload("x");
				const once = { key: "k", hash: "h" };
				let calls = 0;
				core.life.fault = (name) => (name === "store.commit" && ++calls === hit ? fault : "none");
				const create = () => core.changes.create("default", { name: "app", source }, { once }, never);
				const answered = await create().then(
					() => true,
					() => false,
				);
				const service = await core.store.get(named("app"));
				const stands = service !== undefined && service.hidden !== true && service.desired === "running";
				if (stands) t.match(await create(), { replayed: true, service: { id: service.id } }, `${fault} ${hit}`);
				else await nothing(core);
				if (answered) t.ok(stands, `${fault} ${hit}: what was answered is there`);
				ends.add(`${fault} ${answered ? "answered" : "refused"} ${stands ? "there" : "gone"}`);
			}
		for (const end of ["fail_before refused gone", "fail_after refused gone", "fail_after refused there"])
			t.ok(ends.has(end), `${end} was seen`);
	},
);

t.test("what cannot be removed at once is removed when it can", async (t) => {
	const { core, launcher } = await open(t);
	launcher.gate = () => new Promise(() => undefined);
	const source = await core.upload("x");
	const caller = new AbortController();
	const creating = core.changes.create("default", { name: "app", source }, {}, caller);
	await until(
		() => launcher.active.length === 1,
		() => "it is being prepared",
	);
	let failures = 0;
	core.life.fault = (name) => (name === "store.commit" && ++failures <= 8 ? "fail_before" : "none");
	caller.abort();
	await t.rejects(creating, { code: "cancelled" });
	await nothing(core);
	t.ok(failures > 8, "it was tried again");
});

t.test("a failed update is an answer, and what served goes on; so it does when the caller leaves", async (t) => {
	const { core, launcher } = await open(t);
	const source = await core.upload("1");
	const { service } = await core.changes.create("default", { name: "app", source }, {}, never);
	const url = service.url ?? "";
	const bad = await failed(core.changes.update(named("app"), { source: await core.upload("!no") }, {}, never));
	t.equal(bad.error.diagnostics.length, 1);
	t.equal(core.runtime.servedAt(url)?.revision, 1);
	t.match(revisionOf(await core.queries.get(named("app")), 2), { status: "Error", error: { code: "build_failed" } });
	const good = await core.changes.update(named("app"), { source: await core.upload("3") }, {}, never);
	t.match({ settled: good.settled, live: good.service.live }, { settled: true, live: 3 });
	const caller = new AbortController();
	launcher.gate = () => new Promise(() => undefined);
	const leaving = core.changes.update(named("app"), { source: await core.upload("4") }, {}, caller);
	await until(
		() => launcher.active.length === 1,
		() => "it is being prepared",
	);
	caller.abort();
	await t.rejects(leaving, { code: "cancelled" });
	t.match(revisionOf(await core.at("app", 4, "Error"), 4)?.error, { code: "cancelled", phase: "build" });
	t.equal(core.runtime.servedAt(url)?.revision, 3);
	launcher.gate = async () => undefined;
	const meta = await core.changes.update(named("app"), { metadata: { note: "x" } }, {}, never);
	t.match({ revised: meta.revised, newest: meta.service.newest }, { revised: false, newest: 4 });
	const back = await core.changes.rollback(named("app"), 1, {}, never);
	t.match(core.runtime.servedAt(url), { revision: 5, program: { command: ["run", "1"] } });
	t.equal(back.service.live, 5);
	await core.at("app", 3, "Stopped");
	await core.collector.collect(never);
	t.same(await core.directories.revisions(service.id), [5], "folders live as long as their revisions");
	await core.manager.remove(named("app"));
	await nothing(core);
});

t.test("a folder that is gone, or was not finished, is made again from the source", async (t) => {
	const { core, launcher } = await open(t);
	const source = await core.upload("x");
	const { service } = await core.changes.create("default", { name: "app", source }, {}, never);
	const folder = core.directories.path(service.id, 1);
	await core.manager.restart(named("app"));
	await core.reach("app", (one) => revisionOf(one, 1)?.status === "Running", "Running");
	t.equal(launcher.prepared.length, 1, "not while it is there");
	await rm(folder, { recursive: true });
	await core.manager.restart(named("app"));
	await until(
		() => core.runtime.servedAt(service.url ?? "")?.generation === 3,
		() => "it was started anew",
	);
	t.equal(launcher.prepared.length, 2);
	t.same(await names(folder), ["main.fake"]);
	await core.at("app", 1, "Running");
	// A crash between unpacking and preparing.
	await rm(folder, { recursive: true });
	launcher.gate = () => new Promise(() => undefined);
	await core.manager.restart(named("app"));
	await until(
		() => launcher.active.length === 1,
		() => "it is being made again",
	);
	const { life } = core;
	life.die();
	launcher.gate = async () => undefined;
	t.same(await names(folder), ["main.fake"], "half of it is there");
	t.notOk(await core.directories.exists(service.id, 1));
	await core.crash();
	await until(
		() => core.runtime.servedAt(service.url ?? "")?.generation === 4,
		() => "it was made again and started",
	);
	t.equal(launcher.prepared.length, 4);
});

t.test("an idempotency key answers a create again once it ran, and lets a failed one be tried again", async (t) => {
	const { core, launcher } = await open(t);
	const once = { key: "k", hash: "h" };
	const source = await core.upload("x");
	core.runtime.outcome = () => ({ kind: "fail", failure: EXITED });
	await failed(core.changes.create("default", { name: "app", source }, { once }, never));
	core.runtime.outcome = () => ({ kind: "ready" });
	const first = await core.changes.create("default", { name: "app", source }, { once }, never);
	const again = await core.changes.create("default", { name: "app", source }, { once }, never);
	t.match(again, { replayed: true, settled: true, service: { id: first.service.id, newest: 1 } });
	const update = { key: "u", hash: "u" };
	const change = { source: await core.upload("!no") };
	const one = await failed(core.changes.update(named("app"), change, { once: update }, never));
	const two = await failed(core.changes.update(named("app"), change, { once: update }, never));
	t.same(two.error, one.error, "a failed update fails again, and is not made again");
	t.equal((await core.queries.get(named("app"))).newest, 2);
	t.equal(launcher.prepared.length, 3);
});

t.test(
	"a change for which nobody waits any more, or that failed for a passing reason, is made anew by its key",
	async (t) => {
		const { core, launcher } = await open(t);
		const source = await core.upload("1");
		await core.changes.create("default", { name: "app", source }, {}, never);
		const hold = () => {
			const gate = Promise.withResolvers<void>();
			launcher.gate = () => gate.promise;
			return gate;
		};
		const preparing = (text: string) =>
			until(
				() => launcher.active.includes(text),
				() => `${text} is being prepared`,
			);
		const patch = async (text: string) => {
			const change = { source: await core.upload(text) };
			const once = { key: `key ${text}`, hash: text };
			return (call = never) => core.changes.update(named("app"), change, { once }, call);
		};

		const two = await patch("2");
		let gate = hold();
		const first = new AbortController();
		const lost = two({ signal: first.signal });
		await preparing("2");
		first.abort();
		await t.rejects(lost, { code: "cancelled" });
		gate.resolve();
		t.match(await two(), { replayed: false, settled: true, revision: 3, service: { live: 3 } }, "made anew");
		t.match(await two(), { replayed: true, settled: true, revision: 3 });

		const four = await patch("4");
		gate = hold();
		const gone = new AbortController();
		const leaving = four({ signal: gone.signal });
		await preparing("4");
		let reads = 0;
		core.life.fault = (name) => {
			if (name === "store.getById") reads++;
			return "none";
		};
		const staying = four();
		const third = four();
		await until(
			() => reads >= 4,
			() => "the others have come",
		);
		gone.abort();
		await t.rejects(leaving, { code: "cancelled" });
		gate.resolve();
		for (const answer of [await staying, await third])
			t.match(answer, { settled: true, service: { live: answer.revision } }, "who stays is answered");
		const { newest, id } = await core.queries.get(named("app"));

		const five = await patch("5");
		launcher.gate = async () => {
			throw new BuildError("unavailable", "the registry cannot be reached");
		};
		t.match(await failed(five()), { code: "unavailable", error: { retryable: true } });
		launcher.gate = async () => undefined;
		t.match(await five(), { replayed: false, revision: newest + 2 }, "a passing reason");
		const failure: RuntimeFailure = { ...EXITED, code: "crash_loop" };
		core.runtime.become(id, newest + 2, "failed", failure);
		await core.at("app", newest + 2, "Error");
		t.match(await five(), { replayed: true, revision: newest + 2 }, "what ran was made, whatever became of it");

		const ten = await patch("10");
		const answers = await Promise.all(Array.from({ length: 10 }, () => ten()));
		t.same([...new Set(answers.map(({ revision }) => revision))], [newest + 3], "ten at once make one");
		t.equal(answers.filter(({ replayed }) => !replayed).length, 1);
	},
);

t.test("the newest sources that ran are kept to go back to, and what is gone is `gone`", async (t) => {
	const { core } = await open(t, { sourceAgeMs: -1, keepBuilds: 3 });
	const source = await core.upload("1");
	const { service } = await core.changes.create("default", { name: "app", source }, {}, never);
	for (let number = 2; number <= 5; number++)
		await core.changes.update(named("app"), { source: await core.upload(`${number}`) }, {}, never);
	await failed(core.changes.update(named("app"), { source: await core.upload("!6") }, {}, never));
	await core.changes.update(named("app"), { env: { A: "7" } }, {}, never);
	await core.reach("app", ({ revisions }) => revisions.length === 1, "what it replaced has ended");
	t.equal((await core.collector.collect(never)).sources, 3, "1 and 2, and 6, which never ran");
	t.same(await kept(core), ["3", "4", "5"]);
	for (const revision of [1, 2])
		await t.rejects(core.changes.rollback(named("app"), revision, {}, never), {
			...{ code: "gone", field: "revision" },
			hint: /[Uu]pload/,
		});
	t.equal((await core.queries.get(named("app"))).newest, 7, "nothing was made");
	await core.changes.rollback(named("app"), 3, {}, never);
	t.match(core.runtime.servedAt(service.url ?? ""), { revision: 8, program: { command: ["run", "3"] } });
	await core.manager.remove(named("app"));
	await core.gone("app");
	await core.collector.collect(never);
	t.same(await core.blobKeys(), []);
});

t.test("an error of the server's own keeps its words to the log", async (t) => {
	const { core } = await open(t);
	const source = await core.upload("1");
	const { apply } = core.runtime;
	core.runtime.apply = async () => {
		throw new AppError("internal", "EACCES: /secret/place");
	};
	const start = await failed(core.changes.create("default", { name: "app", source }, {}, never));
	t.match(start, { code: "internal", error: { code: "internal", phase: "start", retryable: true } });
	t.notMatch(JSON.stringify(start.error), /secret/);
	core.runtime.apply = apply;
	await core.changes.create("default", { name: "other", source }, {}, never);
	for (const [code, words] of [
		["internal", "it could not be started; the server's log says why"],
		["not_found", "it could not be started; the server's log says why"],
		["no_space", "the server's disk is full"],
		["conflict", "EACCES: /secret/place"],
	] as const) {
		core.runtime.apply = async () => {
			throw new AppError(code, "EACCES: /secret/place");
		};
		await failed(core.changes.update(named("other"), { env: { CODE: code } }, {}, never));
		const { newest, revisions } = await core.queries.get(named("other"));
		t.equal(revisions.find(({ revision }) => revision === newest)?.error?.message, words, `${code}, as it is kept`);
	}
	core.runtime.apply = apply;
	core.runtime.outcome = () => ({ kind: "fail", failure: { ...EXITED, code: "internal", message: "spawn /secret" } });
	const run = await failed(core.changes.create("default", { name: "app", source }, {}, never));
	t.match(run, { code: "internal", message: /secret/, error: { exitCode: 3, lastLines: ["boom"] } }, "the log has it");
	t.notMatch(JSON.stringify(run.error), /secret/);
	core.runtime.outcome = () => ({ kind: "fail", failure: EXITED });
	const exited = await failed(core.changes.create("default", { name: "app", source }, {}, never));
	t.match(exited.error, { code: "exited", message: EXITED.message }, "others keep theirs");
});

t.test("how to run a folder does not say where it lies: the data folder may move", async (t) => {
	const launcher = new FakeLauncher();
	const prepare = launcher.prepare.bind(launcher);
	launcher.prepare = async (root, options, call) => {
		const command = [path.join(root, ".runtime", "program"), "-c", `PATH='${root}/bin':"$PATH" run`];
		return { ...(await prepare(root, options, call)), command };
	};
	const core = await TestCore.open(t, { launchers: [launcher] });
	const source = await core.upload("1");
	const { service } = await core.changes.create("default", { name: "app", source }, {}, never);
	const program = (root: string) => ({
		...{ kind: "directory", path: root },
		command: [`${root}/.runtime/program`, "-c", `PATH='${root}/bin':"$PATH" run`],
	});
	t.match(core.runtime.servedAt(service.url ?? ""), { program: program(core.directories.path(service.id, 1)) });
	t.notMatch(JSON.stringify(service), core.folder);
	const record = revisionOf(service, 1);
	if (record === undefined) throw new Error("it has no revision");
	const moved = specOf(service, record, { blobs: core.blobs, directories: new Directories("/else/$&/where") });
	t.same(moved?.program, program(`/else/$&/where/${service.id}/1`));
});
