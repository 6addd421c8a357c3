import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
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
