import { copyFile, mkdir, mkdtemp, open, readdir, rm, stat, writeFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { cancelled } from "../../../errors.ts";
import { BuildError, type Call } from "../../builder.ts";
import { DiskWatch } from "../disk-watch.ts";
import { DEFAULT_LIMITS, type Limits } from "../limits.ts";
import { authorityOf } from "../proxy.ts";
import { HIDDEN, TMP_BYTES } from "../root.ts";
import { Run } from "../run.ts";
import type { Confined, Ended, Sandbox } from "../sandbox.ts";
import { bare, isLoopback } from "../upstream.ts";
import type { ContainerEngine, ContainerPlan } from "./engine.ts";
import { Conversation, firstProcess } from "./first-process.ts";
import { findPlace, type Place, type User } from "./place.ts";

export type ContainerSandboxOptions = {
	readonly engine: ContainerEngine;
	/** Stands for the data folder: what an earlier server of it left is removed. */
	readonly owner: string;
	/** Where the sandbox keeps its own small files while a command runs. */
	readonly workFolder: string;
	readonly limits?: Partial<Limits>;
	/** The server's environment: how it reaches the network itself. */
	readonly env?: Readonly<Record<string, string | undefined>>;
};

const RELAY_PORT = 3128;
const RELAY = `relay-main${extname(import.meta.url)}`;
/** The folders inside that hold the relay, and the proxy's socket. */
const INSIDE = { relay: "/run/sandbox", proxy: "/run/proxy" };
/** What an engine sets where nobody does. */
const SET_BY_ENGINES = ["PATH", "HOME", "HOSTNAME", "TERM"];
/** Of /sys all but the control groups, by which toolchains know their limits. */
const HIDDEN_OF_SYS = [
	"block",
	"bus",
	"class",
	"dev",
	"devices",
	"firmware",
	"hypervisor",
	"kernel",
	"module",
	"power",
];
/** Hidden by the engines themselves, and by the list of ours where it says so. */
const HIDDEN_OF_PROC = ["acpi", "asound", "interrupts", "scsi", "timer_stats"];

/** Builds in containers, one for each command: for where Docker is the runtime and bubblewrap may not make namespaces. */
export class ContainerSandbox implements Sandbox {
	readonly name = "container";
	readonly limits: Limits;
	readonly #options: ContainerSandboxOptions;
	readonly #place: Place;
	readonly #folder: string;
	readonly #readOnly: readonly string[];
	readonly #user: User;

	private constructor(options: ContainerSandboxOptions, place: Place, user: User, own: Own) {
		this.limits = { ...DEFAULT_LIMITS, ...options.limits };
		this.#options = options;
		this.#place = place;
		this.#user = user;
		this.#folder = own.folder;
		this.#readOnly = own.readOnly;
	}

	/** Rejects where it does not work on this machine, with what was said: it is tried by running it. */
	static async open(options: ContainerSandboxOptions, call: Call): Promise<ContainerSandbox> {
		const { engine, owner, workFolder } = options;
		await engine.sweep(owner);
		const user = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
		const place = await findPlace(engine, user);
		await mkdir(workFolder, { recursive: true });
		const folder = await mkdtemp(join(workFolder, "container-"));
		try {
			const relay = join(folder, "relay");
			await mkdir(relay);
			await copyFile(fileURLToPath(new URL(`../${RELAY}`, import.meta.url)), join(relay, RELAY));
			await writeFile(join(relay, "package.json"), '{"type":"module"}\n');
			const sandbox = new ContainerSandbox(options, place, user, { folder, readOnly: await settings() });
			await sandbox.#probe(call);
			return sandbox;
		} catch (error) {
			await rm(folder, { recursive: true, force: true });
			throw error;
		}
	}

	/** Removes its own files. Nothing runs in it any more. */
	async close(): Promise<void> {
		await rm(this.#folder, { recursive: true, force: true });
	}

	/** Node stands for the programs that will run: it needs the system's libraries; and what is written must be there outside. */
	async #probe(call: Call): Promise<void> {
		const folder = await mkdtemp(join(this.#folder, "trial-"));
		const lines: string[] = [];
		const { exitCode, ended } = await this.run(
			{
				...{
					file: process.execPath,
					args: ["-p", PROBE, folder],
					cwd: "/",
					env: {},
					log: (line: string) => lines.push(line),
				},
				...{ reads: [process.execPath], writes: [folder], hosts: [] },
			},
			call,
		);
		if (exitCode !== 0 || lines[0] !== process.version)
			throw new Error(
				ended ?? lines.find((line) => /error/i.test(line)) ?? lines.at(-1) ?? `it ended with ${exitCode}`,
			);
		if (!(await readdir(folder)).includes("written"))
			throw new Error("the engine shows its containers other folders than the server's");
	}

	async run(command: Confined, call: Call): Promise<Ended> {
		if (call.signal.aborted) throw cancelled(call.signal);
		const { limits } = this;
		await using run = new Run();
		const folder = await mkdtemp(join(this.#folder, "r"));
		run.after(() => rm(folder, { recursive: true, force: true }));
		if (command.hosts.length > 0) {
			// By the folder's descriptor: a socket's path must be short, and the data folder's need not be.
			const handle = await open(folder);
			run.after(() => handle.close());
			await run.proxy(`/proc/self/fd/${handle.fd}/proxy`, command, limits, this.#options.env ?? process.env);
		}
		const disk = await DiskWatch.start(command.writes, limits);
		const container = await this.#options.engine.start(await this.#plan(command, folder)).catch((error: unknown) => {
			throw call.signal.aborted ? cancelled(call.signal) : error;
		});
		// Whatever else went wrong is what is told; a container that an engine keeps ends all the same, and is swept.
		run.after(() => container.remove().catch(() => undefined));
		const conversation = new Conversation(container, command.log, command.outputLimit);
		run.watch(disk, conversation, limits);
		const exitCode = await conversation.ended(AbortSignal.any([call.signal, run.signal]));
		try {
			await container.remove();
		} catch (error) {
			if (!call.signal.aborted) throw error;
		}
		if (call.signal.aborted) throw cancelled(call.signal);
		return await run.verdict(exitCode, limits, conversation);
	}

	async #plan(command: Confined, folder: string): Promise<ContainerPlan> {
		const { limits } = this;
		const env: Record<string, string | null> = Object.fromEntries(this.#place.variables.map((name) => [name, null]));
		for (const [name, value] of Object.entries(command.env))
			if (!/^(https?|all|no|ftp)_proxy$/i.test(name)) env[name] = value;
		const binds = new Map(this.#place.binds.map((bind) => [bind.target, bind]));
		const show = async (path: string, target: string, writable = false) => {
			const bind = await this.#place.bind(path, target, writable);
			if (bind !== undefined) binds.set(target, bind);
		};
		for (const path of command.reads) await show(path, path);
		for (const path of command.writes) await show(path, path, true);
		const words = [command.file, ...command.args];
		if (command.hosts.length > 0) {
			await show(process.execPath, process.execPath);
			await show(join(this.#folder, "relay"), INSIDE.relay);
			await show(folder, INSIDE.proxy);
			const straight = command.hosts.filter((host) => isLoopback(bare(host.hostname))).map(authorityOf);
			const plan = { socket: join(INSIDE.proxy, "proxy"), port: RELAY_PORT, straight };
			words.unshift(process.execPath, "--no-warnings", join(INSIDE.relay, RELAY), JSON.stringify(plan));
			const proxy = `http://127.0.0.1:${RELAY_PORT}`;
			for (const name of ["HTTP_PROXY", "HTTPS_PROXY"]) env[name] = env[name.toLowerCase()] = proxy;
		}
		if ([...words, ...Object.entries(env).flat()].some((text) => text?.includes("\0")))
			throw new BuildError("source_invalid", "a path or variable holds a NUL");
		return {
			image: this.#place.image,
			command: firstProcess(
				words,
				SET_BY_ENGINES.filter((name) => typeof env[name] !== "string"),
			),
			...{ env, cwd: command.cwd, user: this.#user },
			binds: [...binds.values()],
			covered: this.#place.covered,
			masked: [
				...[...HIDDEN, ...HIDDEN_OF_PROC].map((name) => `/proc/${name}`),
				...HIDDEN_OF_SYS.map((name) => `/sys/${name}`),
			],
			readOnly: this.#readOnly,
			...{ memory: limits.memory, temporary: TMP_BYTES, fileSize: limits.disk, processes: limits.processes },
			owner: this.#options.owner,
		};
	}
}

type Own = { readonly folder: string; readonly readOnly: readonly string[] };

const PROBE = `require("node:fs").writeFileSync(process.argv[1] + "/written", ""); process.version`;

/**
 * What of /proc root may write to, and folders: a server that is root builds as root, without capabilities, and settings of
 * the kernel look at the number alone. The engine's own list is part of it.
 */
async function settings(): Promise<string[]> {
	const found = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
	for (const entry of await readdir("/proc", { withFileTypes: true })) {
		if (/^\d+$/.test(entry.name) || HIDDEN.includes(entry.name) || entry.isSymbolicLink()) continue;
		const { mode } = await stat(`/proc/${entry.name}`);
		if (entry.isDirectory() || (mode & 0o222) !== 0) found.push(`/proc/${entry.name}`);
	}
	return [...new Set(found), "/dev"];
}
