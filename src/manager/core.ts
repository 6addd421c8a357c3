import type { Blobs } from "../blob/blobs.ts";
import type { Builder, SourceTree } from "../builders/builder.ts";
import type { Runtime } from "../runtimes/runtime.ts";
import type { BuildLogs } from "./build-log.ts";
import { Builds } from "./builds.ts";
import { Bulletin } from "./bulletin.ts";
import { Driver } from "./driver.ts";
import { Editor } from "./editor.ts";
import { Follow } from "./follow.ts";
import type { Logger } from "./logger.ts";
import { Manager } from "./manager.ts";
import type { ServiceStore } from "./store.ts";

/** Everything that the manager stands on. */
export type Ports = {
	readonly store: ServiceStore;
	readonly blobs: Blobs;
	readonly builders: readonly Builder[];
	readonly runtime: Runtime;
	readonly buildLogs: BuildLogs;
	/** Opens the source of a revision; disposing the tree removes what was unpacked. */
	readonly openSource: (namespace: string, source: string) => SourceTree;
	readonly log: Logger;
	readonly now: () => Date;
	/** A new unique id, of letters, digits and `-`. */
	readonly newId: () => string;
};

export type CoreSettings = {
	/** Builds at the same time. */
	readonly parallelBuilds: number;
	/** Milliseconds that one build may take. */
	readonly buildTimeoutMs: number;
};

/** The manager and what works for it, put together from ports: the same in the server and in tests. */
export type Core = { readonly manager: Manager; readonly driver: Driver; readonly follow: Follow };

export function createCore(ports: Ports, settings: CoreSettings): Core {
	const { store, blobs, runtime, buildLogs, log, now, newId } = ports;
	const bulletin = new Bulletin();
	const editor = new Editor(store, bulletin, now);
	const builds = new Builds(
		{ ...ports, editor },
		{ parallel: settings.parallelBuilds, timeoutMs: settings.buildTimeoutMs, target: runtime.target },
	);
	const driver = new Driver({ store, editor, builds, blobs, runtime, buildLogs, log, now });
	return {
		driver,
		manager: new Manager({ store, editor, driver, blobs, newId }),
		follow: new Follow({ store, bulletin, runtime, buildLogs }),
	};
}
