import { randomUUID } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import { ensureAdminToken } from "./accounts/admin-token.ts";
import { buildApp } from "./app.ts";
import { Blobs } from "./blob/blobs.ts";
import { createGoBuilder } from "./builders/go/go.ts";
import { GoLauncher } from "./builders/launchers/go.ts";
import { NodeLauncher } from "./builders/launchers/node.ts";
import { ProcfileLauncher } from "./builders/launchers/procfile.ts";
import { PythonLauncher } from "./builders/launchers/python.ts";
import { sweepCaches } from "./builders/leftovers.ts";
import { createNodeBuilder } from "./builders/node/node.ts";
import { type Chosen, chooseSandbox, type SandboxOptions } from "./builders/sandbox/choose.ts";
import { MIB } from "./builders/sandbox/limits.ts";
import { openBlobs } from "./compose-blobs.ts";
import { openRecords } from "./compose-records.ts";
import { type Config, flagOf } from "./config.ts";
import { loadContract, projectRoot } from "./contract/document.ts";
import { AppError, messageOf } from "./errors.ts";
import { createCore } from "./manager/core.ts";
import { FileBuildLogs } from "./manager/file-build-logs.ts";
import { sourceId, sourceKey } from "./manager/model.ts";
import type { ServiceStore } from "./manager/store.ts";
import { sweep } from "./manager/sweep.ts";
import { Upkeep } from "./manager/upkeep.ts";
import { settleProfile } from "./profile.ts";
import { removeTree } from "./remove-tree.ts";
import { createProcessRuntime } from "./runtimes/process/runtime.ts";
import { Directories } from "./sources/directories.ts";
import { GitSources } from "./sources/remotes/remote-sources.ts";
import { DEFAULT_HOSTS, parseHosts, Remotes } from "./sources/remotes/remotes.ts";
import { openSourceTree } from "./sources/tree.ts";

/** How long a server that goes down waits for requests under way. */
const CLOSE_MS = 30_000;
/** How long their answers may take to leave after that. */
const LAST_WORDS_MS = 2_000;
/** How long the one command may take that shows whether the sandbox works. */
const SANDBOX_TRIAL_MS = 30_000;
const SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin";
/** How long ending all services may take; each has its own grace. */
const STOP_ALL_MS = 120_000;

export type Server = {
	readonly app: FastifyInstance;
	readonly store: ServiceStore;
	/** Takes up what an earlier server left. Call it once, before listening. */
	start(): Promise<void>;
	/** Resolves, with the reason, when the server must end at once: another one has its records. */
	readonly lost: Promise<AppError>;
	/** Ends requests, streams and builds in good order; services go on unless `stopServices` is set. */
	close(): Promise<void>;
};

/** The composition root: the only place that constructs adapters. What was opened is closed again where a later part fails. */
export async function compose(config: Config, log: Logger): Promise<Server> {
	const opened: AsyncDisposable[] = [];
	try {
		return await assemble(config, log, opened);
	} catch (error) {
		await closeAll(opened);
		throw error;
	}
}

async function closeAll(opened: AsyncDisposable[]): Promise<void> {
	for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
}

