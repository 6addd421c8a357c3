// Makes dist/, what the package holds: the server compiled file by file (its companion is started by its path), and the
// CLI bundled, because a command that starts in 50 ms cannot read 40 files first; and the loader of containers, compiled where
// there is Go, with its sources for other processors. Needs the project's dependencies.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compilation, isLoaderSource } from "../src/runtimes/docker/loader-binary.ts";

/** commander could start executables as its subcommands; we have none, and loading what starts processes costs 3 ms. */
function withoutChildProcesses(builder) {
	builder.onResolve({ filter: /^(node:)?child_process$/ }, ({ importer }) =>
		importer.includes(`${path.sep}commander${path.sep}`) ? { path: "none", namespace: "none" } : undefined,
	);
	builder.onLoad({ filter: /^none$/, namespace: "none" }, () => ({ contents: "export default {};" }));
}

async function makeLoader(sources, goal) {
	mkdirSync(goal, { recursive: true });
	for (const name of readdirSync(sources))
		if (isLoaderSource(name)) cpSync(path.join(sources, name), path.join(goal, name));
	for (const arch of ["amd64", "arm64"]) {
		const { args, settings } = await compilation(sources, arch, path.join(goal, `linux-${arch}`));
		const go = spawnSync(process.env.RUNTIME_GO ?? "go", args, {
			cwd: sources,
			env: { ...process.env, ...settings },
			stdio: ["ignore", 2, 2],
		});
		if (go.error?.code === "ENOENT") {
			process.stderr.write(
				"! There is no Go: the package has the loader's sources only, and needs Go to run containers\n",
			);
			return;
		}
		if (go.status !== 0) throw new Error("the loader cannot be compiled; the compiler's words are above");
	}
}

const root = fileURLToPath(new URL("..", import.meta.url));
const dist = path.join(root, "dist");
// Beside the goal, so that it can be renamed; nobody sees a half-made dist/.
const made = mkdtempSync(path.join(root, "node_modules", ".dist-"));
try {
	const compiler = path.join(root, "node_modules", "typescript", "bin", "tsc");
	const tsc = spawnSync(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", made], {
		cwd: root,
		// What npm pack prints on stdout is the name of the archive.
		stdio: ["ignore", 2, 2],
	});
	if (tsc.status !== 0) throw new Error("the types are wrong; the compiler's words are above");
	await build({
		entryPoints: [path.join(root, "clients/cli/main.ts")],
		outdir: path.join(made, "clients/cli"),
		bundle: true,
		splitting: true,
		format: "esm",
		platform: "node",
		target: "node22.19",
		minify: true,
		legalComments: "linked",
		plugins: [{ name: "no-subcommands", setup: withoutChildProcesses }],
		logLevel: "warning",
	});
	await makeLoader(path.join(root, "images", "loader"), path.join(made, "images", "loader"));
	rmSync(dist, { recursive: true, force: true });
	renameSync(made, dist);
} finally {
	rmSync(made, { recursive: true, force: true });
}
