/** What one command of a build may use. */
export type Limits = {
	/** Bytes of memory of all its processes together, /tmp included. */
	readonly memory: number;
	/** Processes and threads at the same time. */
	readonly processes: number;
	/** Bytes that may be added to the folders it writes to. */
	readonly disk: number;
	/** Files, folders and links that may be added to them. */
	readonly files: number;
	/** Bytes that it may send and receive. */
	readonly network: number;
	/** Bytes that must stay free on the disk, whoever fills it. */
	readonly reserve: number;
	/** Files that there must stay room for on the disk, where it counts them. */
	readonly reserveFiles: number;
};

export const MIB = 1024 ** 2;

export const DEFAULT_LIMITS: Limits = {
	memory: 4096 * MIB,
	processes: 1024,
	disk: 8192 * MIB,
	files: 1_000_000,
	network: 4096 * MIB,
	reserve: 256 * MIB,
	reserveFiles: 10_000,
};

export function inMiB(bytes: number): string {
	return `${Math.round(bytes / MIB)} MiB`;
}

/** In words for the build's owner, as `Ended.ended`. */
export const EXCEEDED = {
	memory: (limits: Limits) => `it used more than ${inMiB(limits.memory)} of memory`,
	processes: (limits: Limits) => `it had more than ${limits.processes} processes and threads at once`,
	disk: (limits: Limits) => `it wrote more than ${inMiB(limits.disk)} to the disk`,
	files: (limits: Limits) => `it made more than ${limits.files} files`,
	network: (limits: Limits) => `it moved more than ${inMiB(limits.network)} over the network`,
} as const;

export type Limited = keyof typeof EXCEEDED;

/**
 * What a process sets for itself before it becomes the command: it holds for all that it starts and cannot be raised again.
 * The number of processes counts in the sandbox's own user namespace; the kernel does not hold root to it. Without a control
 * group memory is limited by process, and by what it may write to (`-d`): address space (`-v`) is reserved in plenty by Go
 * and by V8 and says nothing.
 */
export function ulimits(limits: Limits, grouped: boolean): string {
	const processes = `if (ulimit -u ${limits.processes}) 2>/dev/null; then ulimit -u ${limits.processes}; else ulimit -p ${limits.processes} 2>/dev/null; fi`;
	const lines = ["ulimit -c 0", `ulimit -f ${Math.ceil(limits.disk / 512)}`, processes];
	if (!grouped) lines.push(`ulimit -d ${Math.ceil(limits.memory / 1024)}`);
	return lines.join("\n");
}
