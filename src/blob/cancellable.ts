import { cancelled } from "../errors.ts";

/**
 * The items of `source` until `signal` fires; then the pull that is under way rejects with `cancelled`, even if the source never
 * answers. The source is always told that it was given up.
 */
export async function* cancellable<T>(
	source: AsyncIterable<T>,
	signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
	if (signal.aborted) throw cancelled(signal);
	const iterator = source[Symbol.asyncIterator]();
	let interrupt: (error: unknown) => void = () => undefined;
	const onAbort = () => interrupt(cancelled(signal));
	signal.addEventListener("abort", onAbort);
	let ended = false;
	try {
		for (;;) {
			const result = await new Promise<IteratorResult<T>>((resolve, reject) => {
				interrupt = reject;
				iterator.next().then(resolve, reject);
			});
			if (signal.aborted) throw cancelled(signal);
			if (result.done === true) {
				ended = true;
				return;
			}
			yield result.value;
		}
	} finally {
		signal.removeEventListener("abort", onAbort);
		// Not awaited: a source that hangs in `next` would hang in `return` as well, and what it still throws concerns nobody.
		if (!ended) iterator.return?.().catch(() => undefined);
	}
}
