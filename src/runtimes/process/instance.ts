import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError, systemCode } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import type { ProcessSeen } from "../../platform/platform.ts";
import type { EngineHost, Exit, Folders, InstancePlan, Running, StartPlan } from "../companion/engine.ts";
import { expand, toldByEnvironment } from "../companion/invocation.ts";
import type { InstanceRecord, SpecRecord } from "../companion/state-file.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import { digestOf } from "./digest.ts";
import { listenersOf, listeningHost } from "./listeners.ts";

/** In the environment of everything that we start: `<folder's id>.<instance>`. */
export const MARK = "RUNTIME_INSTANCE";

/**
 * Outlives the program by one line, so that its exit code is known to whoever comes later. Nothing but built-ins. What the
 * shell itself would say ("Terminated") is no output of the program.
 */
const SHIM = `trap : TERM INT HUP; exec 3>&2 2>/dev/null; (exec "$@" 2>&3 3>&-); code=$?; echo $code >"$0"; exit $code`;
const POLL_MS = { first: 2, most: 50, adopted: 100 };

/** What programs are told to listen on. */
export const PROGRAM_HOST = "127.0.0.1";

export type InstanceHost = Pick<EngineHost, "platform" | "clock" | "settings" | "bootId" | "folderId">;

/** One running program and all that it has started. */
export class Instance implements Running {
	readonly host = PROGRAM_HOST;
	readonly pid: number;
	readonly startTime: string;
	/** Resolves with the exit code when the program has ended; null where nobody could tell. */
	readonly exited: Promise<Exit>;
	readonly #plan: InstancePlan;
	readonly #host: InstanceHost;
	readonly #mark: string;
	readonly #known = new Map<number, string>();

	private constructor(
		host: InstanceHost,
		plan: InstancePlan,
		pid: number,
		startTime: string,
		exitCode: Promise<number | null>,
	) {
		this.#host = host;
		this.#plan = plan;
		this.#mark = markOf(host, plan.record.instance);
		this.pid = pid;
		this.startTime = startTime;
		this.exited = exitCode.then((code) => ({ exitCode: code }));
	}

	/** Starts it. Rejects with `internal` where the file is not the build, or the system refuses. */
	static async spawn(host: InstanceHost, plan: Omit<StartPlan, "proven">): Promise<Instance> {
		const { spec, record, folders } = plan;
		for (const folder of [folders.home, folders.temporary, folders.instance])
			await mkdir(folder, { recursive: true, mode: 0o700 });
		const exitFile = join(folders.instance, "exit.code");
		if ((await plan.verified) !== (await stateOf(spec, folders.programs))) await verify(spec, folders.programs);
		const command = commandOf(spec, folders.programs);
		const expanded = [...command, ...spec.args].map((arg) => expand(arg, record, PROGRAM_HOST));
		const output = (["stdout", "stderr"] as const).map((name) => openSync(join(folders.instance, name), "a", 0o600));
		try {
			const child = spawn("/bin/sh", ["-c", SHIM, exitFile, ...expanded], {
				cwd: spec.program.kind === "directory" ? spec.program.path : folders.home,
				env: environment(host, record, spec, folders),
				detached: true,
				stdio: ["ignore", ...output],
			});
			const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
			await new Promise<void>((resolve, reject) => child.once("spawn", resolve).once("error", reject));
			failpoint("companion.after_spawn");
			const pid = child.pid ?? 0;
			// Not reaped before "exit" is handled: the pid is ours for as long as this takes.
			const startTime = (await host.platform.startTime(pid)) ?? "gone";
			return new Instance(
				host,
				plan,
				pid,
				startTime,
				// On a full disk the shim's own code is all there is.
				ended.then(async (code) => (await readExitCode(exitFile)) ?? code),
			);
		} catch (error) {
			throw impossible("the program could not be started", error);
		} finally {
			for (const fd of output) closeSync(fd);
		}
	}

	/**
	 * Finds what an earlier companion started. `gone` where it has ended since, with its exit code; null where it was never
	 * started.
	 */
	static async adopt(
		host: InstanceHost,
		plan: InstancePlan,
		processes: readonly ProcessSeen[],
	): Promise<Instance | { readonly gone: Exit } | null> {
		const { record, folders } = plan;
		const mark = markOf(host, record.instance);
		const exitFile = join(folders.instance, "exit.code");
		const shim = processes.find(
			(seen) =>
				record.bootId === host.bootId &&
				seen.mark === mark &&
				(record.pid === null
					? seen.session === seen.pid
					: seen.pid === record.pid && seen.startTime === record.startTime),
		);
		if (shim === undefined) {
			const exitCode = await readExitCode(exitFile);
			return record.pid === null && exitCode === null ? null : { gone: { exitCode } };
		}
		const watch = async () => {
			while ((await host.platform.startTime(shim.pid)) === shim.startTime) await host.clock.sleep(POLL_MS.adopted);
			return readExitCode(exitFile);
		};
		return new Instance(host, plan, shim.pid, shim.startTime, watch());
	}

	/** The processes of this instance that live: its session, and whatever carries its mark. */
	async members(): Promise<ProcessSeen[]> {
		const all = await this.#host.platform.processes(MARK);
		const leads = all.some((seen) => seen.pid === this.pid && seen.startTime === this.startTime);
		const members = all.filter(
			(seen) =>
				seen.mark === this.#mark ||
				(leads && seen.session === this.pid) ||
				this.#known.get(seen.pid) === seen.startTime,
		);
		for (const { pid, startTime } of members) this.#known.set(pid, startTime);
		return members;
	}

