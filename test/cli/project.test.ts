import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import t, { type Test } from "tap";
import { toRuntimeFile } from "../../clients/cli/runtime-file.ts";
import { FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime, start, Terminal, write } from "./harness.ts";

async function fixture(t: Test, file: unknown) {
	const fake = await FakeServer.start();
	t.teardown(() => fake.stop());
	const text = typeof file === "string" ? file : JSON.stringify(file);
	const cwd = folder(t, { ...GO_FILES, "runtime.json": text, "cmd/api/main.go": GO_FILES["main.go"] });
	const body = () => fake.requests.findLast(({ method }) => ["POST", "PUT", "PATCH"].includes(method))?.body;
	return { fake, cwd, env: { RUNTIME_URL: fake.url }, body };
}

t.test("runtime.json says what flags do not", async (t) => {
	const { fake, cwd, env, body } = await fixture(t, {
		$schema: "./runtime.schema.json",
		name: "shop",
		namespace: "team",
		entrypoint: "cmd/api",
		builder: "go",
		env: { LEVEL: "info", MODE: "a" },
		args: ["-addr", "$HOST:$PORT"],
		health: { type: "http", path: "/ready", timeout: 5 },
		limits: { memory: 256, cpu: 0.5 },
	});
	const first = await runtime(["run", "."], { cwd, env });
	t.equal(first.code, 0, first.stderr);
	t.match(body(), {
		name: "shop",
		entrypoint: "cmd/api",
		env: { LEVEL: "info", MODE: "a" },
		args: ["-addr", "$HOST:$PORT"],
		health: { type: "http", path: "/ready", timeout: 5 },
		builder: "go",
	});
	t.same(Object(body()).limits, { memory: 256, cpu: 0.5 });
	t.equal(fake.requests.at(-1)?.namespace, "team");
	const flags = ["--env", "MODE=b", "--health", "port", "--entrypoint", ".", "--name", "other"];
	const second = await runtime(["run", ".", ...flags, "--", "-x"], { cwd, env: { ...env, RUNTIME_NAMESPACE: "mine" } });
	t.equal(second.code, 0, second.stderr);
	t.match(body(), { name: "other", entrypoint: ".", env: { LEVEL: "info", MODE: "b" }, args: ["-x"] });
	t.same(Object(body()).health, { type: "port", timeout: 5 });
	t.equal(fake.requests.at(-1)?.namespace, "mine", "a variable goes before the file");
	await runtime(["run", ".", "--name", "third", "--namespace", "flag"], { cwd, env });
	t.equal(fake.requests.at(-1)?.namespace, "flag");
	const early = await runtime(["update", ".", "--no-wait"], { cwd, env });
	t.match(early.stderr, "Follow: runtime wait shop --namespace team", "what is said next means the same namespace");
	const limits = ["--memory", "default", "--processes", "64", "--builder", "default"];
	const less = await runtime(["run", ".", "--name", "less", ...limits], { cwd, env });
	t.equal(less.code, 0, less.stderr);
	t.same(Object(body()).limits, { cpu: 0.5, processes: 64 }, "a new service has nothing that could be taken away");
	t.notOk("builder" in Object(body()));
	const taken = await runtime(["update", ".", "--name", "less", ...limits], { cwd, env });
	t.equal(taken.code, 0, taken.stderr);
	t.same(Object(body()).limits, { memory: null, cpu: 0.5, processes: 64 });
	t.equal(Object(body()).builder, null);
});

t.test("a limit that the server refuses and no flag asked for says where it stands", async (t) => {
	const { fake, cwd, env } = await fixture(t, { name: "shop", limits: { memory: 4096 } });
	fake.refuseChange = {
		...{ status: 400, code: "invalid_argument", field: "limits/memory" },
		detail: "this server gives at most 1024 MiB, and 4096 were asked for",
	};
	const inFile = await runtime(["run", "."], { cwd, env });
	t.equal(inFile.code, 1);
	t.match(inFile.stderr, "limits/memory: this server gives at most 1024 MiB");
	t.match(inFile.stderr, "runtime.json asks for it; without it:  runtime run … --memory default");
	const flag = await runtime(["run", ".", "--memory", "4096"], { cwd, env });
	t.notMatch(flag.stderr, "--memory default");
	fake.seed("shop");
	write(cwd, { "runtime.json": '{"name":"shop"}' });
	const kept = await runtime(["update", "."], { cwd, env });
	t.match(kept.stderr, "Try:  runtime update . --memory default");
	const json = await runtime(["update", ".", "--json"], { cwd, env });
	t.match(JSON.parse(json.stdout), { code: "invalid_argument", field: "limits/memory" });
});

t.test("another folder's runtime.json says nothing", async (t) => {
	const { cwd, env, body } = await fixture(t, { name: "shop", args: ["-x"] });
	t.equal((await runtime(["run", "./cmd/api"], { cwd, env })).code, 0);
	t.match(body(), { name: "api", entrypoint: "cmd/api" });
	t.notOk("args" in Object(body()));
});

