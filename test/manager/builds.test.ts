import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import t, { type Test } from "tap";
import { AppError } from "../../src/errors.ts";
import { Database } from "../../src/leveldb/database.ts";
import { Builds } from "../../src/manager/builds.ts";
import { Bulletin } from "../../src/manager/bulletin.ts";
import { Draft } from "../../src/manager/draft.ts";
import { Editor } from "../../src/manager/editor.ts";
import { FileBuildLogs } from "../../src/manager/file-build-logs.ts";
import { LevelServiceStore } from "../../src/manager/level-store.ts";
import type { Maker } from "../../src/manager/maker.ts";
import { revisionOf } from "../../src/manager/model.ts";
import type { Commit, ServiceStore } from "../../src/manager/store.ts";
import { WISH } from "../conformance/service-store.ts";
import { named, TestCore, until } from "../harness/core.ts";
import { FakeLauncher } from "../harness/fake-launcher.ts";

const never = { signal: new AbortController().signal };

const builds = async (core: TestCore) => (await core.blobKeys()).filter((key) => key.includes("/build/"));

/** Does something once, in the moment in which the next blob has been stored and whoever stored it does not know yet. */
function onceStored(core: TestCore, action: () => Promise<unknown>): void {
	let calls = 0;
	core.life.pace = async (name) => {
		if (name !== "blobs.put" || ++calls !== 2) return;
		await action();
	};
}

t.test("a build that was cancelled or superseded while it was stored is removed", async (t) => {
	const core = await TestCore.open(t);
	const first = await core.upload("1");
	const second = await core.upload("2");
	onceStored(core, () => core.manager.cancel(named("app")));
	const { service } = await core.manager.create("default", { name: "app", source: first });
	await core.at("app", 1, "Error");
	await until(
		async () => (await builds(core)).length === 0,
		() => "the build of what was cancelled is removed",
	);
	onceStored(core, () => core.manager.update(named("app"), { source: second }));
	await core.manager.update(named("app"), { source: first });
	await core.at("app", 3, "Running");
	t.match(revisionOf(await core.at("app", 2, "Error"), 3), { build: { revision: 3 } });
	await until(
		async () => (await builds(core)).length === 1,
		() => "the build of what was superseded is removed",
	);
	t.same(await builds(core), [`default/build/${service.id}/3`]);
});

t.test("a removal that fails is said, and made good by the next start", async (t) => {
	const core = await TestCore.open(t);
	const source = await core.upload("1");
	onceStored(core, () => core.manager.cancel(named("app")));
	let deletions = 0;
	// The first one makes room for the build.
	core.life.fault = (name) => (name === "blobs.delete" && ++deletions > 1 ? "fail_before" : "none");
	await core.manager.create("default", { name: "app", source });
	await core.at("app", 1, "Error");
	await until(
		() => core.logged.some(({ message }) => message === "a build that nobody wants could not be removed"),
		() => "it is logged",
	);
	await core.restart();
	t.same(await builds(core), []);
});

t.test("the folder of what was cancelled in the synchronous flow goes as well", async (t) => {
	const launcher = new FakeLauncher();
	const core = await TestCore.open(t, { launchers: [launcher] });
	const source = await core.upload("1");
	const { service } = await core.changes.create("default", { name: "app", source }, {}, never);
	let once = false;
	// Prepared, but not recorded yet.
	core.life.pace = async (name) => {
		if (name !== "store.commit" || once || launcher.prepared.length < 2) return;
		once = true;
		await core.manager.cancel(named("app"));
	};
	const update = core.changes.update(named("app"), { source: await core.upload("2") }, {}, never);
	await t.rejects(update, { message: /cancelled/ });
	await until(
		async () => (await core.directories.revisions(service.id)).length === 1,
		() => "the folder is removed",
	);
	t.same(await core.directories.revisions(service.id), [1]);
});

