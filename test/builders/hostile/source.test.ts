import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { createGoBuilder } from "../../../src/builders/go/go.ts";
import type { Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { type Files, failureOf, HOST_TARGET, treeOf } from "../../conformance/builder.ts";
import { MOD, main } from "../go-samples.ts";
import { bubblewrap, CACHE, folderFor, inEach, never, open, skip } from "./sandboxes.ts";

const CANARY = "canary_4b1d";

async function build(t: Test, sandbox: Sandbox, files: Files, entrypoint = ".", env: Record<string, string> = {}) {
	const builder = createGoBuilder({ sandbox, cacheFolder: CACHE, workFolder: await folderFor(t) });
	const lines: string[] = [];
	const work = builder.build(
		await treeOf(t, files),
		{ namespace: "default", entrypoint, env, target: HOST_TARGET },
		{ signal: never, log: (line) => lines.push(line) },
	);
	return { work, lines };
}

/** What its owner is told of a build that fails: error, diagnostics and log. */
async function told(t: Test, sandbox: Sandbox, files: Files, entrypoint?: string): Promise<string> {
	const { work, lines } = await build(t, sandbox, files, entrypoint);
	const error = await failureOf(work);
	return [error.code, error.message, JSON.stringify(error.diagnostics), ...lines].join("\n");
}

/** A neighbour's module with a secret in it. */
async function neighbour(t: Test): Promise<string> {
	const folder = join(await folderFor(t), "neighbour");
	await mkdir(folder);
	await writeFile(join(folder, "go.mod"), "module example.com/neighbour\n\ngo 1.21\n");
	await writeFile(join(folder, "n.go"), `package neighbour\n\nfunc init() { undefined_${CANARY}() }\n`);
	await writeFile(join(folder, "secret"), `${CANARY} ${CANARY}\n`);
	return folder;
}

inEach("an assembler file that includes a file of the host", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const secret = join(await neighbour(t), "secret");
	const files = {
		"go.mod": MOD,
		"main.go": "package main\n\nfunc f()\nfunc main() { f() }\n",
		"f_amd64.s": `#include "${secret}"\n`,
		"f_arm64.s": `#include "${secret}"\n`,
	};
	t.match(await told(t, open, files), CANARY, "the canary: Go itself reads it, and tells");
	t.notMatch(await told(t, sandbox, files), CANARY);
});

t.test(
	"a replace to a neighbour: refused by its words, and not there for whoever gets round them",
	{ skip },
	async (t) => {
		const sandbox = await bubblewrap(t);
		const folder = await neighbour(t);
		const files = (line: string) => ({
			"go.mod": `${MOD}\nrequire example.com/neighbour v0.0.0\n\nreplace ${line}\n`,
			"main.go": main("", 'import _ "example.com/neighbour"\n'),
		});
		for (const line of [
			`example.com/neighbour => ${folder}`,
			`example.com/neighbour => "${folder}"`,
			`example.com/neighbour => ../neighbour`,
			`(\n\texample.com/neighbour v0.0.0 => \`${folder}\`\n)`,
		])
			for (const each of [open, sandbox]) {
				const words = await told(t, each, files(line));
				t.match(words, /^source_invalid\n.*points outside the source/);
				t.notMatch(words, CANARY);
			}
	},
);

inEach("a crafted go.work, workspace and vendor folder lead nowhere", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const folder = await neighbour(t);
	const uses = { "go.mod": MOD, "main.go": main("", 'import _ "example.com/neighbour"\n') };
	t.notMatch(await told(t, sandbox, { ...uses, "go.work": `go 1.21\n\nuse (\n\t.\n\t${folder}\n)\n` }), CANARY);
	const vendored = {
		...uses,
		"go.mod": `${MOD}\nrequire example.com/neighbour v1.0.0\n`,
		"vendor/modules.txt": `# example.com/neighbour v1.0.0 => ${folder}\n## explicit; go 1.21\nexample.com/neighbour\n`,
	};
	t.notMatch(await told(t, sandbox, vendored), CANARY);
});

