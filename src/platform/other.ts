import { execFile } from "node:child_process";
import { systemCode } from "../errors.ts";
import type { Listener, Platform, ProcessSeen } from "./platform.ts";

/** macOS and other BSD relatives, by `ps`, `sysctl` and `lsof`. Slower than /proc, for laptops. */
export class OtherPlatform implements Platform {
	async bootId(): Promise<string> {
		const boot = await run("sysctl", ["-n", "kern.bootsessionuuid"]);
		return boot.trim() === "" ? (await run("sysctl", ["-n", "kern.boottime"])).trim() : boot.trim();
	}

	async startTime(pid: number): Promise<string | null> {
		return read(await run("ps", ["-o", FIELDS, "-p", String(pid)]))[0]?.startTime ?? null;
	}

	async processes(variable: string): Promise<ProcessSeen[]> {
		const processes = read(await run("ps", ["-ax", "-o", FIELDS]));
		// `ps -E` shows the environment behind the command: the value ends at the first space, which a mark never holds.
		const marks = new Map<number, string>();
		const mark = new RegExp(`^\\s*(\\d+) .*\\s${variable}=(\\S+)`);
		for (const line of (await run("ps", ["-axwwE", "-o", "pid=,command="])).split("\n")) {
			const match = mark.exec(line);
			if (match?.[1] !== undefined && match[2] !== undefined) marks.set(Number(match[1]), match[2]);
		}
		return processes.map((process) => ({ ...process, mark: marks.get(process.pid) ?? null }));
	}

	async children(): Promise<number[]> {
		return [];
	}

	async listeners(port?: number, pid?: number): Promise<Listener[]> {
		// No network but the machine's own can be looked into.
		if (pid !== undefined) return [];
		const found: Listener[] = [];
		let holder = "";
		for (const line of (
			await run("lsof", ["-nP", port === undefined ? "-iTCP" : `-iTCP:${port}`, "-sTCP:LISTEN", "-Fpn"])
		).split("\n")) {
			if (line.startsWith("p")) holder = line.slice(1);
			const match = /^n(.*):(\d+)$/.exec(line);
			if (match?.[1] === undefined) continue;
			const host = match[1] === "*" ? "0.0.0.0" : match[1].replace(/^\[|\]$/g, "");
			found.push({ host, port: Number(match[2]), socket: holder });
		}
		return found;
	}

	async owned(listeners: readonly Listener[], pids: readonly number[]): Promise<Listener[]> {
		return listeners.filter(({ socket }) => pids.includes(Number(socket)));
	}

	async firstEphemeralPort(): Promise<number> {
		const first = Number((await run("sysctl", ["-n", "net.inet.ip.portrange.first"])).trim());
		return first > 0 ? first : 49_152;
	}
}

/** The process group stands for the session: a program that leaves one mostly leaves the other. */
const FIELDS = "pid=,pgid=,stat=,lstart=";

function read(table: string): Omit<ProcessSeen, "mark">[] {
	return table.split("\n").flatMap((line) => {
		const match = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.+?)\s*$/.exec(line);
		if (match?.[4] === undefined || match[3]?.startsWith("Z")) return [];
		return [{ pid: Number(match[1]), session: Number(match[2]), startTime: match[4] }];
	});
}

/** Standard output; empty where the tool says "nothing found" by its exit code, as `ps` and `lsof` do. */
function run(command: string, args: readonly string[]): Promise<string> {
	return new Promise((resolve, reject) => {
		execFile(
			command,
			args,
			{ maxBuffer: 64 * 1024 * 1024, env: { PATH: process.env.PATH, LC_ALL: "C" } },
			(error, out) => {
				if (error !== null && systemCode(error) === "ENOENT") reject(error);
				else resolve(out);
			},
		);
	});
}
