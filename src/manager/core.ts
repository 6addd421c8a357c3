import type { Blobs } from "../blob/blobs.ts";
import type { Builder, SourceTree } from "../builders/builder.ts";
import type { Launcher } from "../builders/launcher.ts";
import type { Runtime } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import type { BuildLogs } from "./build-log.ts";
import { BuildMaker } from "./build-maker.ts";
import { Builds } from "./builds.ts";
import { Bulletin } from "./bulletin.ts";
import { type Changes, Replays } from "./changes.ts";
import { Collector, type CollectorSettings } from "./collector.ts";
import { Driver } from "./driver.ts";
import { Editor } from "./editor.ts";
import { FolderMaker } from "./folder-maker.ts";
import { Follow } from "./follow.ts";
import type { Ceiling } from "./limits.ts";
import type { Logger } from "./logger.ts";
import { Manager } from "./manager.ts";
import { Queries } from "./queries.ts";
import { commitOf, isUploaded, type RemoteSources } from "./remote-sources.ts";
import { DEFAULT_RETRY, type RetryTimes } from "./schedule.ts";
import type { ServiceStore } from "./store.ts";
import { Synchronous } from "./synchronous.ts";
import { TrustDomain } from "./trust-domain.ts";
import { Uploads } from "./uploads.ts";
import { Waiters } from "./waiters.ts";

/** Everything that the manager stands on. */
export type Ports = {
	readonly store: ServiceStore;
	readonly blobs: Blobs;
	/** The asynchronous flow has builders; the synchronous one launchers, and a place for their folders. */
	readonly flow:
		| { readonly builders: readonly Builder[] }
		| { readonly launchers: readonly Launcher[]; readonly directories: Directories };
	readonly runtime: Runtime;
	readonly buildLogs: BuildLogs;
	/** Opens an uploaded source; disposing the tree removes what was unpacked. */
	readonly openUpload: (namespace: string, source: string) => SourceTree;
	readonly remotes: RemoteSources;
	readonly log: Logger;
	readonly now: () => Date;
	/** A new unique id, of letters, digits and `-`. */
	readonly newId: () => string;
};

export type CoreSettings = CollectorSettings & {
	/** Builds at the same time. */
	readonly parallelBuilds: number;
	/** Milliseconds that one build may take. */
	readonly buildTimeoutMs: number;
	/** Milliseconds until the verdict of a synchronous change. */
	readonly synchronousTimeoutMs: number;
	/** The most that a service's limits may say. */
	readonly ceiling: Ceiling;
	/** Milliseconds before what failed is tried again: at first, and at most; it doubles in between. */
	readonly retryMs?: RetryTimes;
};

/** The manager and what works for it, put together from ports: the same in the server and in tests. */
export type Core = {
	readonly manager: Manager;
	readonly queries: Queries;
	/** How changes are made: as the manager does, or answered when they are settled. */
	readonly changes: Changes;
	readonly driver: Driver;
	readonly follow: Follow;
	readonly collector: Collector;
};

export function createCore(ports: Ports, settings: CoreSettings): Core {
	const { store, blobs, runtime, buildLogs, log, now, newId, flow, remotes } = ports;
	const directories = "directories" in flow ? flow.directories : null;
	const maker =
		"builders" in flow
			? new BuildMaker(flow.builders, blobs, runtime.target)
			: new FolderMaker(flow.launchers, flow.directories, runtime.target);
	const bulletin = new Bulletin();
	const editor = new Editor(store, bulletin, now, settings.keepBuilds);
	const waiters = new Waiters();
	const builds = new Builds(
		{
			...{ store, editor, maker, buildLogs, log },
			openSource: (namespace, wish) =>
				isUploaded(wish.source) ? ports.openUpload(namespace, wish.source) : remotes.open(wish.source, commitOf(wish)),
		},
		{ parallel: settings.parallelBuilds, timeoutMs: settings.buildTimeoutMs },
	);
	const driver = new Driver({
		...{ store, editor, builds, blobs, directories, runtime, buildLogs, log, now, waiters },
		retryMs: settings.retryMs ?? DEFAULT_RETRY,
	});
	const trust = new TrustDomain(store, runtime.trust);
	const queries = new Queries(store, blobs);
	const { ceiling } = settings;
	const builders = ("builders" in flow ? flow.builders : flow.launchers).map(({ name }) => name);
	const uploads = new Uploads({ store, blobs, newId });
	const replays = new Replays(store, now, directories !== null);
	const manager = new Manager({
		...{ store, queries, replays, editor, driver, uploads, newId, trust, remotes, ceiling, builders },
	});
	const timeoutMs = settings.synchronousTimeoutMs;
	return {
		...{ driver, manager, queries },
		changes:
			directories === null ? manager : new Synchronous({ manager, driver, store, bulletin, waiters, newId, timeoutMs }),
		collector: new Collector({ store, editor, blobs, uploads, directories, buildLogs, log, now }, settings),
		follow: new Follow({ store, bulletin, runtime, buildLogs }),
	};
}
