import t from "tap";
import { type Build, BuildError, type Builder } from "../../src/builders/builder.ts";
import { named as chosen, nearestBuilder } from "../../src/manager/builder-choice.ts";
import { treeOf } from "../conformance/builder.ts";
import { named, TestCore } from "../harness/core.ts";

const never = { signal: new AbortController().signal };

/** Is for every source but those that its marker says no to; builds nothing. */
function builder(name: string, marker: string, fits = true): Builder {
	const build = (): Promise<Build> => Promise.reject(new Error("not built here"));
	return { name, markers: [marker], detect: async () => fits, build };
}

t.test("the nearest marker says which builder, and the first of two", async (t) => {
	const [go, node] = [builder("go", "go.mod"), builder("node", "package.json")];
	const tree = await treeOf(t, {
		...{ "go.mod": "", "package.json": "", "web/package.json": "", "cmd/x/main.go": "", "web/api/go.mod": "" },
		"web/src/a.ts": "",
	});
	for (const [entrypoint, name] of [
		[".", "go"],
		["web", "node"],
		["web/src", "node"],
		["web/api", "go"],
		["cmd/x", "go"],
	] as const)
		t.equal((await nearestBuilder([go, node], tree, entrypoint, never)).name, name, entrypoint);
	t.equal((await nearestBuilder([builder("go", "go.mod", false), node], tree, ".", never)).name, "node");
	await t.rejects(nearestBuilder([builder("go", "go.mod", false)], tree, "web", never), {
		code: "source_invalid",
		message: /nothing to build in web: it has none of go\.mod/,
	});
	t.equal(chosen([go, node], null), undefined);
	t.equal(chosen([go, node], "node"), node);
	t.throws(() => chosen([go, node], "rust"), BuildError);
});

t.test("a builder that is asked for is kept with the revision, and another one builds anew", async (t) => {
	const core = await TestCore.open(t, {});
	await core.create("app", "1");
	await core.at("app", 1, "Running");
	await core.manager.update(named("app"), { builder: "fake" });
	await core.at("app", 2, "Running");
	await core.manager.update(named("app"), { args: ["x"] });
	await core.at("app", 3, "Running");
	await core.manager.update(named("app"), { builder: null });
	await core.at("app", 4, "Running");
	await core.manager.rollback(named("app"), 2);
	await core.at("app", 5, "Running");
	const { id } = await core.queries.get(named("app"));
	const revisions = await Promise.all([1, 2, 3, 4, 5].map((number) => core.store.revision(id, number)));
	t.same(
		revisions.map((revision) => revision?.builder),
		[null, "fake", "fake", null, "fake"],
	);
	t.same(
		revisions.map((revision) => revision?.build?.revision),
		[1, 2, 2, 4, 2],
	);
	t.equal(core.builder.begun.length, 3);
});

t.test("a builder that is not there is refused by the field's name", async (t) => {
	const core = await TestCore.open(t, {});
	const source = await core.upload("x");
	const refusal = { code: "invalid_argument", field: "builder", message: /no builder rust; there are fake/ };
	await t.rejects(core.manager.create("default", { name: "app", source, builder: "rust" }), refusal);
	await t.rejects(core.manager.put(named("app"), { source, builder: "rust" }), refusal);
	await t.rejects(core.queries.get(named("app")), { code: "not_found" });
	await core.create("app", "x", { builder: "fake" });
	await t.rejects(core.manager.update(named("app"), { builder: "rust" }), refusal);
});
