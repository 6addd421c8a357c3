import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import t, { type Test } from "tap";
import type { Build } from "../../../src/builders/builder.ts";
import { cacheFolderOf } from "../../../src/builders/caches.ts";
import { createGoBuilder } from "../../../src/builders/go/go.ts";
import type { Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { failureOf, HOST_TARGET, treeOf } from "../../conformance/builder.ts";
import { BWRAP, folderFor, GO, inEach, never, open, shell, skip } from "./sandboxes.ts";

const CANARY = "canary-e7c1";

/** A server's data folder, a home, neighbours' sources and caches: each with a secret. */
async function place(t: Test) {
	const base = await folderFor(t);
	const folders = {
		data: join(base, "data"),
		home: join(base, "home"),
		neighbour: join(base, "data", "builds", "neighbour-source"),
		neighbourCache: join(cacheFolderOf(join(base, "cache"), "neighbour", "go"), "build"),
		work: join(base, "data", "builds", "own"),
		bin: join(base, "bin"),
		cache: join(base, "cache"),
	};
	for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true });
	const secrets = {
		"the administrator's token": join(folders.data, "admin-token"),
		"a file in $HOME": join(folders.home, ".netrc"),
		"a neighbour's source": join(folders.neighbour, "main.go"),
		"a neighbour's cache": join(folders.neighbourCache, "object-d"),
	};
	for (const file of Object.values(secrets)) await writeFile(file, CANARY);
	return { base, folders, secrets };
}

/**
 * A `go` that does as the source says: it stands for a hole in the compiler, so that what is shown holds whatever Go does.
 */
async function leakyGo(folder: string): Promise<string> {
	const file = join(folder, "go");
	const script = `#!/bin/sh\nif [ "$1" = build ]; then . ./evil.sh; exit 1; fi\nexec "${GO}" "$@"\n`;
	await writeFile(file, script);
	await chmod(file, 0o755);
	return file;
}

async function evil(
	t: Test,
	sandbox: Sandbox,
	script: string,
	at: Awaited<ReturnType<typeof place>>,
	namespace = "mine",
) {
	const builder = createGoBuilder({
		...{ sandbox, cacheFolder: at.folders.cache, workFolder: at.folders.work },
		goCommand: await leakyGo(at.folders.bin),
	});
	const lines: string[] = [];
	// The namespace's cache is there, so that nothing is compiled for it.
	await mkdir(join(cacheFolderOf(at.folders.cache, namespace, "go"), "build"), { recursive: true });
	const tree = await treeOf(t, { "go.mod": "module example.com/x\n\ngo 1.21\n", "evil.sh": script });
	const options = { namespace, entrypoint: ".", env: {}, target: HOST_TARGET };
	const work: Promise<Build> = builder.build(tree, options, { signal: never, log: (line) => lines.push(line) });
	const { code, message } = await failureOf(work);
	lines.push(`ENDED ${code} ${message}`);
	return lines.join("\n");
}

inEach("a build sees no file of the host but its own", async (t, sandboxOf) => {
	const at = await place(t);
	const sandbox = await sandboxOf(t);
	for (const [name, file] of Object.entries(at.secrets)) {
		t.match(await evil(t, open, `cat '${file}'`, at), CANARY, `the canary can be seen: ${name}`);
		t.notMatch(await evil(t, sandbox, `cat '${file}'; cat '${file}' /proc/1/root'${file}'`, at), CANARY, name);
	}
	const everywhere = `find / -type f 2>/dev/null | grep -v -E '^/(proc|sys|usr|lib)' ; find '${at.base}'`;
	const seen = await evil(t, sandbox, everywhere, at);
	t.match(seen, /evil\.sh/, "its own source");
	t.notMatch(seen, /admin-token|netrc|neighbour|object-d/);
	const whole = await shell(
		sandbox,
		"ls -A / /etc /root /home /mnt /srv /opt /sys /usr/local /var 2>&1; cat /etc/passwd",
	);
	t.notMatch(whole.text, /shadow|machine-id|root:/);
	t.match(whole.text, /^build:x:\d+/m);
});

