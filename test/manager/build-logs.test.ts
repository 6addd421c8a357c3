import t from "tap";
import { AppError } from "../../src/errors.ts";
import { named, TestCore, until } from "../harness/core.ts";

const never = { signal: new AbortController().signal };

async function logged(core: TestCore, id: string): Promise<number[]> {
	return (await core.buildLogs.revisions(id)).sort((a, b) => a - b);
}

/** The text of a revision's build log. */
async function read(core: TestCore, revision: number): Promise<string[]> {
	const service = await core.queries.get(named("app"));
	const lines: string[] = [];
	for await (const item of await core.follow.buildLog(service, revision, { after: 0, follow: false }, never))
		if ("line" in item) lines.push(item.line.text);
	return lines;
}

async function update(core: TestCore, revision: number, text: string, status: string): Promise<void> {
	await core.manager.update(named("app"), { source: await core.upload(text) });
	await core.at("app", revision, status);
}

t.test("logs of what came to no build go as well, but for the newest revisions and the newest failure", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 2 });
	const { id } = await core.create("app", "1");
	await core.at("app", 1, "Running");
	for (let revision = 2; revision <= 5; revision++) await update(core, revision, "!bad", "Error");
	// Cancelled and superseded ones are no failures that somebody comes back for.
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	for (let revision = 6; revision <= 9; revision++) await update(core, revision, `${revision}`, "Building");
	await core.manager.cancel(named("app"), 9);
	t.same(await logged(core, id), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
	await core.collector.collect(never);
	t.same(await logged(core, id), [1, 5, 8, 9], "the live one's, the newest failure's, and the two newest");
	for (const revision of [2, 3, 4, 6, 7])
		await t.rejects(read(core, revision), { code: "gone", message: new RegExp(`build log of revision ${revision} `) });
	for (const revision of [1, 5, 8, 9]) t.ok((await read(core, revision)).length > 0, `${revision} can be read`);
	await t.rejects(read(core, 10), { code: "not_found" });
	gate.resolve();
	core.builder.gate = async () => undefined;
	await update(core, 10, "10", "Running");
	await core.collector.collect(never);
	t.same(await logged(core, id), [1, 5, 9, 10]);
	await core.manager.remove(named("app"));
	await core.gone("app");
	t.same(await logged(core, id), []);
});

t.test("a revision that shares a build shares its log, which is kept as long as the build", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1 });
	const { id } = await core.create("app", "1");
	await core.at("app", 1, "Running");
	const words = await read(core, 1);
	for (let revision = 2; revision <= 4; revision++) {
		await core.manager.update(named("app"), { env: { N: `${revision}` } });
		await core.at("app", revision, "Running");
	}
	await core.collector.collect(never);
	t.same(await logged(core, id), [1]);
	t.same(await read(core, 3), words);
	await update(core, 5, "5", "Running");
	await core.reach("app", ({ revisions }) => revisions.length === 1, "what it replaced has ended");
	await core.collector.collect(never);
	t.same(await logged(core, id), [5]);
	await t.rejects(read(core, 3), { code: "gone" });
});

t.test("the log of what is being built now, or waits for its turn, is not collected", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1 });
	const gate = Promise.withResolvers<void>();
	const { id } = await core.create("app", "1");
	await core.at("app", 1, "Running");
	core.builder.gate = () => gate.promise;
	await update(core, 2, "2", "Building");
	await until(
		async () => (await logged(core, id)).includes(2),
		() => "its log was begun",
	);
	await core.collector.collect(never);
	t.same(await logged(core, id), [1, 2]);
	gate.resolve();
	await core.at("app", 2, "Running");
	t.ok((await read(core, 2)).length > 0);
});

t.test("one that was cancelled before it was built never had a log: that is none, and not gone", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1, parallelBuilds: 1 });
	const gate = Promise.withResolvers<void>();
	core.builder.gate = () => gate.promise;
	await core.create("other", "other");
	await core.at("other", 1, "Building");
	await core.create("app", "1");
	await update(core, 2, "2", "Pending");
	await update(core, 3, "3", "Pending");
	await core.collector.collect(never);
	t.same(await read(core, 1), []);
	gate.resolve();
	await core.at("app", 3, "Running");
});

t.test("a service that cannot be collected holds up no other; the run says so at its end", async (t) => {
	const core = await TestCore.open(t, { keepBuilds: 1, sourceAgeMs: -1000 });
	for (const name of ["a", "b", "c"]) {
		await core.create(name, "1");
		await core.at(name, 1, "Running");
		await core.manager.update(named(name), { source: await core.upload("2") });
		await core.at(name, 2, "Running");
		await core.reach(name, ({ revisions }) => revisions.length === 1, "what it replaced has ended");
	}
	const id = (await core.queries.get(named("b"))).id;
	const lonely = await core.upload("lonely");
	const remove = core.buildLogs.revisions.bind(core.buildLogs);
	core.buildLogs.revisions = async (service) => {
		if (service === id) throw new AppError("no_space", "broken");
		return remove(service);
	};
	await t.rejects(core.collector.collect(never), { code: "no_space", message: /^1 of / });
	t.match(
		core.logged.filter(({ level }) => level === "warn").map(({ details }) => details),
		[{ service: id }],
	);
	core.buildLogs.revisions = remove;
	for (const name of ["a", "c"]) t.same(await logged(core, (await core.queries.get(named(name))).id), [2], name);
	t.same(await logged(core, id), [1, 2]);
	t.notOk((await core.blobKeys()).includes(`default/source/${lonely.slice("source://".length)}`), "nor the sources");
	await core.collector.collect(never);
	t.same(await logged(core, id), [2], "the next run has it");
});
