import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { systemCode } from "../errors.ts";
import type { Listener, Platform, ProcessSeen } from "./platform.ts";

const LISTEN = "0A";
/** So many processes are looked at before others get a turn. */
const BATCH = 64;

/** /proc. Read synchronously: it never waits for a disk, and a hop through the thread pool costs more than the read. */
export class LinuxPlatform implements Platform {
	async bootId(): Promise<string> {
		return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
	}

	async startTime(pid: number): Promise<string | null> {
		return readStat(pid)?.startTime ?? null;
	}

	async processes(variable: string): Promise<ProcessSeen[]> {
		const seen: ProcessSeen[] = [];
		let looked = 0;
		for (const name of readdirSync("/proc")) {
			const pid = Number(name);
			if (!Number.isInteger(pid)) continue;
			if (++looked % BATCH === 0) await setImmediate();
			const stat = readStat(pid);
			if (stat !== null) seen.push({ pid, ...stat, mark: readVariable(pid, variable) });
		}
		return seen;
	}

	async children(pid: number): Promise<number[]> {
		// Not every kernel has it.
		const children = attempt(() => readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1"));
		return (children ?? "").split(" ").filter(Boolean).map(Number);
	}

	async listeners(port?: number, pid?: number): Promise<Listener[]> {
		const net = pid === undefined ? "/proc/net" : `/proc/${pid}/net`;
		return [...readListeners(`${net}/tcp`, port), ...readListeners(`${net}/tcp6`, port)];
	}

	async owned(listeners: readonly Listener[], pids: readonly number[]): Promise<Listener[]> {
		const held = new Set<string>();
		for (const pid of pids) {
			for (const fd of attempt(() => readdirSync(`/proc/${pid}/fd`)) ?? []) {
				const target = attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`));
				if (target?.startsWith("socket:[")) held.add(target.slice(8, -1));
			}
		}
		return listeners.filter(({ socket }) => held.has(socket));
	}

	async firstEphemeralPort(): Promise<number> {
		const range = attempt(() => readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"));
		return Number(range?.split(/\s+/)[0] ?? 32_768);
	}
}

/** A process may end between two reads, and another user's may be closed to us: both are "not there". */
function attempt<T>(read: () => T): T | null {
	try {
		return read();
	} catch (error) {
		if (["ENOENT", "ESRCH", "EACCES", "EPERM", "ENOTDIR"].includes(systemCode(error) ?? "")) return null;
		throw error;
	}
}

function readStat(pid: number): { startTime: string; session: number } | null {
	const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, "latin1"));
	if (stat === null) return null;
	// The name, in parentheses, may hold anything: what follows the last one is counted.
	const [state, , , session, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
	const startTime = rest[15];
	if (startTime === undefined || state === "Z" || state === "X") return null;
	return { startTime, session: Number(session) };
}

function readVariable(pid: number, variable: string): string | null {
	const environ = attempt(() => readFileSync(`/proc/${pid}/environ`, "utf8"));
	const entry = environ?.split("\0").find((candidate) => candidate.startsWith(`${variable}=`));
	return entry?.slice(variable.length + 1) ?? null;
}

/** The kernel lists what listens first, so a busy machine's thousands of connections need not be read. */
function readListeners(file: string, port: number | undefined): Listener[] {
	const found: Listener[] = [];
	const fd = attempt(() => openSync(file, "r"));
	if (fd === null) return found;
	try {
		const buffer = Buffer.allocUnsafe(16 * 1024);
		let left = "";
		let others = 0;
		for (;;) {
			const length = readSync(fd, buffer, 0, buffer.length, null);
			const lines = (left + buffer.toString("latin1", 0, length)).split("\n");
			left = length === 0 ? "" : (lines.pop() ?? "");
			for (const line of lines) {
				const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
				if (state !== LISTEN) others++;
				if (state !== LISTEN || local === undefined || inode === undefined) continue;
				const [address = "", hexPort = ""] = local.split(":");
				const listener = { host: readAddress(address), port: Number.parseInt(hexPort, 16), socket: inode };
				if (port === undefined || listener.port === port) found.push(listener);
			}
			if (length === 0 || others > BATCH) return found;
		}
	} finally {
		closeSync(fd);
	}
}

/** Words of four bytes in the machine's order (little-endian on all that node runs on). */
function readAddress(hex: string): string {
	const bytes: number[] = [];
	for (let word = 0; word < hex.length; word += 8)
		for (let byte = 6; byte >= 0; byte -= 2) bytes.push(Number.parseInt(hex.slice(word + byte, word + byte + 2), 16));
	if (bytes.length === 4) return bytes.join(".");
	if (bytes.every((byte) => byte === 0)) return "::";
	if (bytes.slice(0, 15).every((byte) => byte === 0) && bytes[15] === 1) return "::1";
	if (bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255) return bytes.slice(12).join(".");
	const groups = Array.from({ length: 8 }, (_, i) =>
		(((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16),
	);
	return groups.join(":");
}