inEach("entrypoints that lead out of the source", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const folder = await neighbour(t);
	await writeFile(join(folder, "n.go"), `package main\n\nfunc main() { undefined_${CANARY}() }\n`);
	// They are refused where a request is read; a builder that gets one all the same sees nothing there.
	for (const entrypoint of [`../../../../../..${folder}`, `./../../../../../../${folder}`]) {
		const words = await told(t, sandbox, { "go.mod": MOD, "main.go": main("") }, entrypoint);
		t.notMatch(words, CANARY, entrypoint);
	}
	t.match(
		await told(t, open, { "go.mod": MOD, "main.go": main("") }, `../../../../../..${folder}`),
		/source_invalid|canary/,
	);
});

inEach("go:embed of what is not in the source", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const secret = join(await neighbour(t), "secret");
	for (const pattern of [secret, `../../../../../..${secret}`, `"${secret}"`]) {
		const embed = `package main\n\nimport _ "embed"\n\n//go:embed ${pattern}\nvar s string\n\nfunc main() { println(s) }\n`;
		const words = await told(t, sandbox, { "go.mod": MOD, "main.go": embed });
		t.match(words, /^build_failed\n.*main\.go:5/);
		t.notMatch(words, CANARY);
	}
});

inEach("nothing in a source makes Go run a command: cgo, generate, toolexec, tools, settings", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const proof = join(await folderFor(t), "ran");
	const run = `/bin/sh -c "echo ran >${proof}"`;
	const files: Files = {
		"go.mod": `${MOD}\ngodebug default=go1.21\n`,
		"go.env": `GOFLAGS=-toolexec=/bin/false\nGOPROXY=http://evil.example\nCGO_ENABLED=1\n`,
		".git/config": `[core]\n\tfsmonitor = ${run}\n\tsshCommand = ${run}\n`,
		"main.go": `package main\n\n//go:generate ${run}\n\nfunc main() {}\n`,
	};
	const { work, lines } = await build(t, sandbox, files, ".", {
		GOFLAGS: "-toolexec=/bin/false",
		GOCACHEPROG: "/bin/false",
		CC: "/bin/false",
		LD_PRELOAD: "/evil.so",
	});
	await using made = await work;
	t.ok(made.size > 0);
	t.same(
		lines.filter((line) => line.includes("not passed")).length,
		4,
		"settings that could run commands are named and dropped",
	);
	const cgo = `package main\n\n// #cgo LDFLAGS: -fplugin=/evil.so\n// #include "/etc/passwd"\nimport "C"\n\nfunc main() {}\n`;
	t.match(
		await told(t, sandbox, { "go.mod": MOD, "main.go": cgo }),
		/^source_invalid\n.*build constraints exclude all Go files/,
	);
	const linked = `package main\n\n//go:cgo_import_dynamic x x "/evil.so"\n//go:cgo_ldflag "-fplugin=/evil.so"\nfunc main() {}\n`;
	t.match(await told(t, sandbox, { "go.mod": MOD, "main.go": linked }), /only allowed in cgo-generated code/);
});

inEach("a build leaves its source as it was", async (t, sandboxOf) => {
	const sandbox = await sandboxOf(t);
	const { work } = await build(t, sandbox, { "go.mod": "module example.com/x\n", "main.go": main("") });
	await using made = await work;
	t.ok(made.size > 0, "go.mod without a go line is not completed, and no fault");
});

t.test("a file of empty lines does not keep the server busy", async (t) => {
	const files = { "main.go": "\n".repeat(1024 ** 2), "cmd/main.go": "// A program.\n\tpackage main\n" };
	const began = performance.now();
	t.match(await told(t, open, files), /there is no go\.mod .*`package main`\) are in: cmd/);
	t.ok(performance.now() - began < 30_000, "not for minutes");
});