async function assemble(config: Config, log: Logger, opened: AsyncDisposable[]): Promise<Server> {
	const folder = (name: string) => path.join(config.dataDir, name);
	const own = <T extends AsyncDisposable>(resource: T): T => {
		opened.push(resource);
		return resource;
	};
	const lost = Promise.withResolvers<AppError>();
	await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
	// Where the data folder lies in somebody's project, its package.json must not say how Node reads programs.
	await writeFile(folder("package.json"), "{}\n");

	const records = await openRecords(config, folder("records"), log, own, lost.resolve);
	const { store, tokens } = records;
	await settleProfile(folder("profile"), config.profile, store);
	const { store: blobStore, chores } = await openBlobs(config, folder("blobs"), records.id, log);
	own(blobStore);
	const blobs = new Blobs(blobStore, { maxBytes: Math.max(config.maxSourceBytes, 2 * 1024 ** 3) });
	const buildLogs = new FileBuildLogs(folder("build-logs"), { maxBytes: config.maxBuildLogBytes });
	// Unpacked sources and half-made builds of a server that was killed.
	const workFolder = folder("work");
	await removeTree(workFolder);
	await mkdir(workFolder, { mode: 0o700 });

	const companion = {
		graceMs: config.stopGrace * 1000,
		drainMs: config.drain * 1000,
		...(config.ports === null ? {} : { ports: config.ports }),
	};
	// Loaded for this profile alone: the engine's client takes long to start.
	const dockerProfile = config.profile === "docker" ? await import("./compose-docker.ts") : null;
	const docker = (await dockerProfile?.openDocker(config, folder, companion, log, own)) ?? null;
	const runtime =
		docker?.runtime ??
		own(await createProcessRuntime({ ...companion, folder: folder("services"), path: programPath() }));
	const { sandbox, warning, note } = own(await openSandbox(config, folder("sandbox"), docker?.containers));
	if (warning !== undefined) log.warn(warning);
	if (note !== undefined) log.info(note);
	const cacheFolder = config.cacheDir ?? folder("cache");
	await sweepCaches(cacheFolder, config.dataDir);
	const go = createGoBuilder({ cacheFolder, workFolder, goCommand: config.go, sandbox });
	const tools = { sandbox, cacheFolder, workFolder, serverEnv: process.env, npmCommand: config.npm };
	const launchers = [new ProcfileLauncher(), new NodeLauncher(tools), new GoLauncher(go), new PythonLauncher(tools)];
	const node = createNodeBuilder({ cacheFolder, workFolder, npmCommand: config.npm, sandbox });
	const builders = [go, node];
	const flow =
		config.profile === "dev" ? { launchers, directories: new Directories(folder("directories")) } : { builders };

	const hosts = [
		...(config.gitHosts === null ? [] : parseHosts(await readText(config.gitHosts, "gitHosts"))),
		...DEFAULT_HOSTS,
	];
	const remotes = own(new Remotes({ hosts, workFolder, git: config.git }));
	const gitSources = new GitSources(remotes, hosts);
	const limits = { bytes: config.maxUnpackedBytes, entries: config.maxSourceFiles };
	const now = () => new Date();
	const { manager, changes, queries, driver, follow, collector } = createCore(
		{
			...{ store, blobs, flow, runtime, buildLogs, log, now },
			remotes: gitSources,
			openUpload: (namespace, source) =>
				openSourceTree({
					open: (call) => blobs.in(namespace).get(sourceKey(sourceId(source)), call),
					...{ workFolder, limits },
				}),
			newId: randomUUID,
		},
		{
			parallelBuilds: config.builds,
			buildTimeoutMs: config.buildTimeout * 1000,
			synchronousTimeoutMs: config.synchronousTimeout * 1000,
			sourceAgeMs: config.sourceAge * 1000,
			keepBuilds: config.keepBuilds,
			ceiling: docker?.ceiling ?? null,
		},
	);
	const upkeep = new Upkeep(log, [
		...chores,
		{
			name: "collection",
			everyMs: config.collectEvery * 1000,
			run: async (signal) => {
				const removed = await collector.collect({ signal });
				if (removed.sources + removed.builds > 0) log.info(removed, "collected");
			},
		},
		{
			name: "scrub",
			everyMs: config.scrubEvery * 1000,
			run: async (signal) => {
				for await (const { key, ok } of blobStore.scrub({ signal }))
					if (!ok) log.error({ key }, "a stored blob is damaged; it is not served any more");
			},
		},
	]);

	const down = new AbortController();
	const deadline = new AbortController();
	let ready = false;
	const app = await buildApp({
		...{ manager, changes, queries, follow, tokens, remotes: gitSources, logger: log },
		contract: loadContract(),
		facts: {
			version: await packageVersion(),
			builders: "launchers" in flow ? flow.launchers : flow.builders,
			maxSourceBytes: config.maxSourceBytes,
			buildsFor: config.openBuilds || sandbox.name !== "none" ? "everyone" : "administrator",
			ready: () => ready,
		},
		down: down.signal,
		deadline: deadline.signal,
		tls:
			config.tlsCert === null || config.tlsKey === null
				? null
				: { cert: await readNamed(config.tlsCert, "tlsCert"), key: await readNamed(config.tlsKey, "tlsKey") },
	});

	return {
		...{ app, store, lost: lost.promise },
		start: async () => {
			await ensureAdminToken(folder("admin-token"), tokens, now());
			const removed = await sweep(blobs, store, { signal: down.signal });
			if (removed > 0) log.info({ removed }, "removed blobs that a crash left without a record");
			docker?.loading.serve(queries);
			void docker?.prepare();
			await driver.start();
			upkeep.start();
			ready = true;
		},
		close: async () => {
			ready = false;
			down.abort();
			// Who has not finished by then is cut off: a client that stalls must not keep the server up.
			const timers = [
				setTimeout(() => deadline.abort(), CLOSE_MS),
				setTimeout(() => app.server.closeAllConnections(), CLOSE_MS + LAST_WORDS_MS),
			];
			try {
				await app.close();
				await upkeep.stop();
				await driver.shutdown();
				if (config.stopServices) await runtime.stopAll({ signal: AbortSignal.timeout(STOP_ALL_MS) });
			} finally {
				for (const timer of timers) clearTimeout(timer);
				await closeAll(opened);
			}
		},
	};
}

/** Programs that need Node find this server's: it is there, and it is the one that they were built for. */
function programPath(): string {
	return [path.dirname(process.execPath), process.env.PATH ?? SYSTEM_PATH].join(path.delimiter);
}

async function openSandbox(
	config: Config,
	workFolder: string,
	containers: SandboxOptions["containers"],
): Promise<Chosen> {
	await removeTree(workFolder);
	const limits = {
		memory: config.buildMemory * MIB,
		processes: config.buildProcesses,
		disk: config.buildDisk * MIB,
	};
	const options = { workFolder, limits, env: process.env, path: process.env.PATH ?? SYSTEM_PATH, containers };
	return chooseSandbox(config.sandbox, options, { signal: AbortSignal.timeout(SANDBOX_TRIAL_MS) });
}

async function readText(file: string, setting: "gitHosts"): Promise<string> {
	return (await readNamed(file, setting)).toString("utf8");
}

async function readNamed(file: string, setting: "tlsCert" | "tlsKey" | "gitHosts"): Promise<Buffer> {
	try {
		return await readFile(file);
	} catch (cause) {
		throw new AppError("invalid_argument", `${flagOf(setting)} cannot be read: ${messageOf(cause)}`, { cause });
	}
}

/** The version in package.json. */
async function packageVersion(): Promise<string> {
	const text = await readFile(path.join(projectRoot(), "package.json"), "utf8");
	return String(JSON.parse(text).version);
}
