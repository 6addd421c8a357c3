import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import path from "node:path";
import t, { type Test } from "tap";
import { PackageIndex } from "../builders/launchers/package-index.ts";
import type { Api, Service } from "../harness/api.ts";
import { processesUnder, programsUnder } from "../harness/processes.ts";
import { dataFolder, TestServer, until } from "../harness/server.ts";
import { workIn } from "../harness/work-folder.ts";

const PROBE = path.resolve(import.meta.dirname, "../fixtures/monorepo/probe");
const TOKEN = "the-secret-of-the-test";

function has(tool: string): boolean {
	try {
		execFileSync(tool, ["--version"], { stdio: "ignore" });
		return true;
	} catch {
		return false;
	}
}

const NODE = `const http = require("node:http");
const server = http.createServer((request, response) => response.end(\`\${process.env.GREETING ?? "node"} \${process.argv.slice(2).join(",")}\\n\`));
server.listen(Number(process.env.PORT), process.env.HOST);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
`;
const PYTHON = `import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write((os.environ.get("GREETING", "python") + " " + ",".join(sys.argv[1:]) + "\\n").encode())
    def log_message(self, *args): pass
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
`;

async function start(t: Test, args: readonly string[] = [], env: Record<string, string> = {}): Promise<TestServer> {
	const dataDir = await dataFolder(t);
	const server = await TestServer.start({ dataDir, args: ["--profile", "dev", "--stop-services", ...args], env });
	t.teardown(() => server.stop());
	return server;
}

async function replies(service: Service): Promise<string> {
	return (await (await fetch(service.url ?? "")).text()).trim();
}

async function make(api: Api, name: string, files: Record<string, string>, more: object = {}): Promise<Service> {
	const source = await api.uploadFiles(files);
	const answer = await api.call("POST", "/services", { name, source, ...more });
	if (answer.status !== 201) throw new Error(`${name}: ${answer.status} ${JSON.stringify(answer.body)}`);
	return answer.body as Service;
}

/** Folders, unpacked sources, logs and processes of services. */
async function remains({ dataDir }: TestServer): Promise<string[]> {
	const folders = ["directories", "work", "build-logs"].map(async (folder) => {
		const place = path.join(dataDir, folder);
		const names = folder === "work" ? await workIn(dataDir) : existsSync(place) ? await readdir(place) : [];
		return names.map((name) => `${folder}/${name}`);
	});
	const programs = (await processesUnder(path.join(dataDir, "directories"))).map(({ command }) => command);
	return [...(await Promise.all(folders)).flat(), ...programs];
}

async function nothing(server: TestServer): Promise<void> {
	let last: string[] = [];
	await until(async () => {
		last = await remains(server);
		return last.length === 0;
	}, "nothing is left").catch((error: unknown) => {
		throw new Error(`${error}: ${last.join(", ")}`);
	});
}

