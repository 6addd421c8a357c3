import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Blobs } from "../../src/blob/blobs.ts";
import type { Launcher } from "../../src/builders/launcher.ts";
import { Database } from "../../src/leveldb/database.ts";
import type { Changes } from "../../src/manager/changes.ts";
import type { Collector } from "../../src/manager/collector.ts";
import { type Core, createCore } from "../../src/manager/core.ts";
import { FileBuildLogs } from "../../src/manager/file-build-logs.ts";
import type { Follow } from "../../src/manager/follow.ts";
import { LevelServiceStore } from "../../src/manager/level-store.ts";
import type { Ceiling } from "../../src/manager/limits.ts";
import type { Manager } from "../../src/manager/manager.ts";
import { revisionOf, type ServiceName, type ServiceRecord, sourceId, sourceKey } from "../../src/manager/model.ts";
import type { Queries } from "../../src/manager/queries.ts";
import type { RetryTimes } from "../../src/manager/schedule.ts";
import { sweep } from "../../src/manager/sweep.ts";
import type { CreateRequest } from "../../src/manager/wish.ts";
import { Directories } from "../../src/sources/directories.ts";
import { openSourceTree } from "../../src/sources/tree.ts";
import { MemoryBlobStore } from "../conformance/memory-blob.ts";
import { MemoryRuntime } from "../conformance/memory-runtime.ts";
import { archiveOf } from "../fixtures/archive.ts";
import { FakeBuilder, MARKER } from "./fake-builder.ts";
import { FakeRemotes } from "./fake-remotes.ts";
import { type Fault, Life } from "./life.ts";

export type CoreOptions = {
	readonly parallelBuilds?: number;
	readonly buildTimeoutMs?: number;
	readonly trust?: MemoryRuntime["trust"];
	/** The synchronous flow, with these launchers. */
	readonly launchers?: readonly Launcher[];
	readonly synchronousTimeoutMs?: number;
	readonly sourceAgeMs?: number;
	readonly keepBuilds?: number;
	/** The most that limits may say; none: the runtime has no limits. */
	readonly ceiling?: Ceiling;
	readonly strayAgeMs?: number;
	readonly retryMs?: RetryTimes;
	/** Milliseconds that the server's clock is ahead. */
	readonly ahead?: () => number;
};

type Teardown = { teardown(action: () => Promise<void>): unknown };
export type Logged = { readonly level: string; readonly details: object; readonly message: string };

const LIMIT_MS = 10_000;
const never = { signal: new AbortController().signal };

export function named(name: string, namespace = "default"): ServiceName {
	return { namespace, name, version: "latest" };
}

/** The manager over fake bytes, a fake builder and a fake runtime, and real records; it can die and come back. */
export class TestCore {
	readonly store: LevelServiceStore;
	readonly database: Database;
	readonly runtime = new MemoryRuntime();
	readonly builder = new FakeBuilder();
	readonly buildLogs: FileBuildLogs;
	readonly logged: Logged[] = [];
	readonly folder: string;
	readonly blobStore = new MemoryBlobStore();
	readonly remotes = new FakeRemotes();
	readonly directories: Directories;
	readonly #options: CoreOptions;
	#life = new Life();
	#core: Core | undefined;
	#ids = 0;

	private constructor(folder: string, database: Database, options: CoreOptions) {
		this.folder = folder;
		this.database = database;
		this.store = new LevelServiceStore(database);
		this.buildLogs = new FileBuildLogs(path.join(folder, "build-logs"), { maxBytes: 64 * 1024 });
		this.directories = new Directories(path.join(folder, "directories"));
		this.#options = options;
		this.runtime.trust = options.trust ?? "many";
	}

	/** Opened and started; closed and removed at the test's end. */
	static async open(t: Teardown, options: CoreOptions = {}): Promise<TestCore> {
		const folder = await mkdtemp(path.join(tmpdir(), "runtime-core-"));
		const core = new TestCore(folder, await Database.open(path.join(folder, "records")), options);
		t.teardown(() => core.close());
		await core.begin();
		return core;
	}

	get manager(): Manager {
		return this.#alive().manager;
	}

	get queries(): Queries {
		return this.#alive().queries;
	}

	get follow(): Follow {
		return this.#alive().follow;
	}

	get changes(): Changes {
		return this.#alive().changes;
	}

	get collector(): Collector {
		return this.#alive().collector;
	}

	get life(): Life {
		return this.#life;
	}

	/** The bytes themselves, past all faults. */
	get blobs(): Blobs {
		return new Blobs(this.blobStore);
	}

