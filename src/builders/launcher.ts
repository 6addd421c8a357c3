import type { BuildLog, Call, Requires } from "./builder.ts";

/** How to run a prepared folder. */
export type Launch = {
	/** The program and its first arguments; the service's own follow. */
	readonly command: readonly string[];
	/** The folder to run it in, relative to the source's root. */
	readonly folder: string;
	/** Who prepared it; shown to people. */
	readonly launcher: string;
	readonly requires: Requires;
};

export type LaunchOptions = {
	/** Whose it is, as for a build. */
	readonly namespace: string;
	/** Folder of the program inside the source, as for a build. */
	readonly entrypoint: string;
	readonly target: { readonly os: string; readonly arch: string };
};

/** `lacking`: it would be the one, but for what this says. Others get their turn; where none is found, people are told. */
export type Detected = boolean | { readonly lacking: string };

/**
 * Makes a folder of source ready to run where it lies: what the synchronous flow has in a builder's place. The folder is the
 * service's own and lives as long as its revision.
 */
export interface Launcher {
	/** `go`, `node`, … */
	readonly name: string;
	/** Files whose presence says that this launcher is for a folder. Named in errors. */
	readonly markers: readonly string[];
	/** Whether this launcher is the one for `entrypoint` below `root`. */
	detect(root: string, entrypoint: string, call: Call): Promise<Detected>;
	/**
	 * Compiles, or installs what the program needs. May write below `root`. Rejects with BuildError, or with `cancelled`; by
	 * then every process that it started has ended.
	 */
	prepare(root: string, options: LaunchOptions, call: Call & { readonly log: BuildLog }): Promise<Launch>;
}
