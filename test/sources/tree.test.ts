import { execFileSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Call } from "../../src/blob/store.ts";
import { AppError } from "../../src/errors.ts";
import { removeTree } from "../../src/remove-tree.ts";
import { normaliseEntrypoint } from "../../src/sources/entrypoint.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import { archiveOf, inReusedChunks } from "../fixtures/archive.ts";

const signal = new AbortController().signal;

async function workFolder(): Promise<string> {
	const path = await mkdtemp(join(tmpdir(), "tree-test-"));
	t.teardown(() => rm(path, { recursive: true, force: true }));
	return path;
}

t.test("a tree is unpacked once, for everybody who asks, and removed by disposal", async (t) => {
	const bytes = await archiveOf({ "go.mod": "module x\n", "a/b.go": "package a\n" });
	const work = await workFolder();
	let opened = 0;
	const open = async () => {
		opened++;
		return inReusedChunks(bytes);
	};
	const tree = openSourceTree({ open, workFolder: work });
	t.equal(opened, 0, "nothing happens before it is asked for");
	const [one, two] = await Promise.all([tree.directory({ signal }), tree.directory({ signal })]);
	t.equal(one, two);
	t.equal(await tree.directory({ signal }), one);
	t.equal(opened, 1);
	t.equal(await readFile(join(one, "a/b.go"), "utf8"), "package a\n");
	const parts: Buffer[] = [];
	for await (const chunk of await tree.archive({ signal })) parts.push(Buffer.from(chunk));
	t.same(Buffer.concat(parts), bytes, "the archive is what was uploaded");
	await using other = openSourceTree({ open, workFolder: work });
	t.not(await other.directory({ signal }), one, "another tree has a folder of its own");
	await chmod(join(one, "a"), 0o500);
	await tree[Symbol.asyncDispose]();
	t.equal((await readdir(work)).length, 1);
	await t.rejects(tree.directory({ signal }), { code: "internal" });
});

t.test("a failure leaves nothing behind, and the next call tries again", async (t) => {
	const work = await workFolder();
	const good = await archiveOf({ a: "x" });
	let fail = true;
	await using tree = openSourceTree({
		open: async () => {
			if (!fail) return inReusedChunks(good);
			fail = false;
			return inReusedChunks(good.subarray(0, 30));
		},
		workFolder: work,
	});
	await t.rejects(tree.directory({ signal }), { code: "invalid_argument", message: /cut short/ });
	t.same(await readdir(work), []);
	t.equal(await readFile(join(await tree.directory({ signal }), "a"), "utf8"), "x");
});

t.test("one caller's cancellation is not another's", async (t) => {
	const work = await workFolder();
	const bytes = await archiveOf({ a: "x" });
	const first = new AbortController();
	let opened = 0;
	const waiting = Promise.withResolvers<void>();
	await using tree = openSourceTree({
		open: async (call: Call) => {
			waiting.resolve();
			if (++opened > 1) return inReusedChunks(bytes);
			await new Promise((resolve) => call.signal.addEventListener("abort", resolve));
			throw new AppError("cancelled", "stopped");
		},
		workFolder: work,
	});
	const cancelledOne = tree.directory({ signal: first.signal });
	const other = tree.directory({ signal });
	await waiting.promise;
	first.abort();
	await t.rejects(cancelledOne, { code: "cancelled" });
	t.equal(await readFile(join(await other, "a"), "utf8"), "x");
});

t.test("read-only folders are removed too", async (t) => {
	const path = join(await workFolder(), "x");
	await mkdir(join(path, "a/b"), { recursive: true });
	await writeFile(join(path, "a/b/c"), "");
	await chmod(join(path, "a/b"), 0o555);
	await chmod(join(path, "a"), 0o555);
	await removeTree(path);
	await t.rejects(readdir(path), { code: "ENOENT" });
	await removeTree(path);
});

t.test("what a stranger's program made is removed, however deep it is and whatever it is called", async (t) => {
	const path = join(await workFolder(), "x");
	await mkdir(path);
	const name = "d".repeat(200);
	const script = `for _ in $(seq 60); do mkdir ${name} && cd -P ${name} || exit 1; done; echo x >file; chmod 0 ../${name}`;
	execFileSync("/bin/bash", ["-c", script], { cwd: path });
	const bytes = Buffer.concat([Buffer.from(`${path}/`), Buffer.from([0x66, 0xff])]);
	await mkdir(bytes);
	await writeFile(Buffer.concat([bytes, Buffer.from([0x2f, 0xfe])]), "");
	await symlink("/", join(path, "link"));
	await removeTree(path);
	await t.rejects(readdir(path), { code: "ENOENT" });
});

t.test("entrypoints", async (t) => {
	for (const [given, meant] of [
		[undefined, "."],
		["", "."],
		[".", "."],
		["./", "."],
		["cmd/server", "cmd/server"],
		["./cmd//server/", "cmd/server"],
		["a/../b", "b"],
		["a/..", "."],
	] as const)
		t.equal(normaliseEntrypoint(given), meant, `${given}`);
	for (const bad of ["/etc", "..", "a/../../b", "a\\b", "a\0b", "C:\\x", "a\nb", "x".repeat(2000)])
		t.throws(() => normaliseEntrypoint(bad), { code: "invalid_argument", field: "entrypoint" });
});
