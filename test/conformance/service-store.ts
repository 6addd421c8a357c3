import type { Test } from "tap";
import { AppError, isAppError } from "../../src/errors.ts";
import { Draft } from "../../src/manager/draft.ts";
import type { ServiceRecord, Wish } from "../../src/manager/model.ts";
import { revisionError } from "../../src/manager/model.ts";
import type { ServiceStore } from "../../src/manager/store.ts";

export type Opened = {
	readonly store: ServiceStore;
	/** Closes the store and opens the same data again, as a restart does. */
	reopen(): Promise<Opened>;
	close(): Promise<void>;
};

const NOW = "2026-01-02T03:04:05.678Z";

export const WISH: Wish = {
	source: "source://s-1",
	entrypoint: ".",
	args: ["-addr", "$HOST:$PORT"],
	env: { KEY: "a=b" },
	health: { type: "port", path: "/", timeout: 60 },
	restart: "on-failure",
	instances: 1,
};

let ids = 0;

async function add(store: ServiceStore, namespace: string, name: string, version = "latest"): Promise<ServiceRecord> {
	const draft = Draft.create({ id: `id-${++ids}`, namespace, name, version, metadata: {} }, NOW);
	draft.add(WISH, null);
	const commit = draft.commit();
	await store.commit(commit);
	return commit.service;
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
	const all: T[] = [];
	for await (const item of items) all.push(item);
	return all;
}

