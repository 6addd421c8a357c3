import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t, { type Test } from "tap";
import { findEntry } from "../../../src/builders/node/entry.ts";
import { readPackage } from "../../../src/builders/node/package.ts";
import { parseStart } from "../../../src/builders/node/start.ts";
import { temporaryFolder } from "../../conformance/builder.ts";

t.test("start scripts", async (t) => {
	const files: [string, string, number][] = [
		["node server.js", "server.js", 0],
		["node .", ".", 0],
		["node --enable-source-maps --max-old-space-size=512 'a b.js' x", "a b.js", 2],
		["NODE_ENV=production node -r dotenv/config -- dist/main.js", "dist/main.js", 2],
		["cross-env A=1 tsx watch --tsconfig t.json src/main.ts", "src/main.ts", 1],
		["npm run build && node --import tsx ./src/main.ts", "./src/main.ts", 1],
		["npx --yes ts-node -P tsconfig.run.json src/main.ts", "src/main.ts", 0],
		["./node_modules/.bin/nodemon -e js,ts index.js", "index.js", 1],
	];
	for (const [script, file, notes] of files) {
		const start = parseStart(script);
		t.match(start, { file }, script);
		t.equal("notes" in start ? start.notes.length : -1, notes, `${script}: ${JSON.stringify(start)}`);
	}
	for (const script of ["next start", "node -e 'x'", "node", "node $MAIN", "node a.js && sh x.sh"])
		t.match(parseStart(script), { why: /./ }, script);
});

async function entryOf(t: Test, manifest: object, files: readonly string[], extra: Record<string, string> = {}) {
	const root = await temporaryFolder(t);
	const all = {
		"package.json": JSON.stringify(manifest),
		...Object.fromEntries(files.map((file) => [file, ""])),
		...extra,
	};
	for (const [file, text] of Object.entries(all)) {
		await mkdir(dirname(join(root, file)), { recursive: true });
		await writeFile(join(root, file), text);
	}
	const pack = await readPackage(root, root);
	if (pack === undefined) throw new Error("no package");
	return findEntry(root, pack);
}

t.test("which file is the entry", async (t) => {
	const cases: [object, string[], string][] = [
		[{ scripts: { start: "node server.js" }, main: "index.js" }, ["server.js", "index.js"], "server.js"],
		[{ scripts: { start: "node server" } }, ["server/index.js"], "server/index.js"],
		[{ scripts: { start: "node dist/main.js" } }, ["src/main.ts"], "src/main.ts"],
		[{ scripts: { start: "node build/app.js" } }, ["app.ts"], "app.ts"],
		[{ scripts: { start: "node ." }, main: "lib/a" }, ["lib/a.js"], "lib/a.js"],
		[{ scripts: { start: "next start" }, main: "a.js" }, ["a.js"], "a.js"],
		[{ main: "index.js" }, ["server.mjs"], "server.mjs"],
		[{ main: "./src/main.js" }, ["src/main.ts"], "src/main.ts"],
		[{ exports: { ".": { types: "./x.d.ts", import: "./x.mjs" } } }, ["x.mjs"], "x.mjs"],
		[{ exports: "./x.js" }, ["x.js"], "x.js"],
		[{ bin: { a: "./cli.js" } }, ["cli.js"], "cli.js"],
		[{ bin: { a: "./a.js", b: "./b.js" } }, ["a.js", "b.js", "src/index.ts"], "src/index.ts"],
		[{}, ["main.ts"], "main.ts"],
	];
	for (const [manifest, files, file] of cases)
		t.equal((await entryOf(t, manifest, files)).file, file, JSON.stringify(manifest));
	const tsconfig = {
		"tsconfig.json": '{\n\t"compilerOptions": {\n\t\t"outDir": "./output",\n\t\t"rootDir": "code" } }',
	};
	t.equal((await entryOf(t, { main: "output/x.js" }, ["code/x.ts"], tsconfig)).file, "code/x.ts");
});

t.test("no entry: what was looked for", async (t) => {
	await t.rejects(entryOf(t, { scripts: { start: "node dist/a.js" }, main: "b.js" }, ["b.js"]), {
		...{ code: "source_invalid", message: /^package\.json starts with dist\/a\.js .*there is no such file/ },
	});
	await t.rejects(entryOf(t, { scripts: { start: "next start" }, main: "x.js", bin: "y.js" }, []), {
		message:
			/looked for scripts\.start \(`next start`: .*; main \(x\.js\); bin \(y\.js\); server\.js, .*"start": "node FILE"/,
	});
	await t.rejects(entryOf(t, { main: "../x.js" }, []), { message: /names \.\.\/x\.js, which is outside the source/ });
	await t.rejects(entryOf(t, { main: "x.sh" }, ["x.sh"]), { message: /x\.sh \(main\) is no JavaScript or TypeScript/ });
	await t.rejects(entryOf(t, { runtime: { installScripts: "yes" } }, []), {
		message: /installScripts must be true or false/,
	});
});
