import { mkdir, readdir, rename, stat, unlink, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Call, SourceTree } from "../builders/builder.ts";
import { systemCode } from "../errors.ts";
import { removeTree } from "../remove-tree.ts";
import { sync, syncTree } from "./durable.ts";

/**
 * The folders that programs of the synchronous flow run in: one for each revision, unpacked from its source, kept as long as
 * the revision is needed, and made again from the source where it is gone.
 */
export class Directories {
	readonly #folder: string;
	readonly #sync: (file: string) => Promise<void>;

	/** On the same file system as the folder in which sources are unpacked. `sync` makes a file or a folder durable. */
	constructor(folder: string, options: { readonly sync?: (file: string) => Promise<void> } = {}) {
		this.#folder = folder;
		this.#sync = options.sync ?? sync;
	}

	/** The absolute path of a revision's folder, there or not. */
	path(serviceId: string, revision: number): string {
		return path.join(this.#folder, serviceId, String(revision));
	}

	/** Whether the folder is there and was finished. */
	async exists(serviceId: string, revision: number): Promise<boolean> {
		try {
			await stat(this.#mark(serviceId, revision));
			return (await stat(this.path(serviceId, revision))).isDirectory();
		} catch (error) {
			if (systemCode(error) === "ENOENT") return false;
			throw error;
		}
	}

	/** The folder is ready to run in: from now on it exists, over a power cut too. Its mark is durable after all it holds. */
	async finish(serviceId: string, revision: number, call: Call): Promise<void> {
		const mark = this.#mark(serviceId, revision);
		await syncTree(this.path(serviceId, revision), call, this.#sync);
		await writeFile(mark, "");
		await this.#sync(mark);
		await this.#sync(path.dirname(mark));
	}

	/** Unpacks a source into the revision's folder, in the place of what is there, unfinished yet. Rejects as the tree does. */
	async make(serviceId: string, revision: number, source: SourceTree, call: Call): Promise<string> {
		const unpacked = await source.directory(call);
		const place = this.path(serviceId, revision);
		await this.remove(serviceId, revision);
		await mkdir(path.dirname(place), { recursive: true, mode: 0o700 });
		await rename(unpacked, place);
		return place;
	}

	/** Removes the folder of a revision, or all of a service. Idempotent. */
	async remove(serviceId: string, revision?: number): Promise<void> {
		if (revision === undefined) return removeTree(path.join(this.#folder, serviceId));
		await this.#unmark(serviceId, revision);
		await removeTree(this.path(serviceId, revision));
	}

	/** The services that have folders. */
	async services(): Promise<string[]> {
		return entries(this.#folder);
	}

	/** The revisions of a service that have a folder. */
	async revisions(serviceId: string): Promise<number[]> {
		return (await entries(path.join(this.#folder, serviceId))).map(Number).filter(Number.isInteger);
	}

	/** A power cut must not bring the mark back beside what is left of the folder. */
	async #unmark(serviceId: string, revision: number): Promise<void> {
		const mark = this.#mark(serviceId, revision);
		try {
			await unlink(mark);
		} catch (error) {
			if (systemCode(error) === "ENOENT") return;
			throw error;
		}
		await this.#sync(path.dirname(mark));
	}

	#mark(serviceId: string, revision: number): string {
		return `${this.path(serviceId, revision)}.finished`;
	}
}

async function entries(folder: string): Promise<string[]> {
	try {
		return await readdir(folder);
	} catch (error) {
		if (systemCode(error) === "ENOENT") return [];
		throw error;
	}
}