/** What every adapter of the service store must do. */
export function serviceStoreSuite(t: Test, name: string, open: () => Promise<Opened>): void {
	const test = (title: string, body: (t: Test, opened: Opened) => Promise<void>) =>
		t.test(`${name}: ${title}`, async (t) => {
			const opened = await open();
			try {
				await body(t, opened);
			} finally {
				await opened.close();
			}
		});

	test("a commit is read back whole, by name and by id, and after a restart", async (t, opened) => {
		const service = await add(opened.store, "default", "hello");
		t.same(await opened.store.get(service), service);
		t.same(await opened.store.getById(service.id), service);
		const again = await opened.reopen();
		t.same(await again.store.get(service), service);
		t.same(await collect(again.store.events(service.id, 0)), [
			{ seq: 1, time: NOW, revision: 1, from: null, to: "Pending" },
		]);
		t.equal((await again.store.revision(service.id, 1))?.env.KEY, "a=b");
		await again.close();
	});

	test("what is not there is undefined", async (t, { store }) => {
		t.equal(await store.get({ namespace: "default", name: "no", version: "latest" }), undefined);
		t.equal(await store.getById("no"), undefined);
		t.equal(await store.revision("no", 1), undefined);
		t.same(await collect(store.events("no", 0)), []);
	});

	test("a name is given once, and a change on an old state is refused", async (t, { store }) => {
		const service = await add(store, "default", "hello");
		await t.rejects(add(store, "default", "hello"), { code: "conflict" });
		const first = Draft.of(service, NOW).move(1, "Building").commit();
		const second = Draft.of(service, NOW)
			.move(1, "Error", revisionError("cancelled", "pending", "no"))
			.commit();
		await store.commit(first);
		await t.rejects(store.commit(second), { code: "conflict" });
		t.same(await store.get(service), first.service);
		t.equal((await collect(store.events(service.id, 0))).length, 2, "nothing of the refused change is there");
	});

	test("of twenty changes of one state at the same time one is made", async (t, { store }) => {
		const service = await add(store, "default", "hello");
		const results = await Promise.allSettled(
			Array.from({ length: 20 }, () => store.commit(Draft.of(service, NOW).move(1, "Building").commit())),
		);
		t.equal(results.filter((result) => result.status === "fulfilled").length, 1);
		for (const result of results)
			if (result.status === "rejected") t.ok(isAppError(result.reason, "conflict"), String(result.reason));
	});

	test("a source is required in the commit that uses it", async (t, { store }) => {
		const draft = Draft.create({ id: "x", namespace: "default", name: "x", version: "latest", metadata: {} }, NOW);
		draft.add(WISH, null);
		draft.require("source://s-1");
		await t.rejects(store.commit(draft.commit()), { code: "not_found", field: "source" });
		t.equal(await store.getById("x"), undefined);
		const source = { namespace: "other", id: "s-1", sha256: "0".repeat(64), size: 1, createdAt: NOW };
		await store.putSource(source);
		await t.rejects(store.commit(draft.commit()), { code: "not_found" }, "another namespace's does not count");
		await store.putSource({ ...source, namespace: "default" });
		await store.commit(draft.commit());
		t.same(await store.getSource("default", "s-1"), { ...source, namespace: "default" });
	});

	test("lists are in order, of one namespace, and go on where a page ended", async (t, { store }) => {
		const names = ["a", "a-b", "ab", "b"];
		for (const name of [...names].reverse()) await add(store, "default", name);
		await add(store, "default", "a", "v1");
		await add(store, "default", "a", "v10");
		await add(store, "default2", "z");
		const all = await collect(store.list("default", {}, null));
		const shown = all.map(({ name, version }) => `${name}:${version}`);
		t.same(shown, ["a:latest", "a:v1", "a:v10", "a-b:latest", "ab:latest", "b:latest"]);
		for (let index = 0; index < all.length; index++) {
			const rest = await collect(store.list("default", {}, all[index] ?? null));
			t.same(rest, all.slice(index + 1));
		}
		const versions = await collect(store.list("default", { name: "a", version: "v1" }, null));
		t.same(versions, [all[1]], "v1 is not a prefix of v10");
		t.equal((await collect(store.list("default", { name: "a" }, null))).length, 3);
		t.equal((await collect(store.all())).length, 7);
	});

	test("revisions and events are read in order, from where one asks", async (t, { store }) => {
		let service = await add(store, "default", "hello");
		for (let revision = 2; revision <= 12; revision++) {
			const draft = Draft.of(service, NOW);
			draft.move(revision - 1, "Error", revisionError("superseded", "pending", "newer"));
			draft.add(WISH, null);
			const commit = draft.commit();
			await store.commit(commit);
			service = commit.service;
		}
		t.same(
			(await collect(store.revisions(service.id, null))).map(({ revision }) => revision),
			[12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
		);
		t.same(
			(await collect(store.revisions(service.id, 3))).map(({ revision }) => revision),
			[2, 1],
		);
		t.same(
			service.revisions.map(({ revision }) => revision),
			[12],
			"only what matters is at hand",
		);
		const events = await collect(store.events(service.id, 20));
		t.same(
			events.map(({ seq }) => seq),
			[21, 22, 23],
		);
		t.equal(events[1]?.error?.code, "superseded");
	});

	test("a removed service leaves nothing to a namesake", async (t, { store }) => {
		const service = await add(store, "default", "hello");
		const other = await add(store, "default", "hello2");
		await store.remove(service);
		t.equal(await store.get(service), undefined);
		t.equal(await store.getById(service.id), undefined);
		t.same(await collect(store.events(service.id, 0)), []);
		t.equal(await store.revision(service.id, 1), undefined);
		t.same(await store.get(other), other);
		const namesake = await add(store, "default", "hello");
		t.equal((await collect(store.events(namesake.id, 0))).length, 1);
		await t.rejects(store.remove(service), { code: "conflict" }, "the old one cannot take the new one along");
	});

	const sourceOf = (id: string, namespace = "default") => ({
		...{ namespace, id, sha256: "0".repeat(64), size: 1, createdAt: NOW },
	});

	/** A service with this source as its only revision's. */
	const using = async (store: ServiceStore, name: string, source: string): Promise<ServiceRecord> => {
		const draft = Draft.create({ id: `id-${++ids}`, namespace: "default", name, version: "latest", metadata: {} }, NOW);
		draft.add({ ...WISH, source: `source://${source}` }, null);
		draft.require(`source://${source}`);
		const commit = draft.commit();
		await store.commit(commit);
		return commit.service;
	};

	test("sources are listed with their mark, of every namespace, after a restart too", async (t, opened) => {
		await opened.store.putSource(sourceOf("s-1"));
		await opened.store.putSource(sourceOf("s-1", "other"));
		await opened.store.putSource(sourceOf("s-10"));
		t.equal(await opened.store.collectSource("default", "s-1"), true);
		t.equal(await opened.store.collectSource("default", "s-1"), true, "once more, for who made half of it");
		t.equal(await opened.store.collectSource("default", "nobody"), false);
		const again = await opened.reopen();
		const all = await collect(again.store.sources());
		t.same(all.map(({ namespace, id, collected }) => [namespace, id, collected]).sort(), [
			["default", "s-1", true],
			["default", "s-10", false],
			["other", "s-1", false],
		]);
		t.equal(await again.store.getSource("default", "s-1"), undefined, "a marked one is not there");
		t.same(await again.store.getSource("other", "s-1"), sourceOf("s-1", "other"));
		await t.rejects(using(again.store, "late", "s-1"), { code: "not_found", field: "source" });
		await again.store.forgetSource("default", "s-1");
		await again.store.forgetSource("default", "s-1");
		t.equal((await collect(again.store.sources())).length, 2);
		await again.close();
	});

	test("a source is not collected while a service refers to it", async (t, { store }) => {
		for (const id of ["s-1", "s-2", "s-10"]) await store.putSource(sourceOf(id));
		const one = await using(store, "one", "s-1");
		const two = await using(store, "two", "s-1");
		t.equal(await store.collectSource("default", "s-1"), false);
		t.equal(await store.collectSource("default", "s-10"), true, "a longer name is another source");
		await store.remove(one);
		t.equal(await store.collectSource("default", "s-1"), false, "the other one has it still");
		const draft = Draft.of(two, NOW).move(1, "Error", revisionError("superseded", "pending", "newer"));
		draft.add({ ...WISH, source: "source://s-2" }, null);
		draft.require("source://s-2");
		const { service } = await store.commit(draft.commit()).then(() => draft);
		t.equal(await store.collectSource("default", "s-2"), false);
		t.equal(await store.collectSource("default", "s-1"), true, "nobody has it any more");
		await store.remove(service);
		t.equal(await store.collectSource("default", "s-2"), true);
	});

	test("who uses a source and who collects it: one of them, five hundred times", async (t, { store }) => {
		const count = { used: 0, collected: 0 };
		for (let index = 0; index < 500; index++) {
			const id = `race-${index}`;
			await store.putSource(sourceOf(id));
			const use = () =>
				using(store, `race-${index}`, id).then(
					() => true,
					(error: unknown) => !isAppError(error, "not_found"),
				);
			const take = () => store.collectSource("default", id);
			const [first, second] = index % 2 === 0 ? [use, take] : [take, use];
			const results = await Promise.all([first(), second()]);
			if (results[0] === results[1]) t.fail(`${id}: ${results}`);
			count[results[index % 2] ? "used" : "collected"]++;
		}
		t.equal(count.used + count.collected, 500);
		t.ok(count.used > 0 && count.collected > 0, JSON.stringify(count));
	});

	test("idempotency keys are kept with their commit, in their namespace, until their time", async (t, opened) => {
		const { store } = opened;
		const draft = Draft.create({ id: "k1", namespace: "default", name: "k1", version: "latest", metadata: {} }, NOW);
		draft.add(WISH, null);
		draft.remember({ key: "a key/with!signs", hash: "h" });
		await store.commit(draft.commit());
		const done = { hash: "h", serviceId: "k1", revision: 1, time: NOW };
		t.same(await store.recall("default", "a key/with!signs"), done);
		t.equal(await store.recall("other", "a key/with!signs"), undefined);
		t.equal(await store.recall("default", "a key"), undefined);
		const refused = Draft.create({ id: "k2", namespace: "default", name: "k1", version: "latest", metadata: {} }, NOW);
		refused.add(WISH, null);
		refused.remember({ key: "refused", hash: "h" });
		await t.rejects(store.commit(refused.commit()), { code: "conflict" });
		t.equal(await store.recall("default", "refused"), undefined, "what was not made is not remembered");
		await store.forgetKeys(NOW);
		t.same(await store.recall("default", "a key/with!signs"), done, "its own time is not past");
		const again = await opened.reopen();
		t.same(await again.store.recall("default", "a key/with!signs"), done);
		await again.store.forgetKeys(new Date(Date.parse(NOW) + 1).toISOString());
		t.equal(await again.store.recall("default", "a key/with!signs"), undefined);
		await again.close();
	});

	test("a closed store refuses", async (t, { store }) => {
		const service = await add(store, "default", "hello");
		await store[Symbol.asyncDispose]();
		await t.rejects(store.get(service), AppError);
	});
}
