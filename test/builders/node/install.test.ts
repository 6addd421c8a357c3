import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { OpenSandbox } from "../../../src/builders/sandbox/open.ts";
import type { Confined } from "../../../src/builders/sandbox/sandbox.ts";
import { type Files, temporaryFolder } from "../../conformance/builder.ts";
import { bubblewrap, skip } from "../hostile/sandboxes.ts";
import { failing, ran } from "./node-harness.ts";
import { Registry } from "./registry.ts";

const MAIN = { "index.js": 'console.log(require("greet"));\n' };
const GREET = { "index.js": 'module.exports = "hi";\n' };

async function withGreet(t: Test, npmrc = "") {
	const registry = await Registry.open(t);
	await registry.publish("greet", GREET);
	return { registry, serverEnv: await registry.serverEnv(t, npmrc) };
}

t.test("packages are fetched once for each namespace", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const cacheFolder = await temporaryFolder(t);
	const files = { ...registry.project(["greet"]), ...MAIN };
	const fetched = () => registry.asked.filter((line) => line.endsWith(".tgz")).length;
	for (const [namespace, count] of [
		["default", 1],
		["default", 1],
		["other", 2],
	] as const) {
		t.equal((await ran(t, files, { serverEnv, cacheFolder, namespace })).stdout, "hi\n");
		t.equal(fetched(), count, namespace);
	}
});

t.test("registries and credentials are the operator's; the source's .npmrc has no say", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const scoped = await Registry.open(t);
	await scoped.publish("@corp/secret", { "index.js": 'module.exports = "scoped";\n' });
	scoped.authorization = "Bearer s3cret";
	const host = scoped.url.replace("http:", "");
	const npmrc = `${await readFile(serverEnv.npm_config_userconfig ?? "", "utf8")}@corp:registry=${scoped.url}/\n${host}/:_authToken=\${CORP_TOKEN}\n`;
	await writeFile(serverEnv.npm_config_userconfig ?? "", npmrc);
	let asked = 0;
	const thief = createServer((_request, response) => {
		asked++;
		response.end("{}");
	});
	await new Promise<void>((resolve) => thief.listen(0, "127.0.0.1", resolve));
	t.teardown(() => thief.close());
	const address = thief.address();
	const evil = `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/`;
	const locked = { "node_modules/@corp/secret": scoped.locked("@corp/secret") };
	const files = {
		...registry.project(["greet"], { dependencies: { greet: "1.0.0", "@corp/secret": "1.0.0" } }, locked),
		"index.js": 'console.log(require("greet"), require("@corp/secret"));\n',
		".npmrc": `registry=${evil}\n@corp:registry=${evil}\nscript-shell=/bin/false\nignore-scripts=false\nnode-options=--require=/evil.js\n`,
	};
	const seen: Confined[] = [];
	class Watched extends OpenSandbox {
		override run(...args: Parameters<OpenSandbox["run"]>) {
			seen.push(args[0]);
			return super.run(...args);
		}
	}
	const env = { ...serverEnv, CORP_TOKEN: "s3cret", SERVER_SECRET: "canary", NODE_OPTIONS: "--no-warnings" };
	const { stdout, lines } = await ran(t, files, { serverEnv: env, sandbox: new Watched() });
	t.equal(stdout, "hi scoped\n");
	t.equal(asked, 0);
	t.ok(lines.includes(".npmrc of the source is left out"));
	const [npm, esbuild] = seen;
	t.same(npm?.hosts.map(({ origin }) => origin).sort(), [registry.url, scoped.url].sort());
	t.match(npm?.env, { CORP_TOKEN: "s3cret" });
	t.notMatch(JSON.stringify(npm), /canary|NODE_OPTIONS/);
	t.same(esbuild?.hosts, []);
	t.notMatch(JSON.stringify(esbuild), /s3cret|canary/);
	const denied = await failing(t, files, { serverEnv: { ...env, CORP_TOKEN: "wrong" } });
	t.match(denied.error, { code: "unavailable", retryable: false, message: /the registry did not let npm in \(E401\)/ });
});

t.test("in a sandbox the operator's registry is reached, and no other", { skip }, async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const files = { ...registry.project(["greet"]), ...MAIN };
	t.equal((await ran(t, files, { serverEnv, sandbox: await bubblewrap(t) })).stdout, "hi\n");
});

