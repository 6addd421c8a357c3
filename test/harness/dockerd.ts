import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import Docker from "dockerode";
import { lockEngines } from "./engine-lock.ts";

const run = promisify(execFile);
const READY_MS = 90_000;
const STOP_MS = 60_000;
const STARTS = 4;

/** A Docker engine of the test's own, with its own bridge, folders and socket. */
export class Dockerd {
	readonly socket: string;
	/** Of its bridge: where containers reach the host. */
	readonly address: string;
	/** As a client of the test's own. */
	readonly docker: Docker;
	readonly #folder: string;
	readonly #bridge: string;
	readonly #subnet: number;
	/** Where it was started alone. */
	readonly #letGo: (() => Promise<void>) | null;
	#child: ChildProcess | null = null;

	private constructor(folder: string, bridge: string, subnet: number, letGo: (() => Promise<void>) | null) {
		this.#letGo = letGo;
		this.#folder = folder;
		this.#bridge = bridge;
		this.#subnet = subnet;
		this.socket = join(folder, "docker.sock");
		this.address = `10.${subnet}.255.1`;
		this.docker = new Docker({ socketPath: this.socket, timeout: 30_000 });
	}

	/** For a test's `skip`: why there cannot be one, or false. */
	static async missing(): Promise<string | false> {
		if (process.getuid?.() !== 0) return "a Docker engine is started by root alone";
		for (const [command, arg] of [
			["dockerd", "--version"],
			["iptables", "--version"],
			["ip", "-V"],
		] as const) {
			const found = await run(command, [arg]).then(
				() => true,
				() => false,
			);
			if (!found) return `there is no ${command}`;
		}
		return false;
	}

	/** Resolves when it answers. `alone`: no other engine starts until it is stopped (see engine-lock.ts). */
	static async start({ alone = false } = {}): Promise<Dockerd> {
		const letGo = alone ? await lockEngines() : null;
		const folder = await mkdtemp(join(tmpdir(), "dockerd-"));
		const { bridge, subnet } = await makeBridge();
		const dockerd = new Dockerd(folder, bridge, subnet, letGo);
		try {
			await dockerd.up();
		} catch (error) {
			const log = await readFile(join(folder, "log"), "utf8").catch(() => "");
			await dockerd.stop();
			throw new Error(`dockerd did not start:\n${log.slice(-2_000)}`, { cause: error });
		}
		return dockerd;
	}

	/** Starts it (again), with the same folders. Engines that start at the same time can be in each other's way in iptables. */
	async up(): Promise<void> {
		for (let attempt = 1; ; attempt++) {
			try {
				return await this.#start();
			} catch (error) {
				await this.down("SIGKILL");
				if (attempt >= STARTS) throw error;
				await sleep(500 * attempt);
			}
		}
	}

	async #start(): Promise<void> {
		const letGo = this.#letGo === null ? await lockEngines() : null;
		try {
			await this.#spawn();
		} finally {
			await letGo?.();
		}
	}

	async #spawn(): Promise<void> {
		const at = (name: string) => join(this.#folder, name);
		const log = openSync(at("log"), "a");
		const child = spawn(
			"dockerd",
			[
				...["-H", `unix://${this.socket}`, "--data-root", at("data"), "--exec-root", at("exec")],
				...["--pidfile", at("pid"), "--bridge", this.#bridge, "--iptables=true"],
				...["--default-address-pool", `base=10.${this.#subnet}.0.0/17,size=24`],
				...["--shutdown-timeout", "5"],
			],
			{ stdio: ["ignore", log, log] },
		);
		closeSync(log);
		this.#child = child;
		const ended = once(child, "exit").then(() => {
			throw new Error("dockerd ended");
		});
		ended.catch(() => undefined);
		await Promise.race([ended, this.#answers()]);
	}

	/** Ends it: what it runs ends with it (`SIGTERM`), or when it is started again (`SIGKILL`). */
	async down(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
		const child = this.#child;
		this.#child = null;
		if (child === null || child.exitCode !== null || child.signalCode !== null) return;
		const gone = once(child, "exit");
		child.kill(signal);
		const limit = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
		await gone;
		clearTimeout(limit);
		// Its containerd dies with it; where nobody reaps that, the next dockerd takes it for alive.
		await rm(join(this.#folder, "exec/containerd/containerd.pid"), { force: true });
	}

	async restart(): Promise<void> {
		await this.down();
		await this.up();
	}

	/** Leaves nothing of it where it can. */
	async stop(): Promise<void> {
		if (this.#child === null) await this.up().catch(() => undefined);
		const left = await this.docker.listContainers({ all: true }).catch(() => []);
		for (const { Id } of left)
			await this.docker
				.getContainer(Id)
				.remove({ force: true, v: true })
				.catch(() => undefined);
		const networks = await this.docker.listNetworks({ filters: { type: ["custom"] } }).catch(() => []);
		for (const { Id } of networks)
			await this.docker
				.getNetwork(Id)
				.remove()
				.catch(() => undefined);
		await this.down();
		await run("ip", ["link", "delete", this.#bridge]).catch(() => undefined);
		// The host's network, where a container had it, stays mounted.
		const mounts = (await readFile("/proc/self/mounts", "utf8")).split("\n").map((line) => line.split(" ")[1] ?? "");
		for (const mount of mounts.filter((place) => place.startsWith(`${this.#folder}/`)).reverse())
			await run("umount", ["--lazy", mount]).catch(() => undefined);
		await rm(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
		await this.#letGo?.();
	}

	async #answers(): Promise<void> {
		const deadline = Date.now() + READY_MS;
		for (;;) {
			try {
				await this.docker.ping();
				return;
			} catch (error) {
				if (Date.now() > deadline) throw error;
				await sleep(50);
			}
		}
	}
}

/** On a private range that nobody here has. The one that makes the bridge has it: nobody else can make one of that name. */
async function makeBridge(): Promise<{ bridge: string; subnet: number }> {
	const first = 60 + (process.pid % 130);
	for (let tried = 0; tried < 130; tried++) {
		const subnet = 60 + ((first - 60 + tried) % 130);
		const addresses = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
		if (addresses.some(({ address }) => address.startsWith(`10.${subnet}.`))) continue;
		const bridge = `rbtest${subnet}`;
		try {
			await run("ip", ["link", "add", bridge, "type", "bridge"]);
		} catch {
			continue;
		}
		await run("ip", ["address", "add", `10.${subnet}.255.1/24`, "dev", bridge]);
		await run("ip", ["link", "set", bridge, "up"]);
		return { bridge, subnet };
	}
	throw new Error("no private range is free");
}