t.test("secrets come from the environment, are kept, or are asked for", async (t) => {
	const { fake, cwd, env, body } = await fixture(t, { name: "shop", secrets: ["DB_PASSWORD", "API_KEY"] });
	const missing = await runtime(["run", "."], { cwd, env: { ...env, API_KEY: "k" } });
	t.equal(missing.code, 2);
	t.match(missing.stderr, "no value for the secret DB_PASSWORD; nothing was uploaded\n  Try:  set DB_PASSWORD");
	t.equal(fake.uploads.length, 0);
	const given = await runtime(["run", "."], { cwd, env: { ...env, API_KEY: "k", DB_PASSWORD: "p w" } });
	t.equal(given.code, 0, given.stderr);
	t.match(body(), { env: { API_KEY: "k", DB_PASSWORD: "p w" } });
	const kept = await runtime(["update", "."], { cwd, env: { ...env, API_KEY: "new" } });
	t.equal(kept.code, 0, kept.stderr);
	t.same(Object(body()).env, { API_KEY: "new" });
	const terminal = new Terminal(["run", ".", "--name", "asked"], { cwd, env: { ...env, API_KEY: "k" } });
	await terminal.sees("DB_PASSWORD (not shown): ");
	terminal.keys("hiddenX\u007f\r");
	t.equal(await terminal.exit, 0, terminal.stdout);
	t.match(body(), { env: { DB_PASSWORD: "hidden" } });
	t.notMatch(terminal.stdout, "hidden");
	const left = new Terminal(["run", ".", "--name", "left"], { cwd, env: { ...env, API_KEY: "k" } });
	await left.sees("DB_PASSWORD (not shown): ");
	left.keys("\u0003");
	t.equal(await left.exit, 130);
	t.notOk(fake.services.has("left:latest"));
});

const GOOD: unknown[] = [
	{},
	{ $schema: "x", name: "a-b", namespace: "n", entrypoint: ".", builder: "go", args: [], secrets: [], env: {} },
	{ health: { type: "none" } },
	{ health: { path: "/x", timeout: 3600 } },
	{ limits: {} },
	{ limits: { memory: 16, cpu: 0.01, processes: 8 } },
	{ limits: { memory: 1_048_576, cpu: 1024, processes: 4_194_304 } },
];
const BAD: [unknown, RegExp][] = [
	[[], /runtime\.json: it must be one JSON object/],
	[{ url: "http://x" }, /url does not belong there: a cloned repository must not say where your token goes/],
	[{ token: "x" }, /token does not belong there/],
	[{ api_key: "x" }, /api_key does not belong there/],
	[{ nmae: "x" }, /nmae is not known/],
	[{ name: "Not_Valid" }, /name must be a text: lower-case/],
	[{ name: 7 }, /name must be/],
	[{ namespace: "-" }, /namespace must be/],
	[{ entrypoint: "" }, /entrypoint must be/],
	[{ builder: "Go!" }, /builder must be/],
	[{ env: ["A"] }, /env must be an object/],
	[{ env: { A: 8 } }, /env\/A must be a text, as "8"/],
	[{ env: { "1A": "x" } }, /env\/1A is no name/],
	[{ secrets: "A" }, /secrets must be a list/],
	[{ secrets: ["A-B"] }, /secrets\/0 is no name/],
	[{ secrets: { A: "value" } }, /secrets must be a list/],
	[{ args: [1] }, /args\/0 must be a text/],
	[{ health: "port" }, /health must be an object/],
	[{ health: { type: "tcp" } }, /health\/type must be one of port, http, none/],
	[{ health: { path: "x" } }, /health\/path must be/],
	[{ health: { timeout: 0 } }, /health\/timeout must be/],
	[{ health: { kind: "port" } }, /health\/kind is not known/],
	[{ builder: "9go" }, /builder must be/],
	[{ limits: 512 }, /limits must be an object, as \{ "memory": 256 \}/],
	[{ limits: { mem: 512 } }, /limits\/mem is not known/],
	[{ limits: { memory: "512" } }, /limits\/memory must be a whole number of MiB from 16 to 1048576/],
	[{ limits: { memory: 15 } }, /limits\/memory must be/],
	[{ limits: { memory: 16.5 } }, /limits\/memory must be/],
	[{ limits: { memory: null } }, /limits\/memory must be/],
	[{ limits: { cpu: 0 } }, /limits\/cpu must be a number of cores from 0\.01 to 1024/],
	[{ limits: { processes: 4_194_305 } }, /limits\/processes must be/],
];

t.test("every fault names its field, and the JSON schema agrees", (t) => {
	const schema: unknown = JSON.parse(readFileSync("clients/cli/runtime.schema.json", "utf8"));
	const valid = new Ajv2020().compile(Object(schema));
	for (const data of GOOD) {
		t.doesNotThrow(() => toRuntimeFile(data), JSON.stringify(data));
		t.ok(valid(data), JSON.stringify(data));
	}
	for (const [data, words] of BAD) {
		t.throws(() => toRuntimeFile(data), words, JSON.stringify(data));
		t.notOk(valid(data), JSON.stringify(data));
	}
	t.throws(() => toRuntimeFile({ env: { A: "x" }, secrets: ["A"] }), /env\/A is one of secrets/);
	t.end();
});

