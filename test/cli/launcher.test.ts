import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { folder, LAUNCHER, runtime } from "./harness.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** A Node on the path that is too old for us. */
function oldNode(): string | undefined {
	for (const part of (process.env.PATH ?? "").split(delimiter)) {
		const path = join(part, "node");
		if (part === "" || part.includes("node_modules") || !existsSync(path)) continue;
		const [major = 0, minor = 0] = spawnSync(path, ["-v"], { encoding: "utf8" }).stdout.slice(1).split(".").map(Number);
		if (major >= 16 && (major < 22 || (major === 22 && minor < 19))) return path;
	}
	return undefined;
}

const old = oldNode();
const skip = old === undefined ? "no older Node on the path" : false;

t.test("an older Node hands over to the pinned one, with the exit code", { skip }, (t) => {
	const env = { ...process.env, RUNTIME_URL: "http://127.0.0.1:9" };
	const options = { cwd: folder(t), encoding: "utf8", env } as const;
	const version = spawnSync(old ?? "", [LAUNCHER, "--version"], options);
	t.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
	t.equal(version.status, 0);
	t.equal(spawnSync(old ?? "", [LAUNCHER, "status"], options).status, 3);
	t.end();
});

t.test("an older Node without the pinned one says what to do", { skip }, (t) => {
	const top = folder(t);
	mkdirSync(join(top, "clients/cli"), { recursive: true });
	copyFileSync(LAUNCHER, join(top, "clients/cli/bin.mjs"));
	const { status, stderr } = spawnSync(old ?? "", [join(top, "clients/cli/bin.mjs"), "status"], { encoding: "utf8" });
	t.equal(status, 1);
	t.match(stderr, /^✘ Node >= 22\.19 is needed, this is v\d+\S+: run `npm install` in /);
	t.equal(stderr.trimEnd().split("\n").length, 1);
	t.end();
});

t.test("it runs from any folder, by a link too, without loading what a command does not need", async (t) => {
	const top = folder(t);
	symlinkSync(LAUNCHER, join(top, "runtime"));
	const linked = spawnSync(process.execPath, [join(top, "runtime"), "help"], { cwd: "/", encoding: "utf8" });
	t.equal(linked.status, 0, linked.stderr);
	const began = performance.now();
	t.equal((await runtime(["help"], { cwd: top })).code, 0);
	t.comment(`help takes ${Math.round(performance.now() - began)} ms from TypeScript`);
});

t.test("the commands are those of the contract", (t) => {
	const { status, stderr } = spawnSync(process.execPath, [join(ROOT, "scripts/generate-cli.ts"), "--check"], {
		encoding: "utf8",
	});
	t.equal(status, 0, stderr);
	t.end();
});

t.test("the CLI imports nothing of the server but the contract's types", (t) => {
	const top = join(ROOT, "clients/cli");
	let seen = 0;
	for (const name of readdirSync(top, { recursive: true, encoding: "utf8" })) {
		if (!name.endsWith(".ts")) continue;
		const file = join(top, name);
		for (const [line, from = ""] of readFileSync(file, "utf8").matchAll(/^(?:import|export)[^;]*?from "(\.[^"]+)"/gm)) {
			seen += 1;
			const path = resolve(dirname(file), from);
			if (path.startsWith(top)) continue;
			t.ok(line.startsWith("import type"), `${name}: ${from}`);
			t.match(path, /src\/contract\/types\.gen\.ts$/);
		}
	}
	t.ok(seen > 50, "the imports were found");
	t.end();
});
