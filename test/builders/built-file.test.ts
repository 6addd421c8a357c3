import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readdir, readlink, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { builtFile } from "../../src/builders/built-file.ts";

const of = { builder: "x", requires: "none", remove: async () => undefined } as const;
const call = { signal: new AbortController().signal };

t.test("only a file is a build: a link is not followed, and a pipe is not waited for", async (t) => {
	const folder = await mkdtemp(join(tmpdir(), "built-file-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const file = join(folder, "file");
	await writeFile(file, "abc");
	t.match(await builtFile(file, of, call), { size: 3, builder: "x" });
	await symlink(file, join(folder, "link"));
	await t.rejects(builtFile(join(folder, "link"), of, call), { code: "ELOOP" });
	execFileSync("mkfifo", [join(folder, "pipe")]);
	await t.rejects(builtFile(join(folder, "pipe"), of, call), { code: "build_failed" });
	await mkdir(join(folder, "folder"));
	await t.rejects(builtFile(join(folder, "folder"), of, call), { code: "build_failed" });
});

t.test("its body is the file, in pieces, and holds no descriptor once it was read or given up", async (t) => {
	const folder = await mkdtemp(join(tmpdir(), "built-file-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const file = join(folder, "file");
	const bytes = randomBytes(2.5 * 1024 * 1024);
	await writeFile(file, bytes);
	const parts: Buffer[] = [];
	for await (const chunk of (await builtFile(file, of, call)).body) parts.push(Buffer.from(chunk));
	t.ok(Buffer.concat(parts).equals(bytes));
	t.ok(parts.length > 1);
	for await (const _ of (await builtFile(file, of, call)).body) break;
	t.same(await descriptorsOf(file), []);
	await t.rejects(
		async () => {
			for await (const _ of (await builtFile(file, of, call)).body) await truncate(file, 1);
		},
		{ code: "build_failed", message: /shorter/ },
	);
	t.same(await descriptorsOf(file), []);
	await writeFile(file, "");
	for await (const _ of (await builtFile(file, of, call)).body) t.fail("there is nothing to read");
});

async function descriptorsOf(file: string): Promise<string[]> {
	if (process.platform !== "linux") return [];
	const links = await Promise.all(
		(await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
	);
	return links.filter((link) => link === file);
}
