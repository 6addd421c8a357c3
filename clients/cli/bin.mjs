#!/usr/bin/env node
// Plain JavaScript that any Node from 16 on can read: it finds a Node that is new enough, then the program.
import { existsSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);

// In a clone Node reads the TypeScript itself, and `await using` in it from 24 on; what is packed does without.
const inClone = !root.includes(`${sep}node_modules${sep}`) && existsSync(join(root, "src", "main.ts"));
const needed = inClone ? "24" : "22.19";

if (major >= 24 || (!inClone && (major > 22 || (major === 22 && minor >= 19)))) {
	await start();
} else {
	await again();
}

/** The TypeScript in a clone, which Node strips; the compiled file where this is installed as a package. */
function program(path) {
	const source = join(root, `${path}.ts`);
	if (inClone) return source;
	return join(root, "dist", `${path}.js`);
}

async function start() {
	quietExperimental();
	let args = process.argv.slice(2);
	if (args[0] === "help" && args[1] === "server") args = ["server", "--help"];
	const server = args[0] === "server";
	const path = program(server ? "src/main" : "clients/cli/main");
	if (!existsSync(path)) fail(`${path} is missing: install the package again, or run \`npm run build\` in a clone`);
	const { main } = await import(pathToFileURL(path).href);
	const code = await main(server ? args.slice(1) : args);
	if (typeof code === "number") process.exitCode = code;
}

/** Node 22 warns on stderr about the type stripping that we mean to use. */
function quietExperimental() {
	const emit = process.emitWarning;
	process.emitWarning = (warning, ...rest) => {
		const kind = typeof rest[0] === "object" ? rest[0]?.type : rest[0];
		if (kind !== "ExperimentalWarning") emit.call(process, warning, ...rest);
	};
}

async function again() {
	const { spawn } = await import("node:child_process");
	const { constants } = await import("node:os");
	const node = join(root, "node_modules", ".bin", "node");
	if (!existsSync(node) || process.env.RUNTIME_REEXECUTED === "1") {
		fail(
			`Node >= ${needed} is needed, this is ${process.version}: run \`npm install\` in ${root}, or install a newer Node`,
		);
	}
	const env = { ...process.env, RUNTIME_REEXECUTED: "1" };
	const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit", env });
	// A terminal sends Ctrl-C to the child as well; the parent only has to outlive it.
	process.on("SIGINT", () => undefined);
	for (const signal of ["SIGTERM", "SIGHUP", "SIGQUIT"]) process.on(signal, () => child.kill(signal));
	child.on("error", (error) => fail(`cannot start ${node}: ${error.message}`));
	child.on("exit", (code, signal) => {
		process.exit(signal === null ? (code ?? 1) : 128 + (constants.signals[signal] ?? 0));
	});
}

function fail(message) {
	process.stderr.write(`✘ ${message}\n`);
	process.exit(1);
}