	/** A new life over what is stored, as a start of the server: sweep, then recovery. */
	async begin(fault?: (name: string) => Fault): Promise<void> {
		const life = new Life(fault);
		const before = this.#life;
		this.#life = life;
		await before.quiet();
		const store = life.store(this.store);
		const blobs = new Blobs(life.blobs(this.blobStore));
		const { launchers, ahead = () => 0 } = this.#options;
		const flow =
			launchers === undefined
				? { builders: [life.builder(this.builder)] }
				: { launchers, directories: this.directories };
		const log = (level: string) => (details: object, message: string) => {
			this.logged.push({ level, details, message });
		};
		this.#core = createCore(
			{
				...{ store, blobs, flow, runtime: life.runtime(this.runtime) },
				buildLogs: this.buildLogs,
				remotes: this.remotes,
				openUpload: (namespace, source) =>
					openSourceTree({
						open: (call) => blobs.in(namespace).get(sourceKey(sourceId(source)), call),
						workFolder: path.join(this.folder, "work"),
					}),
				log: { info: log("info"), warn: log("warn"), error: log("error") },
				now: () => new Date(Date.now() + ahead()),
				newId: () => `id${++this.#ids}`,
			},
			{
				parallelBuilds: this.#options.parallelBuilds ?? 4,
				buildTimeoutMs: this.#options.buildTimeoutMs ?? 60_000,
				retryMs: this.#options.retryMs ?? { first: 2, most: 20 },
				sourceAgeMs: this.#options.sourceAgeMs ?? 86_400_000,
				keepBuilds: this.#options.keepBuilds ?? 5,
				ceiling: this.#options.ceiling ?? null,
				strayAgeMs: this.#options.strayAgeMs ?? 3_600_000,
				synchronousTimeoutMs: this.#options.synchronousTimeoutMs ?? 60_000,
			},
		);
		await sweep(blobs, store, never);
		await this.#core.driver.start();
	}

	/** The server is gone from one moment to the next; answers when a new one has taken up what it left. */
	async crash(): Promise<void> {
		this.bury();
		await this.begin();
	}

	/** Ends what is left of a dead server: its timers and the fake's builds. No port hears of it. */
	bury(): void {
		this.#life.die();
		void this.#core?.driver.shutdown();
		this.#core = undefined;
	}

	/** Goes down in good order and comes back. */
	async restart(whileDown: () => Promise<void> = async () => undefined): Promise<void> {
		await this.#alive().driver.shutdown();
		await whileDown();
		await this.begin();
	}

	async close(): Promise<void> {
		if (this.#life.dead) this.bury();
		else await this.#core?.driver.shutdown();
		await this.store[Symbol.asyncDispose]();
		await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
	}

	/** Uploads a source whose program is this text; answers its key. */
	async upload(text: string, namespace = "default"): Promise<string> {
		const archive = await archiveOf({ [MARKER]: text });
		const body = (async function* () {
			yield archive;
		})();
		const source = await this.manager.upload(namespace, body, { ...never, maxBytes: 1024 ** 2 });
		return `source://${source.id}`;
	}

	/** Uploads and creates. */
	async create(name: string, text = name, more: Partial<CreateRequest> = {}): Promise<ServiceRecord> {
		const { service } = await this.manager.create("default", { name, source: await this.upload(text), ...more });
		return service;
	}

	/** Waits until the service is as `check` wants it. */
	async reach(name: string, check: (service: ServiceRecord) => boolean, what: string): Promise<ServiceRecord> {
		let last: ServiceRecord | undefined;
		await until(
			async () => {
				last = await this.store.get(named(name));
				return last !== undefined && check(last);
			},
			() => `${name}: ${what}; it is ${JSON.stringify(last)}`,
		);
		if (last === undefined) throw new Error("unreachable");
		return last;
	}

	/** Waits until a revision is in this state. */
	async at(name: string, revision: number, status: string): Promise<ServiceRecord> {
		let last: unknown;
		let service: ServiceRecord | undefined;
		await until(
			async () => {
				service = await this.store.get(named(name));
				if (service === undefined) return false;
				const record = revisionOf(service, revision) ?? (await this.store.revision(service.id, revision));
				last = record;
				return record?.status === status;
			},
			() => `revision ${revision} of ${name} is ${status}; it is ${JSON.stringify(last)}`,
		);
		if (service === undefined) throw new Error("unreachable");
		return service;
	}

	/** Waits until the service has no record. */
	async gone(name: string): Promise<void> {
		await until(
			async () => (await this.store.get(named(name))) === undefined,
			() => `${name} is gone`,
		);
	}

	/** Every event so far, as `1 Pending>Building`, with the error's code where there is one. */
	async events(name: string): Promise<string[]> {
		const service = await this.store.get(named(name));
		const found: string[] = [];
		for await (const { revision, from, to, error } of this.store.events(service?.id ?? "", 0))
			found.push(`${revision} ${from ?? ""}>${to}${error === undefined ? "" : ` ${error.code}`}`);
		return found;
	}

	async blobKeys(): Promise<string[]> {
		const found: string[] = [];
		for await (const { namespace, key } of this.blobs.everywhere(never)) found.push(`${namespace}/${key}`);
		return found;
	}

	#alive(): Core {
		if (this.#core === undefined) throw new Error("the server is dead");
		return this.#core;
	}
}

/** Waits for a condition, with a limit. */
export async function until(check: () => boolean | Promise<boolean>, what: () => string): Promise<void> {
	const end = Date.now() + LIMIT_MS;
	while (!(await check())) {
		if (Date.now() > end) throw new Error(`not in time: ${what()}`);
		await delay(2);
	}
}
