import { execFile, spawn } from "node:child_process";
import { mkdir, readdir, stat, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { Bubblewrap } from "../../../src/builders/sandbox/bubblewrap.ts";
import { DiskWatch } from "../../../src/builders/sandbox/disk-watch.ts";
import { MIB } from "../../../src/builders/sandbox/limits.ts";
import { removeTree } from "../../../src/remove-tree.ts";
import { eventually, processesMentioning } from "../../conformance/builder.ts";
import { BWRAP, bubblewrap, folderFor, inEach, never, open, shell, skip } from "./sandboxes.ts";

const options = { skip };
const mark = () => `hostile-${process.pid}-${Math.random()}`;

async function writable(t: Test) {
	const folder = join(await folderFor(t), "work");
	await mkdir(folder);
	return { writes: [folder], cwd: folder };
}

inEach("a daemon that leaves its session ends with the build; without a sandbox it lives on", async (t, sandboxOf) => {
	const daemon = (name: string) =>
		`setsid sh -c 'trap "" TERM HUP; exec >/dev/null 2>&1 </dev/null; ${name}=1; export ${name}; exec sleep 300' & sleep 0.3; echo built`;
	const inside = mark().replaceAll(/\W/g, "_");
	const sandbox = await sandboxOf(t);
	t.match(await shell(sandbox, daemon(inside)), { exitCode: 0, lines: ["built"] });
	t.same(await processesMentioning(inside), []);

	const outside = mark().replaceAll(/\W/g, "_");
	t.match(await shell(open, daemon(outside)), { exitCode: 0, lines: ["built"] });
	const left = await processesMentioning(outside);
	t.ok(left.length > 0, "the canary: nothing else would have ended it");
	for (const pid of left) process.kill(Number(pid), "SIGKILL");
});

inEach("a build that never ends is cancelled with all that it started", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const name = mark();
	const controller = new AbortController();
	const work = shell(
		sandbox,
		"trap '' TERM INT HUP; setsid sleep 300 & (setsid sh -c 'while :; do :; done' &) ; echo up; while :; do sleep 1; done",
		{ env: { PATH: "/usr/bin:/bin", MARK: name }, log: () => controller.abort() },
		controller.signal,
	);
	await t.rejects(work, { code: "cancelled" });
	t.same(await processesMentioning(name), []);
});

t.test("a server that is killed takes a sandboxed build along", options, async (t) => {
	const name = mark();
	const module = (file: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, file)).href);
	const program = `
		import { Bubblewrap } from ${module("../../../src/builders/sandbox/bubblewrap.ts")};
		const call = { signal: new AbortController().signal };
		const sandbox = await Bubblewrap.open({ file: ${JSON.stringify(BWRAP)}, workFolder: ${JSON.stringify(await folderFor(t))} }, call);
		await sandbox.run({ file: "/bin/sh", cwd: "/", env: { PATH: "/usr/bin:/bin", MARK: ${JSON.stringify(name)} }, log: console.log,
			args: ["-c", "trap '' TERM HUP; setsid sleep 300 & echo building; sleep 300; true"], reads: [], writes: [], hosts: [] }, call);`;
	const server = spawn(process.execPath, ["--input-type=module", "-e", program], {
		stdio: ["ignore", "pipe", "inherit"],
	});
	t.teardown(() => server.kill("SIGKILL"));
	for await (const line of createInterface(server.stdout)) if (line === "building") break;
	const ofTheBuild = async () => (await processesMentioning(name)).filter((pid) => pid !== String(server.pid));
	await eventually(async () => (await ofTheBuild()).length >= 2, "the build goes on");
	server.kill("SIGKILL");
	await eventually(async () => (await ofTheBuild()).length === 0, "all of it is gone");
	t.pass("all of it is gone");
});

