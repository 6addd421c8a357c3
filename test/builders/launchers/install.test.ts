import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { BuildError } from "../../../src/builders/builder.ts";
import type { Launcher } from "../../../src/builders/launcher.ts";
import { NodeLauncher } from "../../../src/builders/launchers/node.ts";
import { PythonLauncher } from "../../../src/builders/launchers/python.ts";
import type { Tools } from "../../../src/builders/launchers/tools.ts";
import { OpenSandbox } from "../../../src/builders/sandbox/open.ts";
import type { Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { temporaryFolder } from "../../conformance/builder.ts";
import { until } from "../../harness/server.ts";
import { makeCertificates } from "../../hosts/certificates.ts";
import { bubblewrap, skip } from "../hostile/sandboxes.ts";
import { Registry } from "../node/registry.ts";
import { PackageIndex } from "./package-index.ts";

const target = { os: "linux", arch: "amd64" };
const CANARY = "canary-5b20";
const START = JSON.stringify({ scripts: { start: "node main.js" } });

function has(...command: [string, ...string[]]): boolean {
	try {
		execFileSync(command[0], command.slice(1), { stdio: "ignore" });
		return true;
	} catch {
		return false;
	}
}
const noOpenssl = !has("openssl", "version") && "openssl is not installed";
const noPython = !has("python3", "-m", "venv", "-h") && "Python with venv is not installed";

type Env = Record<string, string | undefined>;

async function place(t: Test, files: Record<string, string>) {
	const base = await temporaryFolder(t);
	const root = path.join(base, "root");
	const write = async (name: string, text: string) => {
		await mkdir(path.dirname(path.join(root, name)), { recursive: true });
		await writeFile(path.join(root, name), text);
	};
	for (const [name, text] of Object.entries(files)) await write(name, text);
	return { base, root, write };
}

function toolsOf(base: string, sandbox: Sandbox, serverEnv: Env): Tools {
	return { sandbox, cacheFolder: path.join(base, "cache"), workFolder: path.join(base, "work"), serverEnv };
}

async function prepared(make: Launcher, root: string, signal = new AbortController().signal, namespace = "default") {
	const lines: string[] = [];
	const work = make.prepare(root, { namespace, entrypoint: ".", target }, { signal, log: (line) => lines.push(line) });
	const launch = await work.catch((error: unknown) => error);
	return { launch, lines, text: lines.join("\n") };
}

function failed({ launch }: { readonly launch: unknown }): BuildError {
	if (launch instanceof BuildError) return launch;
	throw new Error(`no BuildError: ${launch instanceof Error ? launch.stack : JSON.stringify(launch)}`);
}

/** The machine's own settings have no part in a test. */
function pipEnv(base: string, index: PackageIndex, more: Env = {}): Env {
	const { PATH } = process.env;
	return { PATH, HOME: base, PIP_INDEX_URL: index.simple, PIP_CONFIG_FILE: "/dev/null", ...more };
}

/** What a package of the index came to see while it was built, by the program's own interpreter. */
async function seen(root: string, name: string): Promise<Record<string, string>> {
	const python = path.join(root, ".runtime/venv/bin/python3");
	const program = `import json, ${name}; print(json.dumps(${name}.SEEN))`;
	const { stdout } = await promisify(execFile)(python, ["-c", program], { env: { PATH: process.env.PATH } });
	return JSON.parse(stdout);
}

async function sandboxes(t: Test): Promise<Sandbox[]> {
	return skip === false ? [new OpenSandbox(), await bubblewrap(t)] : [new OpenSandbox()];
}

t.test("npm: by the lockfile or by package.json, from the operator's registry, without scripts", async (t) => {
	for (const sandbox of await sandboxes(t)) {
		const registry = await Registry.open(t);
		await registry.publish("greet", { "index.js": 'module.exports = "hi";' }, { scripts: { install: "touch ran" } });
		const project = registry.project(["greet"]);
		const manifest = JSON.stringify({ ...JSON.parse(project["package.json"] ?? ""), ...JSON.parse(START) });
		for (const lock of [true, false]) {
			const { base, root, write } = await place(t, { ...project, "package.json": manifest });
			if (!lock) await promisify(execFile)("rm", [path.join(root, "package-lock.json")]);
			const serverEnv = { ...(await registry.serverEnv(t)), SERVER_SECRET: CANARY };
			const launcher = new NodeLauncher(toolsOf(base, sandbox, serverEnv));
			const { launch, text } = await prepared(launcher, root);
			t.match(launch, { launcher: "node", requires: "node", folder: "." }, text);
			const folder = path.join(root, "node_modules", "greet");
			t.same((await readdir(folder)).sort(), ["index.js", "package.json"], `${sandbox.name}: ${lock}`);
			t.match(text, lock ? /^npm ci / : /^npm install /);
			t.notMatch(text, CANARY);
			t.same(await readdir(path.join(base, "work")), [], "no home is left");
			const before = registry.asked.filter((line) => line.endsWith(".tgz")).length;
			await prepared(launcher, root);
			t.equal(registry.asked.filter((line) => line.endsWith(".tgz")).length, before, "it is fetched once");
			await write("package.json", START);
			t.equal((await prepared(launcher, root)).lines.length, 1, "nothing to install");
		}
	}
});

t.test(
	"npm in a sandbox: the project's settings cannot print the operator's; other hosts are named",
	{ skip },
	async (t) => {
		const registry = await Registry.open(t);
		const other = await Registry.open(t);
		await other.publish("away", { "index.js": "" });
		await registry.publish("greet", { "index.js": "" });
		const serverEnv: Env = { ...(await registry.serverEnv(t, `//corp.example/:_authToken=\${CORP}`)), CORP: CANARY };
		const leak = `registry=${registry.url}/\${CORP}/\n`;
		const manifest = { ...JSON.parse(START), dependencies: { nothing: "1.0.0" } };
		const files = { "package.json": JSON.stringify(manifest), ".npmrc": leak };
		const { base, root } = await place(t, files);
		const inside = await prepared(new NodeLauncher(toolsOf(base, await bubblewrap(t), serverEnv)), root);
		t.match(failed(inside).message, /is not in the registry/);
		t.notMatch(inside.text + failed(inside).message, CANARY);
		t.equal(await readFile(path.join(root, ".npmrc"), "utf8"), leak, "the program has its file again");
		const open = await prepared(new NodeLauncher(toolsOf(base, new OpenSandbox(), serverEnv)), root);
		t.match(open.text + failed(open).message, CANARY, "the canary: npm prints it");

		const project = other.project(["away"], JSON.parse(START));
		const away = await place(t, project);
		const refused = failed(
			await prepared(new NodeLauncher(toolsOf(away.base, await bubblewrap(t), serverEnv)), away.root),
		);
		t.match(refused, { code: "unavailable", retryable: false });
		t.ok(refused.message.includes(`npm was refused ${new URL(other.url).host}`), refused.message);
		t.match(refused.message, /@scope:registry/);
		t.equal(other.asked.length, 0);
		t.match((await prepared(new NodeLauncher(toolsOf(away.base, new OpenSandbox(), serverEnv)), away.root)).launch, {
			launcher: "node",
		});
		t.ok(other.asked.length > 0, "the canary: without a sandbox it is reached");
	},
);

t.test(
	"Python: main.py is compiled first; requirements go into an environment of its own",
	{ skip: noPython },
	async (t) => {
		for (const sandbox of await sandboxes(t)) {
			const index = await PackageIndex.open(t);
			await index.publish("greet", "def run(): return {'hello': 'there'}");
			const { base, root, write } = await place(t, { "main.py": "import greet\n", "requirements.txt": "# none\n\n" });
			// A module of the source is not taken for Python's own.
			for (const name of ["pip", "venv", "py_compile"]) await write(`${name}.py`, "raise SystemExit(9)");
			const launcher = new PythonLauncher(toolsOf(base, sandbox, pipEnv(base, index)));
			t.equal(await launcher.detect(root, "."), true);
			const plain = await prepared(launcher, root);
			t.match(plain.launch, { command: [/^\//, "-u", "main.py"], folder: ".", launcher: "python" }, plain.text);
			t.notOk(existsSync(path.join(root, ".runtime")));
			await write("requirements.txt", "greet==1.0\n");
			const { launch, text } = await prepared(launcher, root);
			const python = path.join(root, ".runtime/venv/bin/python3");
			t.match(launch, { command: [python, "-u", "main.py"], requires: "python" }, text);
			t.same(await seen(root, "greet"), { hello: "there" });
			t.same(await readdir(path.join(base, "work")), [], "no home is left");
			await write("requirements.txt", "nothing==1.0\n");
			t.match(failed(await prepared(launcher, root)), {
				code: "build_failed",
				message: /^pip install -r requirements\.txt ended with 1: ERROR: No matching distribution found for nothing/,
			});
			await write("main.py", "def f(:\n");
			t.match(failed(await prepared(launcher, root)), { code: "build_failed", message: /SyntaxError/ });
		}
		const none = toolsOf(await temporaryFolder(t), new OpenSandbox(), { PATH: "/nonexistent" });
		const { root } = await place(t, {
			"main.py": "",
			"package.json": START.replace("}}", '},"dependencies":{"a":"1"}}'),
		});
		t.match(failed(await prepared(new PythonLauncher(none), root)), {
			...{ code: "unavailable", message: /^python3 is not installed on the server, .*: install Python 3/ },
		});
		t.match(failed(await prepared(new NodeLauncher(none), root)), {
			...{ code: "unavailable", message: /^there is no npm on the machine that builds .*Install/ },
		});
	},
);

/** Finds processes by what they were started with. */
async function running(marker: string): Promise<number[]> {
	const found: number[] = [];
	for (const pid of await readdir("/proc"))
		if (/^\d+$/.test(pid) && (await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")).includes(marker))
			found.push(Number(pid));
	return found;
}

t.test(
	"a package that is built reads no neighbour, no server, reaches nobody and stays nowhere",
	{ skip: skip || noPython },
	async (t) => {
		let reached = 0;
		const other = createServer((_, response) => {
			reached++;
			response.end(CANARY);
		}).listen(0, "127.0.0.1");
		await once(other, "listening");
		t.teardown(() => other.close());
		const address = other.address();
		const port = typeof address === "object" ? address?.port : 0;
		const marker = `86400.${process.pid}`;
		t.teardown(async () => {
			for (const pid of await running(marker)) process.kill(pid, "SIGKILL");
		});
		for (const [sandbox, contained] of [
			[await bubblewrap(t), true],
			[new OpenSandbox(), false],
		] as const) {
			const index = await PackageIndex.open(t);
			const { base, root } = await place(t, { "main.py": "", "requirements.txt": "evil\n" });
			const neighbour = path.join(base, "neighbour");
			await writeFile(neighbour, CANARY);
			await index.publish(
				"evil",
				`import os, glob, subprocess, urllib.request
def attempt(work):
    try: return str(work())
    except BaseException as error: return repr(error)
def environments():
    said = dict(os.environ).__repr__()
    for name in glob.glob("/proc/*/environ"):
        try: said += open(name, "rb").read().decode("latin1")
        except OSError: pass
    return said
def run():
    subprocess.Popen(["setsid", "sleep", "${marker}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return {
        "file": attempt(lambda: open(${JSON.stringify(neighbour)}).read()),
        "environment": attempt(environments),
        "direct": attempt(lambda: straight.open("http://127.0.0.1:${port}/", timeout=9).read()),
        "proxied": attempt(lambda: urllib.request.urlopen("http://127.0.0.1:${port}/", timeout=9).read()),
        "write": attempt(lambda: open(${JSON.stringify(`${neighbour}-2`)}, "w").write("x")),
    }
`,
			);
			const env = pipEnv(base, index, { SERVER_SECRET: CANARY });
			// Of the server's environment a program gets its own part only; here another process stands for the server.
			const server = execFile("sleep", [marker], { env: { PATH: process.env.PATH, SERVER_SECRET: CANARY } });
			const { launch, text } = await prepared(new PythonLauncher(toolsOf(base, sandbox, env)), root);
			server.kill("SIGKILL");
			t.match(launch, { launcher: "python" }, text);
			const found = await seen(root, "evil");
			for (const [what, said] of Object.entries(found))
				if (what !== "write") t.equal(said.includes(CANARY), !contained, `${sandbox.name}: ${what}`);
			t.equal(existsSync(`${neighbour}-2`), !contained, `${sandbox.name}: write`);
			await until(async () => (await running(marker)).length <= (contained ? 0 : 1), "only a daemon is left");
			t.equal((await running(marker)).length, contained ? 0 : 1, `${sandbox.name}: a daemon`);
			t.equal(reached, contained ? 0 : 2);
		}
	},
);

t.test("the operator's credentials for an index are not pip's to tell", { skip: noPython }, async (t) => {
	const looks = `import os, glob, urllib.request, json
def run():
    said = repr(dict(os.environ))
    for name in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + glob.glob(os.environ["HOME"] + "/**", recursive=True):
        try: said += open(name, "rb").read().decode("latin1")
        except OSError: pass
    print(said)
    answers = []
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    base = os.environ["PIP_INDEX_URL"].rsplit("/team/simple", 1)[0]
    for path in ["/private", "/team/simple/../../private", "/team/simple/..%2f..%2fprivate", "/team/simple/%2e%2e/%2e%2e/private", "/team/simple/none/"]:
        try: answers.append(straight.open(base + path).read().decode())
        except urllib.error.HTTPError as error: answers.append(error.code)
    return {"said": said, "answers": json.dumps(answers)}
`;
	for (const sandbox of await sandboxes(t)) {
		const index = await PackageIndex.open(t);
		index.credentials = `operator:${CANARY}`;
		await index.publish("looks", looks);
		await index.publish("fails", `${looks.replace("return {", "raise SystemExit(3)\n    return {")}`);
		for (const link of [
			(origin: string, file: string) => `${origin}/files/${file}`,
			(_: string, file: string) => `/files/${file}`,
			(_: string, file: string) => `../../../files/${file}`,
		].slice(0, sandbox.name === "none" ? 3 : 1)) {
			index.link = link;
			const { base, root, write } = await place(t, { "main.py": "", "requirements.txt": "looks\n" });
			const launcher = new PythonLauncher(toolsOf(base, sandbox, pipEnv(base, index)));
			const { launch, text } = await prepared(launcher, root);
			t.match(launch, { launcher: "python" }, text);
			const { said = "", answers } = await seen(root, "looks");
			t.notMatch(said + text, CANARY, sandbox.name);
			t.match(said, "PIP_INDEX_URL", "it has looked");
			t.same(JSON.parse(answers ?? ""), [403, 403, 403, 403, 404], "its own pages alone");
			await write("requirements.txt", "fails\n");
			const broken = await prepared(launcher, root);
			t.match(failed(broken), { code: "build_failed" });
			t.notMatch(broken.text + failed(broken).message, CANARY);
		}
		index.credentials = "operator:other";
		const { base, root } = await place(t, { "main.py": "", "requirements.txt": "looks\n" });
		const env = pipEnv(base, index, { PIP_INDEX_URL: index.simple.replace("other", CANARY) });
		const denied = await prepared(new PythonLauncher(toolsOf(base, sandbox, env)), root);
		t.match(failed(denied).message, /looks/);
		t.notMatch(denied.text + failed(denied).message, CANARY);
	}
});

t.test("certificates of the operator's own authority are trusted", { skip: noPython || noOpenssl }, async (t) => {
	const { ca, key, cert } = await makeCertificates(await temporaryFolder(t), ["localhost"]);
	for (const sandbox of await sandboxes(t))
		for (const credentials of [undefined, "operator:secret"]) {
			const index = await PackageIndex.open(t, { key, cert });
			index.credentials = credentials;
			await index.publish("greet", "def run(): return {}");
			const { base, root } = await place(t, { "main.py": "", "requirements.txt": "greet\n" });
			const make = (more: Env) => prepared(new PythonLauncher(toolsOf(base, sandbox, pipEnv(base, index, more))), root);
			if (credentials === undefined) t.ok(failed(await make({ PIP_RETRIES: "0" })), "the canary");
			t.match((await make({ PIP_CERT: ca })).launch, { launcher: "python" }, `${sandbox.name} ${credentials}`);
		}
});

t.test(
	"an index with its files on another host: the error names it, and find-links lets pip there",
	{ skip: skip || noPython },
	async (t) => {
		const [index, files] = [await PackageIndex.open(t), await PackageIndex.open(t)];
		for (const each of [index, files]) await each.publish("greet", "def run(): return {}");
		index.filesAt = files.url;
		const { base, root } = await place(t, { "main.py": "", "requirements.txt": "greet\n" });
		const make = async (more: Env) =>
			prepared(new PythonLauncher(toolsOf(base, await bubblewrap(t), pipEnv(base, index, more))), root);
		const refused = failed(await make({}));
		t.match(refused, { code: "unavailable", retryable: false, message: /find-links/ });
		t.ok(
			refused.message.includes(
				`it was refused ${new URL(files.url).host}; packages come from ${new URL(index.url).host}`,
			),
		);
		t.equal(files.asked.length, 0);
		t.match((await make({ PIP_FIND_LINKS: `${files.url}/` })).launch, { launcher: "python" });
		t.match((await make({ PIP_TRUSTED_HOST: new URL(files.url).host })).launch, { launcher: "python" });
	},
);

t.test(
	"a limit is an error in words, and a cancelled call ends what was left",
	{ skip: skip || noPython },
	async (t) => {
		const MIB = 1024 ** 2;
		for (const [limits, attack, message] of [
			[
				{ disk: 48 * MIB },
				"for i in range(4000): open(f'/proc/self/cwd/big-{i}', 'wb').write(b'x' * 1048576)",
				/pip install .* was ended: it wrote more than 48 MiB to the disk/,
			],
			[
				{ memory: 192 * MIB },
				"x = []\n    while True: x.append(b'x' * 1048576)",
				/pip install .* was ended: it used more than 192 MiB of memory/,
			],
		] as const) {
			const index = await PackageIndex.open(t);
			await index.publish("greedy", `def run():\n    ${attack}\n`);
			const { base, root } = await place(t, { "main.py": "", "requirements.txt": "greedy\n" });
			const tools = toolsOf(base, await bubblewrap(t, { limits }), pipEnv(base, index));
			const error = failed(await prepared(new PythonLauncher(tools), root));
			t.match(error, { code: "build_failed", message });
		}
		const marker = `86401.${process.pid}`;
		const index = await PackageIndex.open(t);
		await index.publish("slow", `import subprocess\ndef run(): subprocess.run(["setsid", "sleep", "${marker}"])\n`);
		const { base, root } = await place(t, { "main.py": "", "requirements.txt": "slow\n" });
		const abort = new AbortController();
		const tools = toolsOf(base, await bubblewrap(t), pipEnv(base, index));
		const work = prepared(new PythonLauncher(tools), root, abort.signal);
		await until(async () => (await running(marker)).length > 0, "it is there");
		abort.abort();
		t.match((await work).launch, { code: "cancelled" });
		t.same(await running(marker), []);
		t.same(await readdir(path.join(base, "work")), []);
	},
);
