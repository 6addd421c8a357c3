import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * Collects what became garbage a moment ago, in about a third of a millisecond. A received chunk is a small object with 64 KiB
 * outside the heap: left to itself, V8 looks after them by full collections, which take more time and memory than receiving.
 */
export function youngCollector(): () => void {
	setFlagsFromString("--expose-gc");
	const collect: unknown = runInNewContext("gc");
	if (typeof collect !== "function") return () => undefined;
	return () => collect({ type: "minor" });
}