	async pids(): Promise<number[]> {
		return (await this.members()).map(({ pid }) => pid);
	}

	listeningAt(): Promise<string | null> {
		const { platform } = this.#host;
		const { port } = this.#plan.record;
		return listeningHost(
			platform,
			port,
			() => this.#program(),
			() => this.pids(),
		);
	}

	/** The shim's child, while there is a shim. */
	async #program(): Promise<number[]> {
		const { platform } = this.#host;
		return (await platform.startTime(this.pid)) === this.startTime ? platform.children(this.pid) : [];
	}

	async elsewhere() {
		return listenersOf(this.#host.platform, await this.pids());
	}

	follow(log: ServiceLog): readonly Follower[] {
		return rawOutput(log, this.#plan);
	}

	/** SIGTERM to all, after the grace SIGKILL; resolves when none is left. */
	async stop(graceMs: number): Promise<void> {
		await endAll(this.#host, () => this.members(), graceMs);
	}
}

/** What its program writes goes to files of its own, and from there to the service's log. */
export function rawOutput(log: ServiceLog, { spec, record, folders }: InstancePlan): readonly Follower[] {
	const { revision } = spec;
	const { instance } = record;
	return (["stdout", "stderr"] as const).map((stream) =>
		log.follow({ file: join(folders.instance, stream), revision, instance, stream }),
	);
}

export function markOf(host: Pick<InstanceHost, "folderId">, instance: string): string {
	return `${host.folderId}.${instance}`;
}

/** Ends what carries this instance's mark, where there is no shim to go by. */
export async function endMarked(host: InstanceHost, instance: string, graceMs: number): Promise<void> {
	const mark = markOf(host, instance);
	const marked = async () => (await host.platform.processes(MARK)).filter((seen) => seen.mark === mark);
	await endAll(host, marked, graceMs);
}

/** Ends these processes, each asked again for its identity before it is signalled. */
export async function endAll(
	host: Pick<InstanceHost, "platform" | "clock">,
	members: () => Promise<ProcessSeen[]>,
	graceMs: number,
): Promise<void> {
	const deadline = host.clock.now() + graceMs;
	const told = new Map<string, NodeJS.Signals>();
	for (let delay = POLL_MS.first; ; delay = Math.min(POLL_MS.most, delay * 1.5)) {
		const left = await members();
		if (left.length === 0) return;
		const signal = host.clock.now() >= deadline ? "SIGKILL" : "SIGTERM";
		for (const { pid, startTime } of left) {
			const identity = `${pid} ${startTime}`;
			if (told.get(identity) === signal || (await host.platform.startTime(pid)) !== startTime) continue;
			told.set(identity, signal);
			try {
				process.kill(pid, signal);
			} catch (error) {
				if (systemCode(error) !== "ESRCH") throw error;
			}
		}
		const toDeadline = deadline - host.clock.now();
		await host.clock.sleep(toDeadline > 0 ? Math.min(delay, toDeadline) : delay);
	}
}

/** The file is read anew for each start: what was altered on the disk is never executed. → its state before it was read. */
export async function verify(spec: SpecRecord, programs: string): Promise<string> {
	const { program } = spec;
	const state = await stateOf(spec, programs);
	if (program.kind === "directory") return state;
	const sha256 = await digestOf(join(programs, program.sha256)).catch((error: unknown) => {
		throw impossible("the program's file cannot be read", error);
	});
	if (sha256 !== program.sha256)
		throw new AppError("internal", "the program's file was altered on the disk; it was not executed");
	return state;
}

/** Differs for a file that was replaced or written to: nobody can set the time of its last change. */
async function stateOf({ program }: SpecRecord, programs: string): Promise<string> {
	if (program.kind === "directory") return "";
	try {
		const { dev, ino, size, ctimeNs } = await stat(join(programs, program.sha256), { bigint: true });
		return `${dev} ${ino} ${size} ${ctimeNs}`;
	} catch (error) {
		throw impossible("the program's file cannot be read", error);
	}
}

function commandOf({ program }: SpecRecord, programs: string): readonly string[] {
	return program.kind === "directory" ? program.command : [join(programs, program.sha256)];
}

function environment(
	host: InstanceHost,
	record: InstanceRecord,
	spec: SpecRecord,
	folders: Folders,
): NodeJS.ProcessEnv {
	const { path, lang } = host.settings();
	return {
		PATH: path,
		LANG: lang,
		HOME: folders.home,
		TMPDIR: folders.temporary,
		...toldByEnvironment(spec, record, PROGRAM_HOST),
		[MARK]: markOf(host, record.instance),
	};
}

/** For the service's owner: what the system says names folders of the server's, so that no more than its code is told. */
function impossible(what: string, cause: unknown): AppError {
	const code = systemCode(cause);
	return new AppError("internal", `${what}${code === undefined ? "" : ` (${code})`}; the server's log says more`, {
		cause,
	});
}

/** Null where there is none, or the shim was killed before its line was whole. */
async function readExitCode(file: string): Promise<number | null> {
	try {
		const text = await readFile(file, "utf8");
		return /^\d+\n$/.test(text) ? Number(text) : null;
	} catch (error) {
		if (systemCode(error) === "ENOENT") return null;
		throw error;
	}
}
