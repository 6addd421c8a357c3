import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Test } from "tap";
import { type Build, BuildError, type Builder } from "../../src/builders/builder.ts";
import { AppError, isAppError } from "../../src/errors.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import { archiveOf, inReusedChunks } from "../fixtures/archive.ts";

export type Files = Readonly<Record<string, string>>;

/** What a builder is tested with: sources in its own language. */
export type BuilderSamples = {
	/** A program in the root folder. */
	readonly valid: Files;
	/** The same, one folder down; `entrypoint` is that folder. */
	readonly nested: { readonly files: Files; readonly entrypoint: string };
	/** Has one mistake, at this place. */
	readonly broken: {
		readonly files: Files;
		readonly file: string;
		readonly line: number;
		readonly column?: number;
		readonly message: RegExp;
	};
	/** Takes at least a second to build, each time. */
	readonly slow: () => Files;
	/** Nothing that this builder knows. */
	readonly foreign: Files;
};

export type BuilderSuite = {
	readonly name: string;
	/** A builder whose temporary files are in `workFolder` and nowhere else. */
	readonly factory: (workFolder: string) => Builder | Promise<Builder>;
	readonly samples: BuilderSamples;
	readonly target?: { readonly os: string; readonly arch: string };
};

export const HOST_TARGET = { os: process.platform, arch: process.arch === "x64" ? "amd64" : process.arch };

/** Unpacks `files` into a tree of its own, removed with the test. */
export async function treeOf(t: Test, files: Files, archive?: Uint8Array) {
	const workFolder = await temporaryFolder(t);
	const bytes = archive ?? (await archiveOf(files));
	const tree = openSourceTree({ open: async () => inReusedChunks(bytes), workFolder });
	t.teardown(() => tree[Symbol.asyncDispose]());
	return tree;
}

export async function temporaryFolder(t: Test): Promise<string> {
	const path = await mkdtemp(join(tmpdir(), "builder-test-"));
	t.teardown(() => rm(path, { recursive: true, force: true }));
	return path;
}

export async function bytesOf(build: Build): Promise<Buffer> {
	const parts: Buffer[] = [];
	for await (const chunk of build.body) parts.push(Buffer.from(chunk));
	return Buffer.concat(parts);
}

function digestOf(bytes: Buffer): string {
	return createHash("sha256").update(bytes).digest("hex");
}

export async function failureOf(work: Promise<Build>): Promise<BuildError> {
	try {
		await (await work)[Symbol.asyncDispose]();
	} catch (error) {
		if (error instanceof BuildError) return error;
		throw error;
	}
	throw new Error("the build should have failed");
}

/** Live processes, zombies aside, whose environment or arguments mention `text`. Linux; elsewhere none are seen. */
export async function processesMentioning(text: string): Promise<string[]> {
	const found: string[] = [];
	for (const pid of process.platform === "linux" ? await readdir("/proc") : []) {
		if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
		const read = (name: string) => readFile(`/proc/${pid}/${name}`, "latin1").catch(() => "");
		if (/^[ZX]/.test((await read("stat")).replace(/^.*\) /s, ""))) continue;
		if (`${await read("environ")}${await read("cmdline")}`.includes(text)) found.push(pid);
	}
	return found;
}

export async function eventually(check: () => boolean | Promise<boolean>, what: string, limit = 30_000): Promise<void> {
	const until = performance.now() + limit;
	while (!(await check())) {
		if (performance.now() > until) throw new Error(`not within ${limit} ms: ${what}`);
		await delay(10);
	}
}

