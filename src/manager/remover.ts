import type { Blobs } from "../blob/blobs.ts";
import { failpoint } from "../failpoint.ts";
import type { Runtime } from "../runtimes/runtime.ts";
import type { Directories } from "../sources/directories.ts";
import type { BuildLogs } from "./build-log.ts";
import type { Builds } from "./builds.ts";
import type { Editor } from "./editor.ts";
import type { Logger } from "./logger.ts";
import type { ServiceRecord } from "./model.ts";
import type { ServiceStore } from "./store.ts";

export type RemoverDeps = {
	readonly store: ServiceStore;
	readonly editor: Editor;
	readonly builds: Builds;
	readonly blobs: Blobs;
	/** Of the synchronous flow. */
	readonly directories: Directories | null;
	readonly runtime: Runtime;
	readonly buildLogs: BuildLogs;
	readonly log: Logger;
};

/** The end of a service: its build, its processes, its bytes and at last its record. Each step bears being repeated. */
export class Remover {
	readonly #deps: RemoverDeps;

	constructor(deps: RemoverDeps) {
		this.#deps = deps;
	}

	/** Resolves when nothing of it is left. */
	async remove(service: ServiceRecord, signal: AbortSignal): Promise<void> {
		const { runtime, blobs, buildLogs, store, builds } = this.#deps;
		await builds.stop(service.id);
		await runtime.remove(service, { signal });
		failpoint("manager.runtime_removed");
		const stored = blobs.in(service.namespace);
		for await (const key of stored.list(`build/${service.id}/`, { signal })) await stored.delete(key, { signal });
		await this.#deps.directories?.remove(service.id);
		await buildLogs.remove(service.id);
		failpoint("manager.bytes_removed");
		const current = await store.getById(service.id);
		if (current !== undefined) await store.remove(current);
		failpoint("manager.record_removed");
		this.#deps.editor.announce(service.id);
		this.#deps.log.info({ service: service.id, name: service.name, version: service.version }, "service removed");
	}
}