/** Builds over real records; `maker` notes what it is asked. */
async function open(
	t: Test,
	commit: (commit: Commit, store: ServiceStore) => Promise<void>,
	remove: () => Promise<void> = async () => undefined,
) {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-builds-"));
	const store = new LevelServiceStore(await Database.open(path.join(folder, "records")));
	t.teardown(async () => {
		await store[Symbol.asyncDispose]();
		await rm(folder, { recursive: true, force: true });
	});
	const pending = async (id: string, name: string) => {
		const draft = Draft.create(
			{ id, namespace: "default", name, version: "latest", metadata: {} },
			"2026-01-02T03:04:05.678Z",
		);
		draft.add(WISH, null);
		const { service, ...rest } = draft.commit();
		await store.commit({ service, ...rest });
		return service;
	};
	const service = await pending("id-1", "app");
	const second = await pending("id-2", "other");
	const done: string[] = [];
	const build = { sha256: "0".repeat(64), size: 1, builder: "fake", requires: "none", revision: 1 } as const;
	const maker: Maker = {
		make: async () => {
			done.push("made");
			return { build, launch: null };
		},
		discard: async () => {
			done.push("discarded");
		},
	};
	const quiet = () => undefined;
	const seen = withCommit(store, commit);
	const tree = {
		archiveType: "targz" as const,
		archive: () => Promise.reject(new Error("nobody needs it")),
		directory: async () => folder,
		[Symbol.asyncDispose]: remove,
	};
	const warned: string[] = [];
	const all = new Builds(
		{
			store: seen,
			editor: new Editor(seen, new Bulletin(), () => new Date(), 5),
			maker,
			buildLogs: new FileBuildLogs(path.join(folder, "logs"), { maxBytes: 1024 }),
			openSource: () => tree,
			log: { info: quiet, warn: (_, message) => void warned.push(message), error: quiet },
		},
		{ parallel: 1, timeoutMs: 60_000 },
	);
	const ended = new Promise<unknown>((resolve) => all.start(service, 1, resolve));
	const other = () => new Promise<unknown>((resolve) => all.start(second, 1, resolve));
	return { all, store, done, ended, other, warned };
}

t.test(
	"nobody waits for the removal of what a build leaves, but the next build and who stops the server",
	async (t) => {
		const gate = Promise.withResolvers<void>();
		const removed: (string | undefined)[] = [];
		const { all, store, ended, other, done } = await open(
			t,
			async (commit, store) => store.commit(commit),
			async () => {
				removed.push((await store.revision("id-1", 1))?.status);
				await gate.promise;
			},
		);
		t.equal(await ended, undefined);
		await until(
			async () => removed.length === 1,
			() => "it is removed",
		);
		t.same(removed, ["Starting"], "after it was recorded");
		// The one slot is not free.
		const next = other().then(() => "ended");
		t.equal(await Promise.race([next, delay(100, "waits")]), "waits");
		t.same(done, ["made"]);
		const stopped = all.shutdown().then(() => "stopped");
		t.equal(await next, "ended");
		t.equal(await Promise.race([stopped, delay(100, "waits")]), "waits");
		gate.resolve();
		t.equal(await stopped, "stopped");
		t.same(done, ["made"], "what waited was not begun");
	},
);

t.test("what cannot be removed is said, and the build stands", async (t) => {
	const { all, store, ended, warned } = await open(
		t,
		async (commit, store) => store.commit(commit),
		() => Promise.reject(new Error("in use")),
	);
	t.equal(await ended, undefined);
	await all.shutdown();
	t.match(await store.revision("id-1", 1), { status: "Starting", build: { revision: 1 } });
	t.match(warned, [/temporary files of a build could not be removed/]);
});

t.test("what an unanswered commit recorded is kept, however its retry ends", async (t) => {
	for (const [code, failed] of [
		["conflict", false],
		["unavailable", true],
	] as const) {
		const { store, done, ended } = await open(t, async (commit, store) => {
			await store.commit(commit);
			if (commit.service.revisions[0]?.status === "Starting") throw new AppError(code, "who knows");
		});
		t.equal((await ended) !== undefined, failed, code);
		t.same(done, ["made"], "and not discarded");
		t.match(await store.revision("id-1", 1), { status: "Starting", build: { revision: 1 } });
	}
});

/** A store with another `commit`. */
function withCommit(store: ServiceStore, commit: (commit: Commit, store: ServiceStore) => Promise<void>): ServiceStore {
	return new Proxy(store, {
		get: (target, property) => {
			if (property === "commit") return (change: Commit) => commit(change, target);
			const member: unknown = Reflect.get(target, property);
			return typeof member === "function" ? member.bind(target) : member;
		},
	});
}
