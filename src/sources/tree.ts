import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Call } from "../blob/store.ts";
import type { SourceTree } from "../builders/builder.ts";
import { AppError, cancelled, isAppError, unlessAborted } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { removeTree } from "../remove-tree.ts";
import { type UnpackLimits, unpack } from "./unpack.ts";

export type SourceTreeOptions = {
	/** Opens the archive's bytes, from their start; called for each form that is asked for. */
	readonly open: (call: Call) => Promise<AsyncIterable<Uint8Array>>;
	/** The unpacked tree is made below it, under a name of its own. Made where it does not exist. */
	readonly workFolder: string;
	readonly limits?: Partial<UnpackLimits>;
	readonly name?: () => string;
};

/** A source whose archive is opened, and unpacked, when somebody asks for it. Nothing happens before. */
export function openSourceTree(options: SourceTreeOptions): SourceTree {
	return new ArchivedTree(options);
}

class ArchivedTree implements SourceTree {
	readonly archiveType = "targz";
	readonly #options: SourceTreeOptions;
	readonly #path: string;
	readonly #disposed = new AbortController();
	#unpacking: Promise<string> | undefined;

	constructor(options: SourceTreeOptions) {
		this.#options = options;
		this.#path = join(options.workFolder, `source-${(options.name ?? randomUUID)()}`);
	}

	async archive(call: Call): Promise<AsyncIterable<Uint8Array>> {
		this.#check(call);
		return this.#options.open(call);
	}

	async directory(call: Call): Promise<string> {
		for (;;) {
			this.#check(call);
			this.#unpacking ??= this.#unpack(call).catch((error: unknown) => {
				this.#unpacking = undefined;
				throw error;
			});
			try {
				return await unlessAborted(this.#unpacking, call.signal);
			} catch (error) {
				// Somebody else's call made the tree and was cancelled; ours goes on.
				if (!isAppError(error, "cancelled") || call.signal.aborted) throw error;
			}
		}
	}

	async #unpack(call: Call): Promise<string> {
		const signal = AbortSignal.any([call.signal, this.#disposed.signal]);
		try {
			await mkdir(this.#options.workFolder, { recursive: true });
			if (signal.aborted) throw cancelled(signal);
			await unpack(await this.#options.open({ signal }), this.#path, this.#options.limits ?? {}, { signal });
			failpoint("source.unpacked");
			return this.#path;
		} catch (error) {
			await removeTree(this.#path);
			throw error;
		}
	}

	#check(call: Call): void {
		if (this.#disposed.signal.aborted) throw new AppError("internal", "the source tree was disposed of");
		if (call.signal.aborted) throw cancelled(call.signal);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#disposed.abort();
		await Promise.allSettled([this.#unpacking]);
		await removeTree(this.#path);
	}
}