t.test("a runtime.json that is broken stops before anything is asked or sent", async (t) => {
	const { fake, cwd, env } = await fixture(t, "{ name: }");
	const broken = await runtime(["run", "."], { cwd, env });
	t.equal(broken.code, 2);
	t.match(broken.stderr, "✘ runtime.json is not JSON");
	write(cwd, { "runtime.json": '{"server":"http://evil.example"}' });
	const sent = await runtime(["source", "upload", "."], { cwd, env });
	t.equal(sent.code, 2);
	t.match(sent.stderr, "Try:  --server URL");
	t.equal(fake.requests.length, 0);
	write(cwd, { "runtime.json": '{"builder":"rust"}' });
	const other = await runtime(["run", "."], { cwd, env });
	t.equal(other.code, 2);
	t.match(other.stderr, "runtime.json: builder rust is none of this server's (go); nothing was uploaded");
	const typo = await runtime(["run", ".", "--builder", "og"], { cwd, env });
	t.equal(typo.code, 2);
	t.match(typo.stderr, "--builder og is none of this server's (go); nothing was uploaded\n  Did you mean:  go");
	const twoBuilders = [
		{ name: "go", markers: ["go.mod"] },
		{ name: "node", markers: ["package.json"] },
	];
	const two = await FakeServer.start({ builders: twoBuilders });
	t.teardown(() => two.stop());
	write(cwd, { "runtime.json": "{}" });
	const node = await runtime(["run", ".", "--builder", "node"], { cwd, env: { RUNTIME_URL: two.url } });
	t.equal(node.code, 2);
	t.match(node.stderr, "Nothing to build in . (no package.json)");
	t.equal(two.uploads.length, 0);
	t.equal(fake.uploads.length, 0);
});

t.test("source upload prints the key, and deploy --source takes it", async (t) => {
	const { fake, cwd, env, body } = await fixture(t, {});
	const stored = await runtime(["source", "upload", "."], { cwd, env });
	t.equal(stored.code, 0, stored.stderr);
	t.equal(stored.stdout, "source://s1\n");
	t.match(stored.stderr, /^upload 100% \d+ B\n$/);
	const json = await runtime(["source", "upload", "./cmd/api", "--json"], { cwd, env });
	t.match(JSON.parse(json.stdout), { source: "source://s2", digest: /^sha256:/, entrypoint: "cmd/api" });
	const listed = await runtime(["source", "upload", "--dry-run"], { cwd, env });
	t.match(listed.stdout, /^\d+\tcmd\/api\/main\.go\n/);
	t.equal(fake.uploads.length, 2);
	const empty = folder(t);
	const deploy = ["deploy", "--source", "source://s2", "--name", "api", "--entrypoint", "cmd/api"];
	const deployed = await runtime(deploy, { cwd: empty, env });
	t.equal(deployed.code, 0, deployed.stderr);
	t.same(body(), { source: "source://s2", entrypoint: "cmd/api" });
	t.match(deployed.stdout, /^http/);
	const folderToo = await runtime(["deploy", "./cmd/api", "--source", "source://s2"], { cwd, env });
	t.equal(folderToo.code, 0, folderToo.stderr);
	t.match(body(), { source: "source://s2", entrypoint: "cmd/api", metadata: { source: "./cmd/api" } });
	const positional = await runtime(["run", "source://s1", "--name", "two"], { cwd: empty, env });
	t.equal(positional.code, 0, positional.stderr);
	const byName = await runtime(["update", "two", "--source", "source://s2"], { cwd: empty, env });
	t.equal(byName.code, 0, byName.stderr);
	t.same(body(), { source: "source://s2" });
	t.equal(fake.uploads.length, 2);
	const nameless = await runtime(["deploy", "--source", "source://s1"], { cwd: empty, env });
	t.equal(nameless.code, 2);
	t.match(nameless.stderr, "--source goes with --name");
	const wrong = await runtime(["deploy", "--source", "s1", "--name", "x"], { cwd: empty, env });
	t.equal(wrong.code, 2);
	t.match(wrong.stderr, "no key of an upload");
});

t.test("an interrupted source upload keeps nothing", async (t) => {
	const { fake, cwd, env } = await fixture(t, {});
	fake.stallUpload = true;
	write(cwd, { "big.bin": "x".repeat(100) });
	const running = start(["source", "upload", "."], { cwd, env });
	while (fake.uploads.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
	running.child.kill("SIGINT");
	t.equal(await running.exit, 130);
	t.match(running.stderr, "Cancelled; nothing was kept");
	t.equal(running.stdout, "");
	t.notOk(fake.uploads[0]?.whole, join(cwd, "is not stored"));
});