t.test("what the lockfile says is checked before anything is fetched", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const locked = (entry: Record<string, unknown>): Files => ({
		...registry.project(["greet"], {}, { "node_modules/greet": { version: "1.0.0", ...entry } }),
		...MAIN,
	});
	const { "package-lock.json": lock = "", ...unlocked } = { ...registry.project(["greet"]), ...MAIN };
	const cases: [string, Files, RegExp, string?][] = [
		[
			"no lockfile",
			unlocked,
			/^package\.json has dependencies \(greet\) and there is no package-lock\.json: run `npm install --package-lock-only`/,
		],
		[
			"Yarn's",
			{ ...unlocked, "yarn.lock": "" },
			/with a lockfile of Yarn \(yarn\.lock\), and builds here install with npm/,
		],
		["pnpm's", { ...unlocked, "pnpm-lock.yaml": "" }, /with a lockfile of pnpm \(pnpm-lock\.yaml\)/],
		[
			"npm 6",
			{ ...unlocked, "package-lock.json": '{"lockfileVersion":1}' },
			/package-lock\.json is of a form that npm 6 wrote/,
		],
		["no JSON", { ...unlocked, "package-lock.json": "{" }, /^package-lock\.json is not JSON/],
		[
			"another host",
			locked({ resolved: "https://evil.example/greet.tgz" }),
			/^package-lock\.json: greet comes from https:\/\/evil\.example, and packages are fetched from http:\/\/127\.0\.0\.1:\d+ alone/,
		],
		[
			"git",
			locked({ resolved: "git+ssh://git@host.example/a.git#0123" }),
			/^package-lock\.json: greet comes from a repository/,
		],
		[
			"a file elsewhere",
			locked({ resolved: "file:../../etc/x.tgz" }),
			/greet is taken from file:\.\.\/\.\.\/etc\/x\.tgz, which is outside the source/,
		],
		["a link elsewhere", locked({ resolved: "/etc", link: true }), /greet is taken from \/etc, which is outside/],
		["a link to nothing", locked({ resolved: "lib", link: true }), /greet is taken from lib, which was not uploaded/],
		[
			"a path elsewhere",
			{ ...registry.project(["greet"], {}, { "../../x": { version: "1.0.0" } }), ...MAIN },
			/x is outside the source/,
		],
		[
			"git in package.json",
			{ ...unlocked, "package.json": '{"dependencies":{"greet":"someone/greet#v1"}}' },
			/^package\.json: greet comes from a repository \(someone\/greet#v1\)/,
		],
		[
			"a folder elsewhere",
			{ ...unlocked, "package.json": '{"dependencies":{"greet":"file:../greet"}}' },
			/^package\.json: greet is outside the source/,
		],
		[
			"not in the workspaces",
			{ ...registry.project(["greet"]), "a/package.json": '{"dependencies":{"greet":"1.0.0"}}', "a/index.js": "" },
			/^a\/package\.json has dependencies and no lockfile of its own, and is no workspace of package-lock\.json/,
			"a",
		],
	];
	const before = registry.asked.length;
	for (const [name, files, message, entrypoint = "."] of cases)
		await t.test(name, async (t) => {
			const { error } = await failing(t, files, { serverEnv, entrypoint });
			t.equal(error.code, "source_invalid");
			t.match(error.message, message);
			t.notMatch(JSON.stringify([error.message, error.diagnostics]), tmpdir());
		});
	t.equal(registry.asked.length, before);
	t.ok(lock.length > 0);
});

t.test("npm's errors, in words", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const files = { ...registry.project(["greet"]), ...MAIN };
	const cases: [string, Files, object][] = [
		[
			"out of sync",
			{ ...files, "package.json": '{"name":"app","version":"1.0.0","dependencies":{"greet":"1.0.0","more":"2.0.0"}}' },
			{
				code: "build_failed",
				message: /^package-lock\.json does not fit package\.json \(Missing: more.*\): run `npm install`/,
			},
		],
		[
			"no such package",
			{ ...registry.project(["nobody"]), ...MAIN },
			{ code: "build_failed", message: /^a package of package-lock\.json is not in the registry: .*nobody/ },
		],
		[
			"another package than was locked",
			{
				...registry.project(
					["greet"],
					{},
					{ "node_modules/greet": { ...registry.locked("greet"), integrity: "sha512-AAAA" } },
				),
				...MAIN,
			},
			{ code: "build_failed", message: /^a package is not the one that package-lock\.json names/ },
		],
	];
	await registry.publish("more", {}, { version: "2.0.0" });
	for (const [name, source, expected] of cases)
		await t.test(name, async (t) => {
			const { error, lines } = await failing(t, source, { serverEnv });
			t.match(error, { retryable: false, ...expected });
			t.notMatch(JSON.stringify([error.message, error.diagnostics, lines]), tmpdir());
		});
	const gone = { ...serverEnv, npm_config_registry: "http://127.0.0.1:1/" };
	const away = await failing(
		t,
		{ ...registry.project(["greet"], {}, { "node_modules/greet": { version: "1.0.0" } }), ...MAIN },
		{ serverEnv: gone },
	);
	t.match(away.error, {
		code: "unavailable",
		retryable: true,
		message: /^the packages could not be fetched \(ECONNREFUSED\)/,
	});
	const none = await failing(t, files, { serverEnv: { PATH: await temporaryFolder(t) } });
	t.match(none.error, {
		code: "unavailable",
		retryable: true,
		message: /there is no npm on the machine that builds \(looked for `npm`\)\. Install/,
	});
	const plain = { "package.json": "{}", "index.js": 'console.log("no npm");\n' };
	t.equal(
		(await ran(t, plain, { serverEnv: { PATH: "" } })).stdout,
		"no npm\n",
		"without dependencies it is not needed",
	);
});

