import { systemCode } from "../../errors.ts";

const EVERY_MS = 100;

/** One timer for many followers: the fallback where a file's changes are not told. Runs only while somebody needs it. */
export class Poll {
	readonly #callbacks = new Set<() => void>();
	readonly #everyMs: number;
	#timer: NodeJS.Timeout | undefined;

	constructor(everyMs = EVERY_MS) {
		this.#everyMs = everyMs;
	}

	/** Returns what takes it out again. */
	add(callback: () => void): () => void {
		this.#callbacks.add(callback);
		this.#timer ??= setInterval(() => {
			for (const each of [...this.#callbacks]) each();
		}, this.#everyMs).unref();
		return () => {
			this.#callbacks.delete(callback);
			if (this.#callbacks.size > 0) return;
			clearInterval(this.#timer);
			this.#timer = undefined;
		};
	}
}

/** The file is not there (any more), the system has no more watches to give, or its file system tells nothing: a poll makes up for it. */
export function isWithoutWatch(error: unknown): boolean {
	return ["ENOENT", "ENOTDIR", "EACCES", "EPERM", "ENOSPC", "EMFILE", "ENFILE", "ENOSYS", "EINVAL"].includes(
		systemCode(error) ?? "",
	);
}