t.test("each kind of program runs, is answered when it does, and ends", async (t) => {
	const server = await start(t);
	const { api } = server;
	const arrays = { args: ["a", "b"] };
	const source = await api.uploadFolder(PROBE);
	await t.test("Go", async (t) => {
		const answer = await api.call("POST", "/services", { name: "go", source, env: { GREETING: "go" } });
		t.equal(answer.status, 201);
		t.match(answer.body, { status: "Running", revision: 1, build: null, error: null });
		t.match(await replies(await api.get("go")), /^go /);
		t.equal((await programsUnder(path.join(server.dataDir, "directories"))).length, 1);
	});
	await t.test("Procfile", { skip: has("node") ? false : "node is missing" }, async (t) => {
		const files = { Procfile: "worker: false\nweb: node main.js\n", "main.js": NODE };
		const service = await make(api, "procfile", files, { ...arrays, env: { GREETING: "a=b" } });
		t.equal(await replies(service), "a=b a,b");
	});
	const npm = has("npm") ? false : "npm is missing";
	await t.test("package.json", { skip: npm }, async (t) => {
		const manifest = { name: "x", version: "1.0.0", scripts: { start: "node main.js" } };
		const files = { "package.json": JSON.stringify(manifest), "main.js": NODE };
		t.equal(await replies(await make(api, "node", files, arrays)), "node a,b");
	});
	await t.test("package.json with dependencies", { skip: npm }, async (t) => {
		const manifest = {
			...{ name: "x", version: "1.0.0", scripts: { start: "node main.js" } },
			dependencies: { greeting: "file:./greeting" },
		};
		const files = {
			"package.json": JSON.stringify(manifest),
			"main.js": NODE.replace('"node"', 'require("greeting")'),
			"greeting/package.json": JSON.stringify({
				...{ name: "greeting", version: "1.0.0", main: "index.js" },
				scripts: { install: "touch ../../installed" },
			}),
			"greeting/index.js": 'module.exports = "from a dependency";',
		};
		const service = await make(api, "deps", files);
		t.equal(await replies(service), "from a dependency");
		t.notOk(
			existsSync(path.join(server.dataDir, "directories", service.id, "1", "installed")),
			"no install script ran",
		);
	});
	await t.test("Python", { skip: has("python3") ? false : "python3 is missing" }, async (t) => {
		t.equal(await replies(await make(api, "python", { "main.py": PYTHON }, arrays)), "python a,b");
		const source = await api.uploadFiles({ "main.py": "def f(:\n" });
		const answer = await api.call("POST", "/services", { name: "broken", source });
		t.match(answer, { status: 422, body: { error: { code: "build_failed", message: /main\.py|SyntaxError/ } } });
	});
	for (const { name } of await list(api)) await api.call("DELETE", `/services/${name}/latest`);
	await until(async () => (await list(api)).length === 0, "all are gone");
	await nothing(server);
});

t.test(
	"packages of a private index: its password is in neither the log nor the program",
	{ skip: has("python3") ? false : "python3 is missing" },
	async (t) => {
		const index = await PackageIndex.open(t);
		index.credentials = `operator:${TOKEN}`;
		await index.publish("greet", "import os\ndef run():\n    print(dict(os.environ))\n    return {'who': 'greet'}");
		const server = await start(t, [], { PIP_INDEX_URL: index.simple, PIP_CONFIG_FILE: "/dev/null" });
		const { api } = server;
		const program = PYTHON.replace('os.environ.get("GREETING", "python")', "str(greet.SEEN) + str(dict(os.environ))");
		const files = { "main.py": `import greet\n${program}`, "requirements.txt": "greet==1.0\n" };
		const service = await make(api, "private", files);
		const said = await replies(service);
		t.match(said, "'who': 'greet'");
		t.notMatch(said, TOKEN);
		const answer = await fetch(`${server.url}/builds/private/latest/log`, {
			headers: { authorization: `Bearer ${server.token}` },
		});
		const log = await answer.text();
		t.match(log, "pip install -r requirements.txt");
		t.notMatch(log, TOKEN);
		await api.call("DELETE", "/services/private/latest");
	},
);

async function list(api: Api): Promise<readonly Service[]> {
	const { body } = await api.call("GET", "/services");
	return (body as { services: Service[] }).services;
}

