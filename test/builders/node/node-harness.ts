import { execFile } from "node:child_process";
import { chmod, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import type { Test } from "tap";
import type { BuildOptions } from "../../../src/builders/builder.ts";
import { createNodeBuilder, type NodeBuilderOptions } from "../../../src/builders/node/node.ts";
import { bytesOf, type Files, failureOf, HOST_TARGET, temporaryFolder, treeOf } from "../../conformance/builder.ts";

const signal = new AbortController().signal;

export type Extra = Partial<NodeBuilderOptions> & { readonly entrypoint?: string; readonly namespace?: string };

const optionsOf = ({ entrypoint = ".", namespace = "default" }: Extra): BuildOptions => ({
	...{ namespace, entrypoint, env: {}, target: HOST_TARGET },
});

async function builderFor(t: Test, extra: Extra) {
	return createNodeBuilder({ cacheFolder: await temporaryFolder(t), workFolder: await temporaryFolder(t), ...extra });
}

/** Runs a program with nothing of our own environment: tap puts hooks into each Node that it sees started. */
export function run(file: string, ...variables: string[]) {
	const clean = ["-i", `PATH=${dirname(process.execPath)}:/usr/bin:/bin`, ...variables];
	return promisify(execFile)("env", [...clean, file]);
}

/** Builds, and runs the program by its first line to its end. */
export async function ran(t: Test, files: Files, extra: Extra = {}) {
	const lines: string[] = [];
	const builder = await builderFor(t, extra);
	await using build = await builder.build(await treeOf(t, files), optionsOf(extra), {
		...{ signal, log: (line) => lines.push(line) },
	});
	const bytes = await bytesOf(build);
	const file = join(await temporaryFolder(t), "program");
	await writeFile(file, bytes);
	await chmod(file, 0o755);
	const { stdout } = await run(file);
	return { stdout, file, lines, text: bytes.toString("utf8"), build };
}

export async function failing(t: Test, files: Files, extra: Extra = {}) {
	const lines: string[] = [];
	const builder = await builderFor(t, extra);
	const error = await failureOf(
		builder.build(await treeOf(t, files), optionsOf(extra), { signal, log: (line) => lines.push(line) }),
	);
	return { error, lines };
}