/** The promises of src/builders/builder.ts, for every adapter. */
export async function builderSuite(t: Test, suite: BuilderSuite): Promise<void> {
	const { samples } = suite;
	const target = suite.target ?? HOST_TARGET;
	const never = new AbortController().signal;
	const log = () => undefined;
	const start = async (t: Test) => {
		const workFolder = await temporaryFolder(t);
		const builder = await suite.factory(workFolder);
		const nothingLeft = async (t: Test) => {
			t.same(await readdir(workFolder).catch(() => []), [], "no temporary file is left");
			t.same(await processesMentioning(workFolder), [], "no process is left");
		};
		return { builder, workFolder, nothingLeft };
	};
	const options = (entrypoint = ".") => ({ namespace: "default", entrypoint, env: {}, target });

	await t.test(`${suite.name}: a program is built, and is what its digest says`, async (t) => {
		const { builder, nothingLeft } = await start(t);
		const tree = await treeOf(t, samples.valid);
		t.ok(await builder.detect(tree, ".", { signal: never }));
		const build = await builder.build(tree, options(), { signal: never, log });
		t.equal(build.builder, builder.name);
		const bytes = await bytesOf(build);
		t.equal(bytes.length, build.size);
		if (build.sha256 !== undefined) t.equal(digestOf(bytes), build.sha256);
		t.ok(bytes.length > 0);
		await build[Symbol.asyncDispose]();
		await nothingLeft(t);
	});

	await t.test(`${suite.name}: the same source gives the same bytes, wherever it is unpacked`, async (t) => {
		const { builder } = await start(t);
		const digests: string[] = [];
		for (let round = 0; round < 2; round++) {
			await using build = await builder.build(await treeOf(t, samples.valid), options(), { signal: never, log });
			digests.push(digestOf(await bytesOf(build)));
		}
		t.equal(digests[0], digests[1]);
	});

	await t.test(`${suite.name}: an entrypoint below the root`, async (t) => {
		const { builder } = await start(t);
		const { files, entrypoint } = samples.nested;
		const tree = await treeOf(t, files);
		t.ok(await builder.detect(tree, entrypoint, { signal: never }));
		await using build = await builder.build(tree, options(entrypoint), { signal: never, log });
		t.ok(build.size > 0);
	});

	await t.test(`${suite.name}: a mistake comes back with its place`, async (t) => {
		const { builder, nothingLeft } = await start(t);
		const { files, file, line, column, message } = samples.broken;
		const lines: string[] = [];
		const error = await failureOf(
			builder.build(await treeOf(t, files), options(), { signal: never, log: (text) => lines.push(text) }),
		);
		t.equal(error.code, "build_failed");
		t.equal(error.retryable, false);
		const [first] = error.diagnostics;
		t.match(first, { file, line, ...(column === undefined ? {} : { column }), message });
		t.match(error.message, message);
		t.ok(error.message.startsWith(`${file}:${line}`), error.message);
		t.ok(
			lines.some((text) => message.test(text)),
			"the log has it too",
		);
		t.notOk(
			lines.some((text) => text.includes(tmpdir())),
			"the log does not show where the server keeps files",
		);
		await nothingLeft(t);
	});

	await t.test(`${suite.name}: a wrong entrypoint`, async (t) => {
		const { builder, nothingLeft } = await start(t);
		const error = await failureOf(
			builder.build(await treeOf(t, samples.valid), options("no/such"), { signal: never, log }),
		);
		t.equal(error.code, "source_invalid");
		t.match(error.message, /no\/such/);
		await nothingLeft(t);
	});

	await t.test(`${suite.name}: a source that it does not know`, async (t) => {
		const { builder } = await start(t);
		const tree = await treeOf(t, samples.foreign);
		t.notOk(await builder.detect(tree, ".", { signal: never }));
		t.equal((await failureOf(builder.build(tree, options(), { signal: never, log }))).code, "source_invalid");
	});

	await t.test(`${suite.name}: a broken archive`, async (t) => {
		const { builder, nothingLeft } = await start(t);
		const bytes = await archiveOf(samples.valid);
		const tree = await treeOf(t, {}, bytes.subarray(0, bytes.length / 2));
		await t.rejects(builder.build(tree, options(), { signal: never, log }), {
			code: "invalid_argument",
			message: /cut short/,
		});
		await nothingLeft(t);
	});

	await t.test(`${suite.name}: cancelling and a time limit end the build and all it started`, async (t) => {
		for (const [reason, code] of [
			[undefined, "cancelled"],
			[new AppError("deadline", "the build took too long"), "deadline"],
		] as const) {
			const { builder, workFolder, nothingLeft } = await start(t);
			const controller = new AbortController();
			const building = builder
				.build(await treeOf(t, samples.slow()), options(), { signal: controller.signal, log })
				.then(
					() => "built",
					(error: unknown) => error,
				);
			if (process.platform === "linux")
				await eventually(async () => (await processesMentioning(workFolder)).length > 1, "the build has processes");
			controller.abort(reason);
			const ended = await building;
			t.ok(isAppError(ended, code), `${code}: ${String(ended)}`);
			await nothingLeft(t);
		}
		const { builder, nothingLeft } = await start(t);
		const tree = await treeOf(t, samples.valid);
		await t.rejects(builder.build(tree, options(), { signal: AbortSignal.abort(), log }), { code: "cancelled" });
		await nothingLeft(t);
	});
}
