import { tmpdir } from "node:os";
import t from "tap";
import { failing, ran, run } from "./node-harness.ts";
import { Registry } from "./registry.ts";

t.test("ES modules: await at the top, names that the bundle could take, CommonJS inside", async (t) => {
	const registry = await Registry.open(t);
	const serverEnv = await registry.serverEnv(t);
	await registry.publish("old", {
		"index.js":
			'const fs = require("fs");\nexports.kind = typeof fs.readFileSync + typeof __dirname + typeof __filename;\n',
	});
	const { stdout, text } = await ran(
		t,
		{
			...registry.project(["old"], { type: "module", main: "./main.js" }),
			"main.js": `import { createRequire } from "node:module";
import path, { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { kind } from "old";
import data from "./data.json" with { type: "json" };
const require = createRequire(import.meta.url);
const __filename = fileURLToPath(import.meta.url);
const __dirname = dirname(__filename);
const late = await import("./late.js");
console.log(JSON.stringify([kind, typeof require("fs"), path.basename(__filename), __dirname.length > 1, data.a, late.b, import.meta.main, typeof module]));
`,
			"data.json": '{"a":1}',
			"late.js": "export const b = await Promise.resolve(2);\n",
		},
		{ serverEnv },
	);
	t.same(JSON.parse(stdout), ["functionstringstring", "object", "program", true, 1, 2, true, "undefined"]);
	t.ok(text.startsWith("#!/usr/bin/env node\n"));
});

t.test("CommonJS: the main module, ES modules inside, sloppy code", async (t) => {
	const registry = await Registry.open(t);
	const serverEnv = await registry.serverEnv(t);
	await registry.publish(
		"modern",
		{ "index.js": "export default 1;\nexport const url = import.meta.url;\n" },
		{ type: "module" },
	);
	await registry.publish("sloppy", {
		"index.js": "exports.octal = 010;\nexports.that = (function () { return typeof this; })();\n",
	});
	const main = `#!/usr/bin/env -S node --title=x
const { url, default: one } = require("modern");
if (require.main !== module) throw new Error("not main");
if (require.main === module) console.log(JSON.stringify([one, url.slice(0, 8), require("sloppy"), typeof __dirname]));
`;
	const { stdout, text } = await ran(t, { ...registry.project(["modern", "sloppy"]), "index.js": main }, { serverEnv });
	t.same(JSON.parse(stdout), [1, "file:///", { octal: 8, that: "object" }, "string"]);
	t.ok(text.startsWith("#!/usr/bin/env node\n") && !text.includes("--title"));
});

t.test("CommonJS with a package that awaits at its top", async (t) => {
	const registry = await Registry.open(t);
	await registry.publish("waits", { "index.js": "export const a = await Promise.resolve(3);\n" }, { type: "module" });
	const files = { ...registry.project(["waits"]), "index.js": 'import("waits").then(({ a }) => console.log(a));\n' };
	const { stdout } = await ran(t, files, { serverEnv: await registry.serverEnv(t) });
	t.equal(stdout, "3\n");
});

t.test("stack traces name the source, in both forms, and the build is the same everywhere", async (t) => {
	for (const type of ["module", "commonjs"])
		for (const hashbang of ["", "#!/usr/bin/env tsx\n"]) {
			const files = {
				"package.json": JSON.stringify({ type, scripts: { start: "tsx src/main.ts" } }),
				"src/main.ts": `${hashbang}import { fail } from "./lib.ts";\ntype A = string;\ntry {\n\tfail("x" as A);\n} catch (error) {\n\tconsole.log((error as Error).stack);\n}\nsetTimeout(() => fail("late"), 1);\n`,
				"src/lib.ts":
					"interface Unused {\n\ta: string;\n}\nexport function fail(why: string): never {\n\tthrow new Error(why);\n}\n",
			};
			const error: unknown = await ran(t, files).catch((error: unknown) => error);
			const { stdout, stderr } = error as { stdout: string; stderr: string };
			const line = hashbang === "" ? 4 : 5;
			t.match(stdout, new RegExp(`^Error: x\\n {4}at fail \\(src/lib\\.ts:5:8\\)\\n {4}at .*src/main\\.ts:${line}:2`));
			t.match(stderr, /Error: late\n {4}at fail \(src\/lib\.ts:5:8\)\n {4}at .*src\/main\.ts:\d+:18/);
		}
	const files = { "package.json": "{}", "main.ts": 'import "./a/b.ts";\n', "a/b.ts": 'console.log("b" as string);\n' };
	const [first, second] = [await ran(t, files), await ran(t, files)];
	t.equal(first.text, second.text);
	t.notOk(first.text.includes(tmpdir()));
	const map: unknown = JSON.parse(Buffer.from(/base64,(\S+)\s*$/.exec(first.text)?.[1] ?? "", "base64").toString());
	t.match(map, { sources: ["a/b.ts"] });
	t.equal((await run(first.file, "NODE_OPTIONS=--enable-source-maps")).stdout, "b\n", "Node may map by itself");
});

