import { LinuxPlatform } from "./linux.ts";
import { OtherPlatform } from "./other.ts";

/** A living process. The pid alone names nothing: with `startTime` and the boot id it does. */
export type ProcessSeen = {
	readonly pid: number;
	/** Opaque; the same for one process for as long as it lives. */
	readonly startTime: string;
	/** The pid of its session's first process. */
	readonly session: number;
	/** Value of the environment variable that was asked for, as it was when the process started; null without. */
	readonly mark: string | null;
};

export type Listener = {
	/** The local address: `127.0.0.1`, `0.0.0.0`, `::`, … */
	readonly host: string;
	readonly port: number;
	/** Opaque name of the socket, for `owned`. */
	readonly socket: string;
};

/** What operating systems do differently. Zombies count as gone everywhere. */
export interface Platform {
	/** Differs after each start of the machine. */
	bootId(): Promise<string>;
	/** The start time of a living process, null when there is none. */
	startTime(pid: number): Promise<string | null>;
	/** All living processes that can be seen. */
	processes(variable: string): Promise<ProcessSeen[]>;
	/** What this process has started itself and still lives; none where the system does not say so at once. */
	children(pid: number): Promise<number[]>;
	/** TCP sockets that listen, on this port alone where one is given; in the network of this process where one is given. */
	listeners(port?: number, pid?: number): Promise<Listener[]>;
	/** Those of the listeners that one of these processes holds. */
	owned(listeners: readonly Listener[], pids: readonly number[]): Promise<Listener[]>;
	/** The lowest port that the system gives out by itself. */
	firstEphemeralPort(): Promise<number>;
}

/** The only place that asks which system this is. */
export function platformOf(os: NodeJS.Platform = process.platform): Platform {
	return os === "linux" ? new LinuxPlatform() : new OtherPlatform();
}