t.test("workspaces: installed at the lockfile, a package of a neighbour, TypeScript in it", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const api = { name: "api", version: "1.0.0", main: "src/main.ts", dependencies: { lib: "1.0.0" } };
	const lib = { name: "lib", version: "1.0.0", main: "index.ts", dependencies: { greet: "1.0.0" } };
	const files = {
		...registry.project(
			["greet"],
			{ dependencies: {}, workspaces: ["packages/*"] },
			{
				"node_modules/api": { resolved: "packages/api", link: true },
				"node_modules/lib": { resolved: "packages/lib", link: true },
				"packages/api": { ...api },
				"packages/lib": { ...lib },
			},
		),
		"packages/api/package.json": JSON.stringify(api),
		"packages/api/src/main.ts": 'import { hello } from "lib";\nconsole.log(hello("you" as string));\n',
		"packages/lib/package.json": JSON.stringify(lib),
		"packages/lib/index.ts": 'import greet from "greet";\nexport const hello = (name: string) => greet + " " + name;\n',
	};
	t.equal((await ran(t, files, { serverEnv, entrypoint: "packages/api" })).stdout, "hi you\n");
	t.equal(
		(await ran(t, files, { serverEnv, entrypoint: "packages/api/src" })).stdout,
		"hi you\n",
		"from a folder below",
	);
});

t.test(
	"install scripts run where they were asked for, in a sandbox, without credentials and network",
	{ skip },
	async (t) => {
		const { registry, serverEnv } = await withGreet(t, "//127.0.0.1:1/:_authToken=s3cret");
		const script = `const fs = require("fs"), { env } = process;
const there = [env.npm_config_userconfig, env.HOME + "/.npmrc", ${JSON.stringify(serverEnv.npm_config_userconfig)}].map((file) => fs.existsSync(file || "/none"));
require("net").connect(${new URL(registry.url).port}, "127.0.0.1").on("error", (error) => {
	fs.writeFileSync("made.js", "module.exports = " + JSON.stringify({ there, net: error.code, env: JSON.stringify(env).includes("s3cret") }));
}).on("connect", () => process.exit(1));`;
		await registry.publish(
			"scripted",
			{
				"install.js": script,
				"index.js": 'try { module.exports = require("./made.js"); } catch { module.exports = "not run"; }\n',
			},
			{ scripts: { postinstall: "node install.js" } },
		);
		const locked = { "node_modules/scripted": { ...registry.locked("scripted"), hasInstallScript: true } };
		const main = { "index.js": 'console.log(JSON.stringify(require("scripted")));\n' };
		const off = await ran(t, { ...registry.project(["scripted"], {}, locked), ...main }, { serverEnv });
		t.equal(off.stdout, '"not run"\n');
		const asked = { ...registry.project(["scripted"], { runtime: { installScripts: true } }, locked), ...main };
		const refused = await failing(t, asked, { serverEnv });
		t.match(refused.error, {
			code: "unavailable",
			retryable: false,
			message: /install scripts were asked for .* in a sandbox only/,
		});
		const { stdout } = await ran(t, asked, { serverEnv, sandbox: await bubblewrap(t) });
		t.same(JSON.parse(stdout), { there: [false, false, false], net: "ECONNREFUSED", env: false });
	},
);

t.test("npm may be named by its path", async (t) => {
	const { registry, serverEnv } = await withGreet(t);
	const npmCommand = execFileSync("/bin/sh", ["-c", "command -v npm"], { encoding: "utf8" }).trim();
	const env = { ...serverEnv, PATH: join(process.execPath, "..") };
	const { stdout } = await ran(t, { ...registry.project(["greet"]), ...MAIN }, { serverEnv: env, npmCommand });
	t.equal(stdout, "hi\n");
});