t.test("memory: the build is ended, and its owner is told by which limit", options, async (t) => {
	const sandbox = await bubblewrap(t, { limits: { memory: 96 * MIB } });
	const hungry = "head -c 300000000 /dev/zero | tail -c 290000000 | wc -c; while :; do sleep 1; done";
	if (sandbox.grouped) {
		t.match(await shell(sandbox, hungry), { ended: "it used more than 96 MiB of memory" });
		const tmpfs = "head -c 300000000 /dev/zero >/tmp/full; while :; do sleep 1; done";
		t.match(await shell(sandbox, tmpfs), { ended: "it used more than 96 MiB of memory" }, "/tmp is memory too");
	}
	const weaker = await bubblewrap(t, { limits: { memory: 96 * MIB }, groups: false });
	const ended = await shell(weaker, hungry.replace(/; while.*/, ""));
	t.notMatch(ended.text, /290000000/, "without control groups, one process cannot have it");
	t.match(await shell(open, hungry.replace(/; while.*/, "")), { lines: ["290000000"] }, "the canary");
});

inEach("a fork bomb: no more processes than allowed, and all of them are ended", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t, { limits: { processes: 50 } });
	const name = mark();
	const seen = { env: { PATH: "/usr/bin:/bin", MARK: name } };
	const many = "i=0; while [ $i -lt 200 ]; do sleep 300 & i=$((i+1)); done; echo started $i";
	t.match(await shell(open, many, seen), { lines: ["started 200"] }, "the canary");
	const limited = sandbox.grouped || process.getuid?.() !== 0;
	const ended = await shell(sandbox, many, seen);
	if (sandbox.grouped) t.match(ended, { ended: "it had more than 50 processes and threads at once" });
	if (limited) {
		t.notMatch(ended.text, /started 200/);
		const bomb = "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done";
		const work = shell(sandbox, bomb, seen, AbortSignal.timeout(5_000));
		if (sandbox.grouped) t.match(await work, { ended: "it had more than 50 processes and threads at once" });
		else await t.rejects(work, { code: "cancelled" });
	}
	t.same(await processesMentioning(name), []);
	t.equal((await shell(sandbox, "echo fine")).text, "fine", "the machine is well");
});

inEach("a build that fills the disk is ended before the disk is full", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t, { limits: { disk: 24 * MIB } });
	const seen = await writable(t);
	const small = "n=0; while :; do n=$((n+1)); head -c 1000000 /dev/zero >file$n || exit 1; done";
	t.match(await shell(sandbox, small, seen), { ended: "it wrote more than 24 MiB to the disk" });

	const one = await writable(t);
	const { exitCode } = await shell(sandbox, "cat /dev/zero >big", one);
	t.not(exitCode, 0, "one file cannot be larger than that");
	t.ok((await stat(join(one.cwd, "big"))).size <= 24 * MIB);
	t.match(await shell(sandbox, "ls", await writable(t)), { exitCode: 0 }, "the next build is not to blame");
});

inEach("a disk that is nearly full is the machine's fault", async (t, sandboxOf) => {
	const seen = await writable(t);
	const { bavail, bsize } = await statfs(seen.cwd);
	const sandbox = await sandboxOf(t, { limits: { reserve: bavail * bsize * 2 } });
	await t.rejects(shell(sandbox, "while :; do sleep 1; done", seen), { code: "unavailable", message: /of disk left/ });
});

t.test(
	"a build that makes files without end is ended, however small they are and wherever it hides them",
	options,
	async (t) => {
		const sandbox = await bubblewrap(t, { limits: { files: 3000 } });
		const endless = (how: string) => `perl -e 'for (;;) { ${how} }'`;
		for (const how of [
			`my $f = "f" . $n++; open(my $h, ">", $f) or exit 1`,
			`mkdir("d" . $n++) or exit 1`,
			`symlink("nowhere", "l" . $n++) or exit 1`,
		])
			t.match(await shell(sandbox, endless(how), await writable(t)), { ended: "it made more than 3000 files" }, how);
		const some = "i=0; while [ $i -lt 1000 ]; do : >f$i; i=$((i+1)); done; sleep 0.6";
		t.match(await shell(sandbox, some, await writable(t)), { exitCode: 0, ended: undefined }, "as many as it may");
	},
);