inEach("a build writes nothing but into its work folder and its own caches", async (t, sandboxOf) => {
	const at = await place(t);
	const sandbox = await sandboxOf(t);
	const write = (path: string) => `(echo poisoned >"${path}") && echo WROTE "${path}"`;
	// Opened for writing and left as they are: were the sandbox broken, the machine must not be.
	const touch = (path: string) => `(: >>"${path}") && echo WROTE "${path}"`;
	const ofTheHost = ["/usr/bin/env", "/etc/passwd", "/etc/ssl/certs", "/dev/new", "/new", GO];
	const again = (path: string) => `value=$(cat "${path}"); (echo "$value" >"${path}") && echo WROTE "${path}"`;
	const settings = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness"];
	const script = [
		...Object.values(at.secrets).map(write),
		...[at.folders.data, at.folders.neighbourCache, at.folders.cache].map((folder) => touch(join(folder, "new"))),
		...ofTheHost.map(touch),
		...settings.map(again),
		...["./own", "$GOCACHE/mine", "/tmp/written"].map(write),
		"for file in $(find /proc -maxdepth 2 -path '/proc/[a-z]*' -type f); do [ -f $file ] && [ -w $file ] && echo WROTE $file; done",
		"find /proc/sys -type f | while read -r file; do [ -w $file ] && echo WROTE $file; done",
	].join("; ");
	const own = await evil(t, sandbox, script, at);
	const wrote = [...own.matchAll(/^WROTE (.*)$/gm)].map(([, path]) => path);
	// Folders above what is bound are the sandbox's own, and go with it.
	t.same(
		wrote.filter((path) => !path?.startsWith(at.base)),
		["/tmp/written"],
	);
	const found = (await readdir(at.base, { recursive: true })).filter((path) => /\b(new|own|mine)$/.test(path));
	t.same(found.sort(), ["cache/namespaces/mine", "cache/namespaces/mine/go/build/mine", "data/builds/own"]);
	if (process.getuid?.() === 0)
		t.match(await evil(t, open, settings.map(again).join("; "), at), /WROTE .*core_pattern/, "the canary: root may");
	for (const file of Object.values(at.secrets)) t.equal(await readFile(file, "utf8"), CANARY);
	t.match(
		await evil(t, open, write("./own"), at),
		/WROTE/,
		"the canary: without a sandbox its source can be written to",
	);
});

inEach("what a build leaves as its program is not followed out of its work folder", async (t, sandboxOf) => {
	const at = await place(t);
	const sandbox = await sandboxOf(t);
	for (const what of [`ln -s '${GO}'`, "mkfifo", "mkdir"]) {
		const script = `while [ "$1" != -o ]; do shift; done; ${what} "$2"; exit 0`;
		t.match(await evil(t, sandbox, script, at), /ENDED build_failed .* is not a file/, what);
	}
});

inEach("caches: a namespace cannot reach another's, whatever its own name is", async (t, sandboxOf) => {
	const at = await place(t);
	const sandbox = await sandboxOf(t);
	for (const namespace of ["mine", "neighbour2", "..", ".", "go", "a/../neighbour"]) {
		const seen = await evil(t, sandbox, `echo "$GOCACHE"; find '${at.folders.cache}'`, at, namespace);
		t.notMatch(seen, CANARY);
		t.notMatch(seen, /object-d/, namespace);
	}
	t.match(
		await evil(t, sandbox, `cat '${at.secrets["a neighbour's cache"]}'`, at, "neighbour"),
		CANARY,
		"its own it can",
	);
});

inEach("a build sees neither the server's environment nor its processes", async (t, sandboxOf) => {
	process.env.SECRET_OF_SERVER = CANARY;
	t.teardown(() => delete process.env.SECRET_OF_SERVER);
	const at = await place(t);
	const sandbox = await sandboxOf(t);
	const script = `env; cat /proc/*/environ /proc/${process.pid}/environ | tr '\\0' '\\n'; ls /proc | grep -c '^[0-9]'; kill -0 ${process.pid} && echo ALIVE`;
	const seen = await evil(t, sandbox, script, at);
	t.notMatch(seen, CANARY);
	t.notMatch(seen, /ALIVE/);
	t.ok(Number(/^(\d+)$/m.exec(seen)?.[1]) < 12, "only its own processes");
	// /proc shows what was there at the start of a process: the canary is one that is started with it.
	const outside = await evil(
		t,
		open,
		`kill -0 ${process.pid} && echo ALIVE; tr '\\0' '\\n' </proc/${process.pid}/environ`,
		at,
	);
	t.match(outside, /ALIVE/);
	t.match(outside, /^PATH=/m);
});

