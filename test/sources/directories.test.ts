import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import type { SourceTree } from "../../src/builders/builder.ts";
import { Directories } from "../../src/sources/directories.ts";

const call = { signal: new AbortController().signal };

/** Directories that tell what they made durable, relative to their folder, and whether the mark was there by then. */
async function open(t: Test) {
	const place = await mkdtemp(path.join(tmpdir(), "runtime-directories-"));
	t.teardown(() => rm(place, { recursive: true, force: true }));
	const folder = path.join(place, "directories");
	const synced: string[] = [];
	const mark = path.join(folder, "id1", "1.finished");
	const directories = new Directories(folder, {
		sync: async (file) => {
			synced.push(`${path.relative(folder, file)}${existsSync(mark) ? " marked" : ""}`);
		},
	});
	const tree = path.join(place, "unpacked");
	for (const inner of ["", "node_modules/a"]) await mkdir(path.join(tree, inner), { recursive: true });
	for (const name of ["main.js", "node_modules/a/index.js"]) await writeFile(path.join(tree, name), name);
	for (let count = 0; count < 40; count++) await writeFile(path.join(tree, "node_modules", `${count}`), "");
	await symlink("main.js", path.join(tree, "link"));
	const source: SourceTree = {
		archiveType: "targz",
		archive: () => Promise.reject(new Error("not asked for")),
		directory: async () => tree,
		[Symbol.asyncDispose]: async () => undefined,
	};
	return { directories, source, synced, mark };
}

t.test("a finished folder is marked after all that it holds is on disk, and the mark is on disk as well", async (t) => {
	const { directories, source, synced } = await open(t);
	await directories.make("id1", 1, source, call);
	t.equal(await directories.exists("id1", 1), false, "not finished yet");
	await directories.finish("id1", 1, call);
	t.equal(await directories.exists("id1", 1), true);
	const at = (file: string) => {
		t.equal(synced.filter((one) => one === file).length, 1, `${file} is synced once`);
		return synced.indexOf(file);
	};
	const many = Array.from({ length: 40 }, (_, count) => at(`id1/1/node_modules/${count}`));
	t.ok(at("id1/1/node_modules/a/index.js") < at("id1/1/node_modules/a"), "a folder after its files");
	t.ok(Math.max(...many, at("id1/1/node_modules/a")) < at("id1/1/node_modules"));
	t.ok(Math.max(at("id1/1/node_modules"), at("id1/1/main.js")) < at("id1/1"));
	t.same(synced.slice(at("id1/1") + 1), ["id1/1.finished marked", "id1 marked"], "then the mark and its name");
});

t.test("the mark is off the disk before anything of the folder goes", async (t) => {
	const { directories, source, synced, mark } = await open(t);
	await directories.make("id1", 1, source, call);
	await directories.finish("id1", 1, call);
	synced.length = 0;
	await directories.remove("id1", 1);
	t.same(synced, ["id1"], "its folder was synced without it");
	t.notOk(existsSync(mark) || existsSync(directories.path("id1", 1)));
	await directories.remove("id1", 1);
	t.same(synced, ["id1"], "once");
});

t.test("a cancelled finish leaves no mark; the real thing makes a real tree durable", async (t) => {
	const { directories, source } = await open(t);
	const root = await directories.make("id1", 1, source, call);
	await t.rejects(directories.finish("id1", 1, { signal: AbortSignal.abort() }), { code: "cancelled" });
	t.equal(await directories.exists("id1", 1), false);
	const real = new Directories(path.resolve(root, "../.."));
	await real.finish("id1", 1, call);
	t.equal(await directories.exists("id1", 1), true);
});