t.test("a compile error and a start error are the answer, and nothing is left", async (t) => {
	const server = await start(t, [], { RUNTIME_BUILD_SECRET: TOKEN });
	const { api } = server;
	const good = 'package main\n\nimport "os"\n\nfunc main() {\n\tprintln("last words")\n\tos.Exit(3)\n}\n';
	const bad = await api.uploadFiles({
		"go.mod": "module x\n\ngo 1.21\n",
		"main.go": good.replace("os.Exit(3)", "os.Exit(nowhere)"),
	});
	const compile = await api.call("POST", "/services", { name: "app", source: bad });
	t.match(compile, { status: 422, body: { code: "build_failed", error: { code: "build_failed", phase: "build" } } });
	const { error } = compile.body as { error: { diagnostics: unknown[] } };
	t.match(error.diagnostics[0], { file: "main.go", line: 7, message: /undefined: nowhere/ });
	await nothing(server);
	const source = await api.uploadFiles({ "go.mod": "module x\n\ngo 1.21\n", "main.go": good });
	const exits = await api.call("POST", "/services", { name: "app", source });
	t.match(exits, {
		status: 422,
		body: { error: { code: "exited", phase: "start", exitCode: 3, lastLines: [/last words/] } },
	});
	await nothing(server);
	const none = await api.call("POST", "/services", { name: "app", source: await api.uploadFiles({ "x.txt": "x" }) });
	t.match(none, { status: 422, body: { error: { code: "source_invalid", message: /go\.mod|main\.py|Procfile/ } } });
	t.same(await list(api), []);
	await nothing(server);
	t.equal(
		(await api.call("POST", "/services", { name: "app", source: await api.uploadFolder(PROBE) })).status,
		201,
		"the name is free",
	);
});

const HANG = "package main\n\nfunc main() { select {} }\n";

t.test("until it runs nobody sees it; a client that leaves and a time limit leave nothing", async (t) => {
	const server = await start(t, ["--synchronous-timeout", "4"]);
	const { api } = server;
	const source = await api.uploadFiles({
		"go.mod": "module x\n\ngo 1.21\n",
		"main.go": HANG.replace("select {}", "for {}"),
	});
	const client = new AbortController();
	const create = (signal: AbortSignal) =>
		fetch(`${server.url}/services`, {
			...{ method: "POST", signal, body: JSON.stringify({ name: "app", source }) },
			headers: { authorization: `Bearer ${server.token}`, "content-type": "application/json" },
		});
	const first = create(client.signal).then(
		() => "answered",
		() => "left",
	);
	const folder = path.join(server.dataDir, "directories");
	await until(() => existsSync(folder), "the folder is made");
	t.equal(await api.find("app"), undefined, "GET: 404");
	t.same(await list(api), []);
	t.equal((await create(new AbortController().signal)).status, 409, "its name is taken");
	client.abort();
	t.equal(await first, "left");
	await nothing(server);
	const late = await create(new AbortController().signal);
	t.equal(late.status, 504);
	await nothing(server);
	t.same(await list(api), []);
});

t.test("updates: a failure is an answer and the old goes on; a deleted folder is made again", async (t) => {
	const server = await start(t);
	const { api } = server;
	const source = await api.uploadFolder(PROBE);
	t.equal((await api.call("POST", "/services", { name: "app", source, env: { GREETING: "one" } })).status, 201);
	const bad = await api.uploadFiles({
		"go.mod": "module x\n\ngo 1.21\n",
		"main.go": "package main\n\nfunc main() { x }\n",
	});
	const failed = await api.call("PATCH", "/services/app/latest", { source: bad });
	t.match(failed, { status: 422, body: { error: { code: "build_failed" } } });
	t.match(await api.get("app"), { status: "Running", revision: 1, target: { revision: 2, status: "Error" } });
	t.match(await replies(await api.get("app")), /^one /);
	const updated = await api.call("PATCH", "/services/app/latest", { source, env: { GREETING: "two" } });
	t.match(updated, { status: 200, body: { status: "Running", revision: 3, target: null } });
	t.match(await replies(await api.get("app")), /^two /);
	const rolled = await api.call("POST", "/services/app/latest/rollback", { revision: 1 });
	t.match(rolled, { status: 200, body: { revision: 4 } });
	const service = await api.get("app");
	t.match(await replies(service), /^one /);
	const folder = path.join(server.dataDir, "directories", service.id, "4");
	await rm(folder, { recursive: true });
	t.equal((await api.call("POST", "/services/app/latest/restart")).status, 202);
	await until(() => existsSync(path.join(folder, "main.go")), "the folder is there again");
	await until(async () => (await api.get("app")).status === "Running", "it runs again");
	t.match(await replies(service), /^one /);
});