inEach("a build reaches no socket of the host, by path, by abstract name or by port", async (t, sandboxOf) => {
	const folder = await folderFor(t);
	const greet = createServer((socket) => socket.end(CANARY));
	const path = join(folder, "socket");
	greet.listen(path);
	await once(greet, "listening");
	const abstract = `hostile-${process.pid}`;
	const second = createServer((socket) => socket.end(CANARY)).listen(`\0${abstract}`);
	await once(second, "listening");
	const tcp = createServer((socket) => socket.end(CANARY)).listen(0, "127.0.0.1");
	await once(tcp, "listening");
	const address = tcp.address();
	const port = typeof address === "object" ? address?.port : 0;
	for (const server of [greet, second, tcp]) t.teardown(() => server.close());
	const program = `
		const { connect } = require("node:net");
		const say = (name, options) => new Promise((done) => connect(options).on("data", (d) => console.log(name, String(d))).on("error", (e) => { console.log(name, e.code); done(); }).on("close", done));
		(async () => { await say("path", ${JSON.stringify(path)}); await say("abstract", "\\0${abstract}"); await say("tcp", ${port}); })();`;
	const node = { file: process.execPath, args: ["-e", program], reads: [process.execPath] };
	const inside = await shell(await sandboxOf(t), "", node);
	t.notMatch(inside.text, CANARY);
	t.equal(inside.lines.length, 3);
	const outside = await shell(open, "", node);
	t.equal(outside.lines.filter((line) => line.includes(CANARY)).length, 3, "the canaries");
});

t.test("a build has no descriptor of the server's, not even those that it was started with", { skip }, async (t) => {
	const folder = await folderFor(t);
	await writeFile(join(folder, "secret"), CANARY);
	const module = (file: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, file)).href);
	const command = `{ file: "/bin/sh", args: ["-c", "cat /proc/self/fd/40; ls /proc/self/fd | wc -l"], cwd: "/", env: { PATH: "/usr/bin:/bin" }, log: console.log, reads: [], writes: [], hosts: [] }`;
	const secret = openSync(join(folder, "secret"), "r");
	t.teardown(() => closeSync(secret));
	const run = async (sandbox: string) => {
		const program = `import { Bubblewrap } from ${module("../../../src/builders/sandbox/bubblewrap.ts")};
			import { OpenSandbox } from ${module("../../../src/builders/sandbox/open.ts")};
			const call = { signal: new AbortController().signal };
			const bubblewrap = await Bubblewrap.open({ file: ${JSON.stringify(BWRAP)}, workFolder: ${JSON.stringify(folder)} }, call);
			await ${sandbox}.run(${command}, call);
			await bubblewrap.close();`;
		// Node itself closes the first ones in its children.
		const stdio: ("ignore" | "pipe" | number)[] = ["ignore", "pipe", ...new Array<"ignore">(38).fill("ignore"), secret];
		const server = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio });
		t.teardown(() => server.kill("SIGKILL"));
		let said = "";
		for await (const chunk of server.stdout ?? []) said += chunk;
		return said;
	};
	t.match(await run("new OpenSandbox()"), CANARY, "the canary");
	t.notMatch(await run("bubblewrap"), CANARY);
});

inEach("no capability, no way to more: user namespaces, setuid, mounts", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const { text } = await shell(
		sandbox,
		"grep -E '^(Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs)' /proc/self/status; unshare -Ur true && echo NESTED; mount -t tmpfs x /tmp && echo MOUNTED; cat /proc/self/loginuid >/dev/null",
	);
	t.notMatch(text, /NESTED|MOUNTED/);
	t.match(text, /NoNewPrivs:\t1/);
	for (const [, set] of text.matchAll(/^Cap\w+:\t(\w+)$/gm)) t.match(set, /^0+$/);
	t.match((await shell(open, "unshare -Ur true && echo NESTED")).text, /NESTED/, "the canary");
});
