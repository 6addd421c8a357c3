import type { Blobs } from "../blob/blobs.ts";
import { type Build, BuildError, type Builder, type SourceTree } from "../builders/builder.ts";
import { failpoint } from "../failpoint.ts";
import { type Made, type MakeCall, type Maker, StoreFailure } from "./maker.ts";
import { buildKey, type RevisionRecord, type ServiceRecord } from "./model.ts";

/** The asynchronous flow: the first builder that is for the source makes one executable file, which is stored. */
export class BuildMaker implements Maker {
	readonly #builders: readonly Builder[];
	readonly #blobs: Blobs;
	readonly #target: { readonly os: string; readonly arch: string };

	constructor(builders: readonly Builder[], blobs: Blobs, target: { readonly os: string; readonly arch: string }) {
		this.#builders = builders;
		this.#blobs = blobs;
		this.#target = target;
	}

	async make(service: ServiceRecord, revision: RevisionRecord, source: SourceTree, call: MakeCall): Promise<Made> {
		const { entrypoint } = revision;
		const builder = await this.#choose(source, entrypoint, call);
		await using build = await builder.build(source, { entrypoint, env: {}, target: this.#target }, call);
		failpoint("manager.build_done");
		try {
			await this.#store(service, revision.revision, build, call);
		} catch (error) {
			if (call.signal.aborted) throw error;
			throw new StoreFailure(error);
		}
		failpoint("manager.build_stored");
		const { sha256, size, requires } = build;
		const record = { sha256, size, requires, builder: build.builder, revision: revision.revision };
		return { build: record, launch: null };
	}

	async #choose(source: SourceTree, entrypoint: string, call: MakeCall): Promise<Builder> {
		for (const builder of this.#builders) if (await builder.detect(source, entrypoint, call)) return builder;
		throw nothingToRun("build", entrypoint, this.#builders);
	}

	async #store(service: ServiceRecord, revision: number, build: Build, call: MakeCall): Promise<void> {
		const blobs = this.#blobs.in(service.namespace);
		const key = buildKey(service.id, revision);
		// A crash between storing and recording leaves bytes that nobody refers to; this build takes their place.
		await blobs.delete(key, call);
		await blobs.put(key, build.body, { ...call, sha256: build.sha256 });
	}
}

/** None of those that could do something with the folder is for it. */
export function nothingToRun(
	what: "build" | "run",
	entrypoint: string,
	candidates: readonly { readonly markers: readonly string[] }[],
): BuildError {
	const markers = candidates.flatMap((candidate) => candidate.markers).join(", ");
	return new BuildError("source_invalid", `there is nothing to ${what} in ${entrypoint}: it has none of ${markers}`);
}
