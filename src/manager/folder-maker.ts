import type { SourceTree } from "../builders/builder.ts";
import type { Launcher } from "../builders/launcher.ts";
import { failpoint } from "../failpoint.ts";
import type { Directories } from "../sources/directories.ts";
import { nothingToRun } from "./build-maker.ts";
import type { Made, MakeCall, Maker } from "./maker.ts";
import type { RevisionRecord, ServiceRecord } from "./model.ts";

/** The synchronous flow: the source is unpacked into the revision's own folder and prepared to run there. */
export class FolderMaker implements Maker {
	readonly #launchers: readonly Launcher[];
	readonly #directories: Directories;
	readonly #target: { readonly os: string; readonly arch: string };

	constructor(
		launchers: readonly Launcher[],
		directories: Directories,
		target: { readonly os: string; readonly arch: string },
	) {
		this.#launchers = launchers;
		this.#directories = directories;
		this.#target = target;
	}

	async make(service: ServiceRecord, revision: RevisionRecord, source: SourceTree, call: MakeCall): Promise<Made> {
		const { entrypoint } = revision;
		try {
			const root = await this.#directories.make(service.id, revision.revision, source, call);
			failpoint("manager.folder_made");
			const launcher = await this.#choose(root, entrypoint, call);
			const launch = await launcher.prepare(root, { entrypoint, target: this.#target }, call);
			failpoint("manager.folder_prepared");
			await this.#directories.finish(service.id, revision.revision);
			return { build: null, launch };
		} catch (error) {
			await this.#directories.remove(service.id, revision.revision);
			throw error;
		}
	}

	async #choose(root: string, entrypoint: string, call: MakeCall): Promise<Launcher> {
		for (const launcher of this.#launchers) if (await launcher.detect(root, entrypoint, call)) return launcher;
		throw nothingToRun("run", entrypoint, this.#launchers);
	}
}
