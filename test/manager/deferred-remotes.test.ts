import path from "node:path";
import t, { type Test } from "tap";
import { AppError } from "../../src/errors.ts";
import { type RevisionRecord, revisionOf, type Wish } from "../../src/manager/model.ts";
import { commitOf, type OpenedSource, remoteOf } from "../../src/manager/remote-sources.ts";
import { serviceView } from "../../src/routes/service-view.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import { archiveOf } from "../fixtures/archive.ts";
import { named, TestCore } from "../harness/core.ts";
import { MARKER } from "../harness/fake-builder.ts";

const COMMIT = "89abcdef0123456789abcdef0123456789abcdef";
const SETTLED = `https://git.example/acme/mono.git@${COMMIT}`;
const TYPED = "git.example/acme/mono/new";
const unreachable = () => new AppError("unavailable", "the host does not answer", { field: "source" });

/** A core whose remotes' host does not answer at first; a repository with programs in `old`, `new` and its root. */
async function open(t: Test): Promise<{ core: TestCore; opened: (readonly [string, string | null])[] }> {
	const core = await TestCore.open(t);
	core.remotes.refusal = unreachable();
	const archive = await archiveOf({
		[MARKER]: "in the root",
		[`old/${MARKER}`]: "in old",
		[`new/${MARKER}`]: "in new",
	});
	const opened: (readonly [string, string | null])[] = [];
	core.remotes.opened = (source, commit) => {
		opened.push([source, commit]);
		const tree = openSourceTree({
			open: async () =>
				(async function* () {
					yield archive;
				})(),
			workFolder: path.join(core.folder, "work"),
		});
		return commit === null ? asDeferred(tree) : tree;
	};
	return { core, opened };
}

function asDeferred(tree: OpenedSource): OpenedSource {
	const url = "https://git.example/acme/mono.git";
	return {
		archiveType: tree.archiveType,
		archive: (call) => tree.archive(call),
		directory: (call) => tree.directory(call),
		[Symbol.asyncDispose]: () => tree[Symbol.asyncDispose](),
		pinned: async () => ({ source: SETTLED, url, folder: "new", ref: "main", commit: COMMIT }),
	};
}

async function record(core: TestCore, name: string, revision: number): Promise<RevisionRecord | undefined> {
	return revisionOf(await core.at(name, revision, "Running"), revision);
}

t.test("a deferred remote without an entrypoint is built in the folder that was typed", async (t) => {
	const { core } = await open(t);
	await core.manager.create("default", { name: "created", source: TYPED });
	t.match(await record(core, "created", 1), { source: SETTLED, entrypoint: "new" });
	t.same(core.builder.begun, ["in new"]);

	const before = await archiveOf({ [`old/${MARKER}`]: "uploaded" });
	const upload = (async function* () {
		yield before;
	})();
	const { id } = await core.manager.upload("default", upload, {
		signal: new AbortController().signal,
		maxBytes: 1024 ** 2,
	});
	await core.manager.create("default", { name: "updated", source: `source://${id}`, entrypoint: "old" });
	await core.at("updated", 1, "Running");
	await core.manager.update(named("updated"), { source: TYPED });
	t.match(await record(core, "updated", 2), { source: SETTLED, entrypoint: "new" });
	t.same(core.builder.begun, ["in new", "uploaded", "in new"]);
	core.remotes.opened = () => {
		throw unreachable();
	};
	await core.manager.update(named("updated"), { source: TYPED });
	t.match(
		revisionOf(await core.at("updated", 3, "Error"), 3),
		{ source: TYPED, entrypoint: "." },
		"not the old folder",
	);
});

t.test("an entrypoint that is given with a deferred remote is kept, `.` as well", async (t) => {
	const { core } = await open(t);
	await core.manager.create("default", { name: "app", source: TYPED, entrypoint: "." });
	t.match(await record(core, "app", 1), { source: SETTLED, entrypoint: ".", remote: { commit: COMMIT } });
	await core.manager.update(named("app"), { source: TYPED, entrypoint: "old" });
	t.match(await record(core, "app", 2), { source: SETTLED, entrypoint: "old" });
	await core.manager.update(named("app"), { source: TYPED, entrypoint: "." });
	t.match(await record(core, "app", 3), { source: SETTLED, entrypoint: "." });
	t.same(core.builder.begun, ["in the root", "in old", "in the root"]);
});