inEach("what lies deeper than a path can tell is not overlooked", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t, { limits: { disk: 24 * MIB } });
	const seen = await writable(t);
	t.teardown(() => removeTree(seen.cwd));
	const deep = `perl -e 'my $d = "d" x 200; for (1..40) { mkdir $d; chdir $d or exit 1 } exec "sh", "-c", q(n=0; while :; do n=$((n+1)); head -c 1000000 /dev/zero >file$n || exit 1; done)'`;
	t.match(await shell(sandbox, deep, seen), { ended: "it wrote more than 24 MiB to the disk" });
});

inEach("a disk that has room for few files is the machine's fault", async (t, sandboxOf) => {
	const seen = await writable(t);
	const { ffree } = await statfs(seen.cwd);
	const sandbox = await sandboxOf(t, { limits: { reserveFiles: ffree * 2 } });
	const work = shell(sandbox, "while :; do sleep 1; done", seen);
	await t.rejects(work, { code: "unavailable", message: /room for fewer than \d+ files on its disk/ });
});

t.test("a file system that does not count files: what has gone of it says when to", async (t) => {
	const { cwd } = await writable(t);
	const space = { bavail: 1_000_000, bsize: 4096, files: 0, ffree: 0 };
	const limits = { disk: 100 * MIB, reserve: 0, files: 20, reserveFiles: 1000 };
	const watch = await DiskWatch.start([cwd], limits, async () => space);
	for (let n = 0; n < 30; n++) await writeFile(join(cwd, `f${n}`), "");
	t.equal(await watch.look(), "fine", "nothing has gone");
	space.bavail -= 2;
	t.equal(await watch.look(), "too_many");
});

t.test("folders that are to be looked into are not held with their paths", async (t) => {
	const { cwd } = await writable(t);
	const deep = join(cwd, ...Array.from({ length: 14 }, () => "d".repeat(250)));
	await mkdir(deep, { recursive: true });
	// 70 MB of paths.
	for (let n = 0; n < 20_000; n++) await mkdir(join(deep, `${n}`));
	const program = `
		import { DiskWatch } from ${JSON.stringify(pathToFileURL(join(import.meta.dirname, "../../../src/builders/sandbox/disk-watch.ts")).href)};
		const space = { bavail: 1e6, bsize: 4096, files: 1e9, ffree: 1e9 };
		const limits = { disk: 2 ** 40, reserve: 0, files: 10 ** 6, reserveFiles: 0 };
		const watch = await DiskWatch.start([${JSON.stringify(cwd)}], limits, async () => space);
		space.ffree -= 2 * 10 ** 6;
		console.log(await watch.look());`;
	const args = ["--max-old-space-size=48", "--input-type=module", "-e", program];
	t.equal((await promisify(execFile)(process.execPath, args)).stdout.trim(), "fine");
});

inEach("endless output is cut", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const { lines } = await shell(sandbox, "yes | head -c 3000000", { outputLimit: 1000 });
	t.ok(lines.length < 600);
	t.match(lines.at(-1), /longer than 1000 bytes/);
});

t.test("nothing of the sandbox's own is left behind", options, async (t) => {
	const workFolder = await folderFor(t);
	const sandbox = await Bubblewrap.open({ file: BWRAP ?? "", workFolder }, { signal: never });
	const [folder = ""] = await readdir(workFolder);
	const before = await readdir(join(workFolder, folder));
	await shell(sandbox, "true", { hosts: [new URL("http://127.0.0.1:9")] });
	await shell(sandbox, "true", {}, AbortSignal.abort()).catch(() => undefined);
	t.same(await readdir(join(workFolder, folder)), before);
	await sandbox.close();
	await eventually(async () => (await readdir(workFolder)).length === 0, "its folder is gone");
	t.same(await readdir(workFolder), []);
});