t.test("mistakes, each with its place and what to do", async (t) => {
	const cases: [string, Record<string, string>, RegExp, object?][] = [
		[
			"missing package",
			{ "package.json": "{}", "main.js": '\nrequire("left-pad");\n' },
			/^main\.js:2:9: Could not resolve "left-pad": add it with `npm install left-pad`/,
			{ file: "main.js", line: 2, column: 9 },
		],
		[
			"a development dependency",
			{ "package.json": '{"devDependencies":{"@a/b":"1"}}', "main.js": 'require("@a/b/c");\n' },
			/"@a\/b\/c": it is in devDependencies.*move it to dependencies/,
		],
		[
			"missing file, in a folder",
			{ "package.json": '{"main":"src/a.ts"}', "src/a.ts": 'import "./b.ts";\nimport "./c.ts";\n' },
			/^src\/a\.ts:1:8: Could not resolve "\.\/b\.ts" \(and 1 more\)$/,
		],
		[
			"missing export",
			{ "package.json": '{"type":"module"}', "main.js": 'import { a } from "./b.js";\na();\n', "b.js": "export {};\n" },
			/^main\.js:1:10: No matching export in "b\.js"/,
		],
		[
			"a file of no known kind",
			{ "package.json": "{}", "main.js": 'require("./x.html");\n', "x.html": "" },
			/^main\.js:1:9: No loader is configured for "\.html" files: x\.html/,
		],
	];
	for (const [name, files, message, first] of cases)
		await t.test(name, async (t) => {
			const { error, lines } = await failing(t, files);
			t.equal(error.code, "build_failed");
			t.match(error.message, message);
			if (first !== undefined) t.match(error.diagnostics[0], first);
			t.notMatch(JSON.stringify([error.message, error.diagnostics, lines]), tmpdir());
		});
});

t.test("what cannot be bundled is said in the log", async (t) => {
	const files = {
		"package.json": '{"main":"src/main.js"}',
		"src/main.js":
			'const name = process.env.PLUGIN;\nif (name) require(name);\nconsole.log(require("path").basename(__dirname).length > 0);\n',
	};
	const { lines } = await ran(t, files);
	t.ok(
		lines.some((line) => /^warning: src\/main\.js:2:11: This call to "require" will not be bundled/.test(line)),
		lines.join("\n"),
	);
	t.ok(lines.some((line) => /^warning: src\/main\.js uses its own place/.test(line)));
});

t.test("native addons are refused by name, and left out where they are optional", async (t) => {
	const registry = await Registry.open(t);
	const serverEnv = await registry.serverEnv(t);
	await registry.publish("compiled", { "binding.gyp": "{}", "index.js": "exports.a = 1;\n" });
	await registry.publish("prebuilt", { "prebuilds/x/y.node": "", "index.js": "exports.a = 1;\n" });
	await registry.publish("direct", { "a.node": "x", "index.js": 'module.exports = require("./a.node");\n' });
	await registry.publish("part", { "index.js": "" }, { cpu: ["x64", "arm64"] });
	await registry.publish("parts", { "index.js": "exports.a = 1;\n" }, { optionalDependencies: { part: "1.0.0" } });
	await registry.publish(
		"tolerant",
		{
			"index.js":
				'exports.how = "slow";\ntry { require("compiled"); exports.how = "fast"; } catch {}\ntry { require("./no/such.node"); } catch {}\n',
		},
		{ optionalDependencies: { compiled: "1.0.0" } },
	);
	for (const [name, why] of [
		["compiled", /^compiled@1\.0\.0 is compiled when it is installed, and native addons cannot/],
		["prebuilt", /^prebuilt@1\.0\.0 comes with compiled code/],
		["direct", /^direct@1\.0\.0 loads node_modules\/direct\/a\.node/],
		["parts", /^parts@1\.0\.0 needs compiled code \(its part part\)/],
	] as const) {
		const more = name === "parts" ? { "node_modules/part": { ...registry.locked("part"), optional: true } } : {};
		const files = { ...registry.project([name], {}, more), "index.js": `require("${name}");\n` };
		const { error } = await failing(t, files, { serverEnv });
		t.equal(error.code, "source_invalid");
		t.match(error.message, why);
	}
	const more = { "node_modules/compiled": { ...registry.locked("compiled"), optional: true } };
	const files = { ...registry.project(["tolerant"], {}, more), "index.js": 'console.log(require("tolerant").how);\n' };
	const { stdout, lines } = await ran(t, files, { serverEnv });
	t.equal(stdout, "slow\n");
	t.ok(lines.some((line) => /tolerant@1\.0\.0 can do without compiled@1\.0\.0/.test(line)));
});

t.test("a file outside the source is not bundled", async (t) => {
	const files = { "package.json": "{}", "main.js": 'console.log(require("../tsconfig.json"));\n' };
	const { error } = await failing(t, files);
	t.match(error.message, /main\.js reaches \.\.\/tsconfig\.json, which is outside the source/);
});