t.test(
	"a patch of what could not be settled yet: its own entrypoint counts, else the folder that was typed",
	async (t) => {
		const { core } = await open(t);
		const { opened } = core.remotes;
		for (const [name, patch, text, entrypoint] of [
			["env", { env: { A: "1" } }, "in new", "new"],
			["entrypoint", { entrypoint: "." }, "in the root", "."],
		] as const) {
			core.remotes.opened = () => {
				throw unreachable();
			};
			await core.manager.create("default", { name, source: TYPED });
			t.match(revisionOf(await core.at(name, 1, "Error"), 1), { error: { code: "unavailable" }, source: TYPED });
			core.remotes.opened = opened;
			await core.manager.update(named(name), patch);
			t.match(await record(core, name, 2), { source: SETTLED, entrypoint });
			t.equal(core.builder.begun.at(-1), text);
		}
	},
);

t.test("a deferred remote at a commit is not taken for a pinned one", async (t) => {
	const { core, opened } = await open(t);
	const { opened: opens } = core.remotes;
	core.remotes.opened = () => {
		throw unreachable();
	};
	const source = `https://${TYPED}@${COMMIT}`;
	await core.manager.create("default", { name: "app", source });
	const failed = await core.at("app", 1, "Error");
	t.match(serviceView(failed), { source, commit: null, entrypoint: "." });
	core.remotes.opened = opens;
	await core.manager.update(named("app"), { env: { A: "1" } });
	const built = await core.at("app", 2, "Running");
	t.same(opened, [[source, null]]);
	t.match(serviceView(built), { source: SETTLED, commit: COMMIT, entrypoint: "new" });
	await core.manager.update(named("app"), { entrypoint: "old" });
	t.match(await record(core, "app", 3), { source: SETTLED, entrypoint: "old", remote: { commit: COMMIT } });
	t.same(opened.at(-1), [SETTLED, COMMIT]);
	await core.manager.rollback(named("app"), 2);
	t.match(serviceView(await core.at("app", 4, "Running")), { source: SETTLED, commit: COMMIT, entrypoint: "new" });
});

t.test("records of before it was kept how far a remote is settled", async (t) => {
	const { core, opened } = await open(t);
	for (const [name, source, entrypoint, expected] of [
		["typed", TYPED, ".", [TYPED, null]],
		["pinned", SETTLED, "new", [SETTLED, COMMIT]],
	] as const) {
		core.builder.gate = () => new Promise(() => undefined);
		await core.manager.create("default", { name, source: TYPED });
		await core.at(name, 1, "Building");
		await core.restart(async () => {
			opened.length = 0;
			core.builder.gate = async () => undefined;
			const service = await core.store.get(named(name));
			const revisions = service?.revisions.map(({ remote: _, ...rest }) => ({ ...rest, source, entrypoint }));
			const value = JSON.stringify({ ...service, revisions });
			await core.database.commit([{ put: `service!default!${name}!latest`, value }]);
		});
		t.match(await record(core, name, 1), { source: SETTLED, entrypoint: "new" });
		t.same(opened, [expected]);
	}
	const wish = (source: string, entrypoint: string) => ({ source, entrypoint }) as Wish;
	t.same(remoteOf(wish(TYPED, ".")), { state: "deferred", entrypoint: "typed_folder" });
	t.same(remoteOf(wish(TYPED, "old")), { state: "deferred", entrypoint: "given" });
	t.equal(commitOf(wish(SETTLED, "x")), COMMIT);
	t.equal(commitOf(wish(`${TYPED}@${COMMIT}`, ".")), null, "only whole URLs were kept for pinned ones");
	t.equal(remoteOf(wish("source://x", ".")), null);
});
