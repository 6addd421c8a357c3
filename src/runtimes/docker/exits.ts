import type { Exit } from "../companion/engine.ts";

const MIB = 1024 * 1024;
const KILLED = 137;
const LOADER_SAYS = "runtime-loader: ";
/** The loader's exit codes that another try would end with too. 95, the server could not be reached, is not one. */
const REFUSALS: ReadonlySet<number> = new Set([90, 91, 92, 93, 94, 96, 97, 98]);

export type Ended = {
	readonly exitCode: number;
	readonly outOfMemory: boolean;
	/** Bytes that the program may use. */
	readonly memory: number;
	/** The engine was away when it ended. */
	readonly excused: boolean;
	/** Of its stderr; null where there is none. */
	readonly lastLine: string | null;
};

/** Whether the last line of its stderr says more than this code. */
export function isLoaderCode(exitCode: number): boolean {
	return REFUSALS.has(exitCode);
}

/** How a container ended, in words where the code does not say it. */
export function howItEnded({ exitCode, outOfMemory, memory, excused, lastLine }: Ended): Exit {
	if (outOfMemory && exitCode === KILLED)
		return { exitCode, words: `was killed: it used more than its ${amount(memory)} of memory` };
	if (isLoaderCode(exitCode) && lastLine?.startsWith(LOADER_SAYS) === true)
		return { exitCode, refused: lastLine.slice(LOADER_SAYS.length) };
	return excused ? { exitCode, excused } : { exitCode };
}

function amount(bytes: number): string {
	return bytes >= MIB ? `${Math.round(bytes / MIB)} MiB` : `${Math.round(bytes / 1024)} KiB`;
}
