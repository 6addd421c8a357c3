import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { cancelled, systemCode } from "../../errors.ts";
import { BuildError, type Call } from "../builder.ts";
import { runCommand } from "../command.ts";
import { Leftovers } from "../leftovers.ts";
import { Cgroups } from "./cgroups.ts";
import { DiskWatch } from "./disk-watch.ts";
import { DEFAULT_LIMITS, type Limits, ulimits } from "./limits.ts";
import { authorityOf } from "./proxy.ts";
import { emptyRoot, mountsOf } from "./root.ts";
import { Run } from "./run.ts";
import type { Confined, Ended, Sandbox } from "./sandbox.ts";
import { systemCallFilter } from "./system-calls.ts";
import { bare, isLoopback } from "./upstream.ts";

export type BubblewrapOptions = {
	/** Absolute path of `bwrap`. */
	readonly file: string;
	/** Where the sandbox keeps its own small files while a command runs. */
	readonly workFolder: string;
	readonly limits?: Partial<Limits>;
	/** The server's environment: how it reaches the network itself. */
	readonly env?: Readonly<Record<string, string | undefined>>;
	/** False: do without control groups, as where none can be made. */
	readonly groups?: boolean;
	/** False: do without a filter of system calls, as where the processor's are not known. */
	readonly filter?: boolean;
};

type Parts = {
	readonly cgroups: Cgroups | undefined;
	readonly filter: Buffer | undefined;
	readonly root: readonly string[];
	readonly folder: string;
	readonly withheld: readonly number[];
};

/** How long the processes of a killed sandbox may take to be gone; one can hang in the kernel. */
const GONE_LIMIT_MS = 10_000;
/** A unix socket's path may have 107 bytes; 29 of them are added to this folder's. */
const MAX_SOCKET_FOLDER = 78;
const FILTERS_ARE_KNOWN = "/proc/sys/kernel/seccomp/actions_avail";
const RELAY_PORT = 3128;
/** The folder inside that holds the proxy's socket and the relay. */
const INSIDE = "/run/sandbox";
/** O_CLOEXEC. */
const CLOSED_IN_CHILDREN = 0o2000000;
const RELAY = `relay-main${extname(import.meta.url)}`;

/**
 * Joins the control groups, then becomes bubblewrap. Its arguments come from a file: those of a process can be read by
 * everybody, and an environment may hold credentials. `$1` is the run's folder.
 */
const ENTER = `
folder=$1; shift
while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done
shift
exec 8<"$folder/args" 9>"$folder/info"
[ ! -f "$folder/../filter" ] || exec 7<"$folder/../filter"
exec "$@"
`;

export class Bubblewrap implements Sandbox {
	readonly name = "bubblewrap";
	readonly limits: Limits;
	/** Whether memory and processes are limited by control groups; else by weaker means. */
	readonly grouped: boolean;
	/** Whether system calls that no build needs are refused; else the kernel is all that stands before them. */
	readonly filtered: boolean;
	readonly #options: BubblewrapOptions;
	readonly #cgroups: Cgroups | undefined;
	readonly #root: readonly string[];
	readonly #folder: string;
	readonly #withheld: readonly number[];

	private constructor(options: BubblewrapOptions, parts: Parts) {
		this.limits = { ...DEFAULT_LIMITS, ...options.limits };
		this.grouped = parts.cgroups !== undefined;
		this.filtered = parts.filter !== undefined;
		this.#options = options;
		this.#cgroups = parts.cgroups;
		this.#root = parts.filter === undefined ? parts.root : [...parts.root, "--seccomp", "7"];
		this.#folder = parts.folder;
		this.#withheld = parts.withheld;
	}

	/** Rejects where it does not work on this machine, with what was said: it is tried by running it. */
	static async open(options: BubblewrapOptions, call: Call): Promise<Bubblewrap> {
		const folder = await ownFolder(options.workFolder);
		try {
			// Without a folder of kernel settings for it a kernel has no filters; one that has them must take this one.
			const filter =
				options.filter === false || !existsSync(FILTERS_ARE_KNOWN) ? undefined : systemCallFilter(process.arch);
			if (filter !== undefined) await writeFile(join(folder, "filter"), filter);
			const cgroups = options.groups === false ? undefined : await Cgroups.open();
			const parts = { cgroups, filter, folder, root: await emptyRoot(folder), withheld: await inherited() };
			const sandbox = new Bubblewrap(options, parts);
			await sandbox.#probe(call);
			return sandbox;
		} catch (error) {
			await rm(folder, { recursive: true, force: true });
			throw error;
		}
	}

	/** What is weaker on this machine than it could be, for whoever runs the server. */
	get note(): string | undefined {
		const weaker: string[] = [];
		if (!this.grouped)
			weaker.push(
				`no control groups can be made here: memory is limited for each process of a build alone, and ${
					process.getuid?.() === 0
						? "how many processes it has is not limited, as the server runs as root"
						: "the number of its processes by what the kernel counts for its user"
				}`,
			);
		if (!this.filtered)
			weaker.push("system calls are not filtered, as the kernel cannot, or this processor's calls are not known");
		return weaker.length === 0 ? undefined : `the sandbox of builds is weaker than it could be: ${weaker.join("; ")}`;
	}

	/** Removes its own files. Nothing runs in it any more. */
	async close(): Promise<void> {
		await rm(this.#folder, { recursive: true, force: true });
	}

	/** Node stands for the programs that will run: it needs the system's libraries. */
	async #probe(call: Call): Promise<void> {
		const lines: string[] = [];
		const { exitCode, ended } = await this.run(
			{
				file: process.execPath,
				args: ["--version"],
				cwd: "/",
				env: {},
				log: (line) => lines.push(line),
				...{ reads: [process.execPath], writes: [], hosts: [] },
			},
			call,
		);
		if (exitCode !== 0 || lines[0] !== process.version)
			throw new Error(ended ?? lines.at(-1) ?? `it ended with ${exitCode}`);
	}

