import type { Call } from "../builder.ts";
import type { Command } from "../command.ts";

/** A command and all that it may see. Paths are absolute and are the same inside, so that nothing needs translation. */
export type Confined = Command & {
	/** Files and folders seen read-only: the source, a toolchain. One that is not there is an error. */
	readonly reads: readonly string[];
	/** Folders seen and writable: a work folder, caches. They are there already; what is added to them counts. */
	readonly writes: readonly string[];
	/** Origins (scheme, host and port) that may be reached, `https:` and `http:` alone; none: no network. */
	readonly hosts: readonly URL[];
};

export type Ended = {
	/** 128 + n for signal n. */
	readonly exitCode: number;
	/** The limit that ended it, in words for the build's owner: "it used more than 2048 MiB of memory". */
	readonly ended?: string;
	/** `host:port` of what it asked the proxy for and may not reach, each once; none where that is not known. */
	readonly refused?: readonly string[];
};

/**
 * Runs commands that work on source which somebody else wrote. Inside are the system's own programs and libraries, what
 * `Confined` names, and nothing else; the environment is `env` alone, which gets the proxy that leads to `hosts`.
 */
export interface Sandbox {
	/** `none` confines nothing: `reads`, `writes`, `hosts` and limits are not looked at. */
	readonly name: "bubblewrap" | "container" | "none";
	/**
	 * As runCommand, whose promises hold: when it settles, every process of the command has ended, daemons included. Rejects
	 * with `cancelled`, and with BuildError `unavailable` where the machine is at fault (its disk is nearly full).
	 */
	run(command: Confined, call: Call): Promise<Ended>;
}
