import type { Blobs } from "../blob/blobs.ts";
import type { BlobInfo } from "../blob/store.ts";
import type { Build, Builder, Call, SourceTree } from "../builders/builder.ts";
import { failpoint } from "../failpoint.ts";
import { named, nearestBuilder } from "./builder-choice.ts";
import { type Made, type MakeCall, type Maker, StoreFailure } from "./maker.ts";
import { buildKey, type RevisionRecord, type ServiceRecord } from "./model.ts";

/** The asynchronous flow: the builder that is for the source, or that was asked for, makes one executable file, which is stored. */
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
		const builder =
			named(this.#builders, revision.builder) ?? (await nearestBuilder(this.#builders, source, entrypoint, call));
		const build = await builder.build(
			source,
			{ namespace: service.namespace, entrypoint, env: {}, target: this.#target },
			call,
		);
		call.keep(build);
		failpoint("manager.build_done");
		let stored: BlobInfo;
		try {
			stored = await this.#store(service, revision.revision, build, call);
		} catch (error) {
			if (call.signal.aborted) throw error;
			throw new StoreFailure(error);
		}
		failpoint("manager.build_stored");
		// Of the bytes as they were written: what the store holds is what is run.
		const { sha256, size } = stored;
		const record = { sha256, size, requires: build.requires, builder: build.builder, revision: revision.revision };
		return { build: record, launch: null };
	}

	async discard(service: ServiceRecord, revision: number, call: Call): Promise<void> {
		await this.#blobs.in(service.namespace).delete(buildKey(service.id, revision), call);
	}

	async #store(service: ServiceRecord, revision: number, build: Build, call: MakeCall): Promise<BlobInfo> {
		const blobs = this.#blobs.in(service.namespace);
		const key = buildKey(service.id, revision);
		// A crash between storing and recording leaves bytes that nobody refers to; this build takes their place.
		await blobs.delete(key, call);
		const expected = build.sha256 === undefined ? {} : { sha256: build.sha256 };
		return blobs.put(key, build.body, { signal: call.signal, ...expected });
	}
}
