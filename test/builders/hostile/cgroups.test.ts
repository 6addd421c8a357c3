import { spawn } from "node:child_process";
import { readdir, readFile, rmdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import t from "tap";
import { Cgroups } from "../../../src/builders/sandbox/cgroups.ts";
import { MIB } from "../../../src/builders/sandbox/limits.ts";
import { bubblewrap, skip as noSandbox, shell } from "./sandboxes.ts";

// These hold for control groups of either version, whichever this machine has, and are quick where it is slow.
t.setTimeout(120_000);
const cgroups = await Cgroups.open();
const skip = noSandbox || (cgroups === undefined && "no control groups can be made here");
const limits = { memory: 48 * MIB, processes: 40 };
const entrancesOf = async () => (await cgroups?.create(limits))?.entrances ?? [];

t.test("a group has its limits, takes processes in, and is gone in the end", { skip }, async (t) => {
	const group = await cgroups?.create(limits);
	if (group === undefined) return t.fail("there is none");
	const folders = group.entrances.map((file) => dirname(file));
	t.comment(`version ${folders.length === 1 ? 2 : 1}: ${folders.join(", ")}`);
	const child = spawn("/bin/sh", [
		"-c",
		'for file; do echo 0 >"$file" || exit 1; done; echo in; read -r _',
		"sh",
		...group.entrances,
	]);
	t.teardown(() => child.kill("SIGKILL"));
	for await (const line of createInterface(child.stdout)) if (line === "in") break;
	for (const file of group.entrances) t.match((await readFile(file, "utf8")).split("\n"), [String(child.pid)]);
	t.equal((await readFile(join(folders.at(-1) ?? "", "pids.max"), "utf8")).trim(), "40");
	const memory = folders.length === 1 ? "memory.max" : "memory.limit_in_bytes";
	t.equal((await readFile(join(folders[0] ?? "", memory), "utf8")).trim(), String(48 * MIB));
	t.equal(await group.exceeded(), undefined);
	child.stdin.end("\n");
	await group.remove();
	for (const folder of folders) t.notOk((await readdir(dirname(folder))).includes(basename(folder)));
});

t.test("memory and processes of all of a build together are limited, and the limit is named", { skip }, async (t) => {
	const sandbox = await bubblewrap(t, { limits });
	t.equal(sandbox.grouped, true);
	const hungry =
		"for i in 1 2 3; do (head -c 24000000 /dev/zero | tail -c 23000000 | (sleep 20; cat >/dev/null)) & done; wait";
	t.match(await shell(sandbox, hungry), { ended: "it used more than 48 MiB of memory" }, "none of them alone");
	const many = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; echo started $i";
	const ended = await shell(sandbox, many);
	t.match(ended, { ended: "it had more than 40 processes and threads at once" });
	t.notMatch(ended.text, /started 60/);
	t.match(await shell(sandbox, "echo fine"), { exitCode: 0, text: "fine" });
});

t.test("what a killed server left is removed at the next start, what a living one has is not", { skip }, async (t) => {
	const file = pathToFileURL(join(import.meta.dirname, "../../../src/builders/sandbox/cgroups.ts")).href;
	const program = `
		import { Cgroups } from ${JSON.stringify(file)};
		setInterval(() => {}, 1000);
		console.log((await (await Cgroups.open()).create(${JSON.stringify(limits)})).entrances[0]);`;
	const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
		stdio: ["ignore", "pipe", "inherit"],
	});
	t.teardown(() => child.kill("SIGKILL"));
	let theirs = "";
	for await (const line of createInterface(child.stdout)) {
		theirs = dirname(line);
		break;
	}
	const there = async () => (await readdir(dirname(theirs))).includes(basename(theirs));
	const ours = await entrancesOf();
	await Cgroups.open();
	t.equal(await there(), true, "it lives");
	const ended = new Promise((resolve) => child.once("exit", resolve));
	child.kill("SIGKILL");
	await ended;
	await Cgroups.open();
	t.equal(await there(), false);
	for (const entrance of ours) t.ok((await readFile(entrance, "utf8")) === "", "ours is there");
	for (const entrance of ours) await rmdir(dirname(entrance));
});
