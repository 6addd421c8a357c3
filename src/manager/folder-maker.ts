import { BuildError, type SourceTree } from "../builders/builder.ts";
import type { Launch, Launcher } from "../builders/launcher.ts";
import { failpoint } from "../failpoint.ts";
import type { Directories } from "../sources/directories.ts";
import { named } from "./builder-choice.ts";
import { type Made, type MakeCall, type Maker, nothingToRun } from "./maker.ts";
import type { RevisionRecord, ServiceRecord } from "./model.ts";

/** Stands for the revision's folder in a command that is kept: the data folder may move. No real argument can hold it. */
const ROOT = "\0";

function detached(launch: Launch, root: string): Launch {
	return { ...launch, command: launch.command.map((argument) => argument.replaceAll(root, ROOT)) };
}

/** A kept command as it is run, in the folder's present place. */
export function attached(command: readonly string[], root: string): readonly string[] {
	return command.map((argument) => argument.replaceAll(ROOT, () => root));
}

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
			const launcher = named(this.#launchers, revision.builder) ?? (await this.#choose(root, entrypoint, call));
			const launch = await launcher.prepare(
				root,
				{ namespace: service.namespace, entrypoint, target: this.#target },
				call,
			);
			failpoint("manager.folder_prepared");
			await this.#directories.finish(service.id, revision.revision, call);
			return { build: null, launch: detached(launch, root) };
		} catch (error) {
			await this.#directories.remove(service.id, revision.revision);
			throw error;
		}
	}

	async discard(service: ServiceRecord, revision: number): Promise<void> {
		await this.#directories.remove(service.id, revision);
	}

	async #choose(root: string, entrypoint: string, call: MakeCall): Promise<Launcher> {
		const lacking: string[] = [];
		for (const launcher of this.#launchers) {
			const detected = await launcher.detect(root, entrypoint, call);
			if (detected === true) return launcher;
			if (detected !== false) lacking.push(detected.lacking);
		}
		if (lacking.length > 0)
			throw new BuildError("source_invalid", `there is nothing to run in ${entrypoint}: ${lacking.join("; ")}`);
		throw nothingToRun("run", entrypoint, this.#launchers);
	}
}
