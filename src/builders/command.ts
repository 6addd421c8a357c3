import { spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { Socket } from "node:net";
import { setTimeout as delay, setImmediate } from "node:timers/promises";
import { cancelled, systemCode } from "../errors.ts";
import type { BuildLog, Call } from "./builder.ts";
import { LineSplitter } from "./lines.ts";

export type Command = {
	/** Absolute path of the program. */
	readonly file: string;
	readonly args: readonly string[];
	readonly cwd: string;
	/** The whole environment; nothing is inherited. */
	readonly env: Readonly<Record<string, string>>;
	/** Gets stdout and stderr in the order in which they were written. */
	readonly log: BuildLog;
	/** Bytes of output after which the rest is dropped with one note; 8 MiB by default. */
	readonly outputLimit?: number;
	/** Descriptors above 3 that lead nowhere for the command: those that the server was started with are inherited else. */
	readonly withheld?: readonly number[];
};

/**
 * The leader of the build's process group. It starts the command, says how it ended through descriptor 3, and waits there
 * until the server lets go. A server that was killed lets go too: then the leader kills the group, the compilers that the
 * command started included. (pdeathsig would reach the direct child alone, and Linux alone.)
 * The leader outlives the command so that its process group's number stays ours until the group has been killed.
 */
const LEADER = `
( "$@" 2>&1 3>&-; echo "$?" >&3 ) &
exec >/dev/null 2>&1
read -r _ <&3
kill -KILL 0
`;

const DEFAULT_OUTPUT_LIMIT = 8 * 1024 ** 2;
/** How long a killed group may take to be gone; a process can hang in the kernel. */
const GONE_LIMIT_MS = 10_000;
/** So many processes are looked at before others get a turn. */
const LOOKED_AT_ONCE = 64;

/**
 * Runs a build command in a process group of its own, without stdin. Resolves with its exit code (128 + n for signal n).
 * When it settles, every process of the group has ended; an aborted call rejects with the signal's error.
 */
export async function runCommand(command: Command, call: Call): Promise<{ readonly exitCode: number }> {
	if (call.signal.aborted) throw cancelled(call.signal);
	const nowhere = openSync("/dev/null", "r+");
	const stdio: ("ignore" | "pipe" | number)[] = ["ignore", "pipe", "ignore", "pipe"];
	for (const descriptor of command.withheld ?? []) {
		while (stdio.length <= descriptor) stdio.push("ignore");
		stdio[descriptor] = nowhere;
	}
	const child = spawn("/bin/sh", ["-c", LEADER, "sh", command.file, ...command.args], {
		cwd: command.cwd,
		env: { ...command.env },
		detached: true,
		stdio,
	});
	closeSync(nowhere);
	const failed = Promise.withResolvers<never>();
	failed.promise.catch(() => undefined);
	const exited = new Promise<void>((resolve) => {
		child.once("exit", () => resolve());
		child.once("error", (error) => {
			failed.reject(error);
			resolve();
		});
	});
	const output = child.stdout;
	const control = child.stdio[3];
	if (child.pid === undefined || output === null || !(control instanceof Socket)) {
		await exited;
		return failed.promise;
	}
	const group = child.pid;
	let killed = false;
	const kill = () => {
		if (!killed) killGroup(group);
		killed = true;
	};
	// Where somebody else killed the leader, its group is killed in the moment it is reaped, before the number is free again.
	child.once("exit", kill);

	const splitter = new LineSplitter(command.log, command.outputLimit ?? DEFAULT_OUTPUT_LIMIT);
	output.on("data", (chunk: Buffer) => {
		try {
			splitter.write(chunk);
		} catch (error) {
			failed.reject(error);
		}
	});
	output.on("error", failed.reject);
	const drained = new Promise<void>((resolve) => output.once("close", () => resolve()));

	let said = "";
	const ended = new Promise<number>((resolve) => {
		control.on("data", (chunk: Buffer) => {
			said += chunk.toString("latin1");
			if (said.endsWith("\n")) resolve(Number.parseInt(said, 10));
		});
		// The leader itself was killed: by the kernel for want of memory, or by a person.
		control.once("close", () => resolve(137));
	});
	control.on("error", failed.reject);
	const onAbort = () => failed.reject(cancelled(call.signal));
	call.signal.addEventListener("abort", onAbort, { once: true });

	try {
		const exitCode = await Promise.race([ended, failed.promise]);
		// What the command left behind may still hold the pipe; it has no business there.
		kill();
		await within(drained, GONE_LIMIT_MS);
		splitter.end();
		if (call.signal.aborted) throw cancelled(call.signal);
		return { exitCode };
	} finally {
		call.signal.removeEventListener("abort", onAbort);
		kill();
		control.destroy();
		await exited;
		await groupGone(group);
		output.destroy();
	}
}

/** A process that left the group may hold the output open for ever. */
async function within(work: Promise<void>, limit: number): Promise<void> {
	const timer = new AbortController();
	const late = delay(limit, undefined, { signal: timer.signal }).catch(() => undefined);
	await Promise.race([work, late]);
	timer.abort();
}

/** Only while the leader is unreaped, or has just been: until then the number cannot be anybody else's. */
function killGroup(group: number): void {
	try {
		process.kill(-group, "SIGKILL");
	} catch (error) {
		if (systemCode(error) !== "ESRCH") throw error;
	}
}

async function groupGone(group: number): Promise<void> {
	const until = performance.now() + GONE_LIMIT_MS;
	for (let pause = 1; performance.now() < until; pause = Math.min(pause * 2, 50)) {
		if (!(await groupLives(group))) return;
		await delay(pause);
	}
}

/** Zombies do not count: without an init nobody reaps the orphans of a killed group. */
async function groupLives(group: number): Promise<boolean> {
	try {
		process.kill(-group, 0);
	} catch (error) {
		return systemCode(error) !== "ESRCH";
	}
	if (process.platform !== "linux") return true;
	let looked = 0;
	for (const pid of readdirSync("/proc")) {
		if (!/^\d+$/.test(pid)) continue;
		if (++looked % LOOKED_AT_ONCE === 0) await setImmediate();
		const [state, , pgrp] = statusOf(pid);
		if (pgrp === String(group) && state !== "Z" && state !== "X") return true;
	}
	return false;
}

/** The fields from the state on. Read synchronously: /proc waits for no disk, and the thread pool costs more than the read. */
function statusOf(pid: string): readonly string[] {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
		return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
	} catch (error) {
		// It ended meanwhile.
		if (["ENOENT", "ESRCH", "EACCES"].includes(systemCode(error) ?? "")) return [];
		throw error;
	}
}
