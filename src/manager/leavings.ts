import type { Logger } from "./logger.ts";

/**
 * What is of no use any more once the outcome of a build is recorded: the unpacked source, the builder's own files. Nobody who
 * waits for the build waits for their removal. Of a server that was killed before, the next start finds them in its work folder.
 */
export class Leavings implements AsyncDisposable {
	readonly #things: AsyncDisposable[] = [];
	readonly #log: Logger;

	constructor(log: Logger) {
		this.#log = log;
	}

	keep<T extends AsyncDisposable>(thing: T): T {
		this.#things.push(thing);
		return thing;
	}

	/** Removes them, the last one first. Never rejects: what cannot be removed is left to the next start. */
	async [Symbol.asyncDispose](): Promise<void> {
		for (const thing of this.#things.splice(0).reverse())
			try {
				await thing[Symbol.asyncDispose]();
			} catch (error) {
				this.#log.warn({ err: error }, "temporary files of a build could not be removed; the next start does it");
			}
	}
}