	async run(command: Confined, call: Call): Promise<Ended> {
		if (call.signal.aborted) throw cancelled(call.signal);
		const { limits } = this;
		await using run = new Run();
		const folder = await mkdtemp(join(this.#folder, "r"));
		run.after(() => rm(folder, { recursive: true, force: true }));
		const group = await this.#cgroups?.create(limits);
		if (group !== undefined) run.after(() => group.remove());
		run.after(() => gone(join(folder, "info")));
		const socket = join(folder, "proxy");
		if (command.hosts.length > 0) await run.proxy(socket, command, limits, this.#options.env ?? process.env);
		await writeFile(join(folder, "args"), await this.#arguments(command, socket), { mode: 0o600 });
		run.watch(await DiskWatch.start(command.writes, limits), group, limits);

		const entrances = group?.entrances ?? [];
		const inner = [...limited(limits, this.grouped), ...relayed(command), command.file, ...command.args];
		let exitCode = 137;
		try {
			({ exitCode } = await runCommand(
				{
					file: "/bin/sh",
					args: ["-c", ENTER, "sh", folder, ...entrances, "--", this.#options.file, "--args", "8", "--", ...inner],
					cwd: "/",
					// What is set here holds for bubblewrap itself, outside.
					env: {},
					log: command.log,
					withheld: this.#withheld,
					...(command.outputLimit === undefined ? {} : { outputLimit: command.outputLimit }),
				},
				{ signal: AbortSignal.any([call.signal, run.signal]) },
			));
		} catch (error) {
			if (call.signal.aborted || !run.signal.aborted) throw error;
		}
		// Awaited here: what is rejected while the clean-up runs would be nobody's, which ends the server.
		return await run.verdict(exitCode, limits, group);
	}

	async #arguments(command: Confined, socket: string): Promise<string> {
		const args = [...this.#root];
		args.push(...mountsOf(command));
		const env: Record<string, string> = { ...command.env };
		for (const name of Object.keys(env)) if (/^(https?|all|no|ftp)_proxy$/i.test(name)) delete env[name];
		if (command.hosts.length > 0) {
			const relay = fileURLToPath(new URL(`./${RELAY}`, import.meta.url));
			args.push("--ro-bind", process.execPath, process.execPath);
			args.push("--ro-bind", relay, join(INSIDE, RELAY), "--bind", socket, join(INSIDE, "proxy"));
			args.push("--ro-bind", join(this.#folder, "package.json"), join(INSIDE, "package.json"));
			const proxy = `http://127.0.0.1:${RELAY_PORT}`;
			for (const name of ["HTTP_PROXY", "HTTPS_PROXY"]) env[name] = env[name.toLowerCase()] = proxy;
		}
		for (const [name, value] of Object.entries(env)) args.push("--setenv", name, value);
		args.push("--remount-ro", "/", "--chdir", command.cwd);
		if (args.some((argument) => argument.includes("\0")))
			throw new BuildError("source_invalid", "a path or variable holds a NUL");
		return args.map((argument) => `${argument}\0`).join("");
	}
}

/** In the server's own work folder, which a start empties; where sockets there would have too long a path, in the system's. */
async function ownFolder(workFolder: string): Promise<string> {
	await mkdir(workFolder, { recursive: true });
	const near = await realpath(workFolder);
	if (Buffer.byteLength(near) <= MAX_SOCKET_FOLDER) return mkdtemp(join(near, "sandbox-"));
	const leftovers = await Leftovers.of(dirname(near));
	await leftovers.sweep(tmpdir(), "sandbox");
	return leftovers.make(tmpdir(), "sandbox");
}

/** Descriptors that the server was started with and would pass on; all that Node opens itself are closed in a child. */
async function inherited(): Promise<number[]> {
	const found: number[] = [];
	for (const name of await readdir("/proc/self/fdinfo")) {
		const info = await readFile(`/proc/self/fdinfo/${name}`, "latin1").catch(() => "");
		const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(info)?.[1] ?? "", 8);
		if (Number(name) > 3 && (flags & CLOSED_IN_CHILDREN) === 0) found.push(Number(name));
	}
	return found;
}

/** Runs the rest with limits of its own. */
function limited(limits: Limits, grouped: boolean): string[] {
	return ["/bin/sh", "-c", `${ulimits(limits, grouped)}\nexec "$@"`, "sh"];
}

function relayed(command: Confined): string[] {
	if (command.hosts.length === 0) return [];
	const straight = command.hosts.filter((host) => isLoopback(bare(host.hostname))).map(authorityOf);
	const plan = { socket: join(INSIDE, "proxy"), port: RELAY_PORT, straight };
	return [process.execPath, "--no-warnings", join(INSIDE, RELAY), JSON.stringify(plan)];
}

/**
 * Waits until the first process of the sandbox's pid namespace is dead, which it is when all others are. Its number is no
 * proof of who it is; that it is the first of a namespace is near enough, since nothing is done to it.
 */
async function gone(info: string): Promise<void> {
	const said = await readFile(info, "utf8").catch((error: unknown) => {
		if (systemCode(error) === "ENOENT") return "";
		throw error;
	});
	const pid = /"child-pid": *(\d+)/.exec(said)?.[1];
	if (pid === undefined) return;
	const until = performance.now() + GONE_LIMIT_MS;
	for (let pause = 1; performance.now() < until; pause = Math.min(pause * 2, 50)) {
		const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
		if (!/^NSpid:.*\t1$/m.test(status) || /^State:\t[ZX]/m.test(status)) return;
		await delay(pause);
	}
}
