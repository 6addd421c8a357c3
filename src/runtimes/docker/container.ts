import type { ContainerInspectInfo } from "dockerode";
import { isAppError } from "../../errors.ts";
import type { Platform } from "../../platform/platform.ts";
import { accepts } from "../companion/connect.ts";
import type { Exit, InstancePlan, Running } from "../companion/engine.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import { statusOf } from "./daemon.ts";
import { howItEnded, isLoaderCode } from "./exits.ts";
import { ContainerOutput, lastErrorLine, type OutputHost } from "./output.ts";
import { listenersWithin } from "./readiness.ts";

const KILLED = 137;
/** The news that memory was short may come after that of the end. */
const MEMORY_LOOKS = 5;
const MEMORY_LOOK_MS = 40;
/** Who ends so long after it was told to does so for another reason. */
const TOLD_MS = 60_000;
/** After SIGKILL. */
const DEATH_MS = { look: 50, most: 1_000 };

export type ContainerHost = OutputHost & {
	readonly platform: Platform;
	/** From now on `Container.look` is called when something may have happened to it. Returns what ends that. */
	readonly watch: (container: Container) => () => void;
	readonly report: (message: string, error: unknown) => void;
};

/** One container that was started. */
export class Container implements Running {
	readonly id: string;
	readonly host: string;
	readonly pid: number | null;
	/** The container's id: unique for ever. */
	readonly startTime: string;
	readonly exited: Promise<Exit>;
	readonly #own: ContainerHost;
	readonly #plan: InstancePlan;
	/** Bytes that the program may use. */
	readonly #memory: number;
	/** Null of one that has ended already: what the record has instead may be this machine's, where somebody else listens. */
	readonly #address: string | null;
	readonly #ended = Promise.withResolvers<Exit>();
	#settled = false;
	#looking: Promise<void> = Promise.resolve();
	#outOfMemory = false;
	/** When it was told to end, by the clock. */
	#signalledAt = Number.NEGATIVE_INFINITY;
	#forget: () => void = () => undefined;

	private constructor(own: ContainerHost, plan: InstancePlan, info: ContainerInspectInfo, memory: number) {
		this.#own = own;
		this.#plan = plan;
		this.#memory = memory;
		this.id = info.Id;
		this.startTime = info.Id;
		this.pid = info.State.Pid > 0 ? info.State.Pid : null;
		this.#address = addressOf(info);
		this.host = this.#address ?? plan.record.host;
		this.exited = this.#ended.promise;
	}

	static hold(own: ContainerHost, plan: InstancePlan, info: ContainerInspectInfo, memory: number): Container {
		const container = new Container(own, plan, info, memory);
		container.#forget = own.watch(container);
		// It may have ended before it was watched.
		container.look(false);
		return container;
	}

	/** The engine said that memory was short. */
	shortOfMemory(): void {
		this.#outOfMemory = true;
	}

	/**
	 * It was told to end. Where that was not us (then nobody asks how it ended), it was the engine, which ends all before it goes
	 * away itself, or somebody by hand: no fault of the program.
	 */
	signalled(): void {
		this.#signalledAt = this.#own.clock.now();
	}

	/** Something may have happened. `excused`: the engine was away meanwhile, so if it has ended, that is why. */
	look(excused: boolean): void {
		this.#looking = this.#looking
			.then(() => this.#look(excused))
			.catch((error) => {
				// It is looked at again when the engine is back.
				if (!isAppError(error, "unavailable")) this.#own.report(`${this.id} could not be looked at`, error);
			});
	}

	async listeningAt(): Promise<string | null> {
		this.#own.daemon.mustBeReachable();
		const address = this.#address;
		return address !== null && (await accepts(address, this.#plan.record.port)) ? address : null;
	}

	async elsewhere() {
		this.#own.daemon.mustBeReachable();
		return this.pid === null ? [] : listenersWithin(this.#own.platform, this.pid);
	}

	follow(log: ServiceLog): readonly Follower[] {
		return [new ContainerOutput(this.#own, this.id, this.#plan, log, false)];
	}

	/** Leaves the container, for its output. */
	async stop(graceMs: number): Promise<void> {
		await endContainer(this.#own, this.id, graceMs, this.exited);
		this.#forget();
	}

	async #look(excused: boolean): Promise<void> {
		if (this.#settled) return;
		const told = this.#own.clock.now() - this.#signalledAt <= TOLD_MS;
		const exit = await exitOf(this.#own, this.id, this.#memory, excused || told, () => this.#outOfMemory);
		if (exit === null) return;
		this.#settled = true;
		this.#forget();
		this.#ended.resolve(exit);
	}
}

/** How it ended; null where it has not. One that is gone was removed by somebody else. */
export async function exitOf(
	own: OutputHost,
	id: string,
	memory: number,
	excused: boolean,
	wasShort: () => boolean = () => false,
): Promise<Exit | null> {
	const inspect = () => own.daemon.find((docker) => docker.getContainer(id).inspect());
	let info = await inspect();
	for (let looks = 1; looks < MEMORY_LOOKS; looks++) {
		if (info?.State.ExitCode !== KILLED || info.State.Running || info.State.OOMKilled || wasShort()) break;
		await own.clock.sleep(MEMORY_LOOK_MS);
		info = await inspect();
	}
	if (info === null)
		return { exitCode: null, words: "is gone: its container was removed", ...(excused && { excused }) };
	const { Running: running, Status: status, ExitCode: exitCode, OOMKilled: short } = info.State;
	if (running || status === "created" || status === "paused" || status === "restarting") return null;
	const lastLine = isLoaderCode(exitCode) ? await lastErrorLine(own.daemon, id) : null;
	return howItEnded({ exitCode, outOfMemory: short || wasShort(), memory, excused, lastLine });
}

/**
 * Whether the engine was started since this container was: then it is what ended it. Each start of an engine makes its network
 * `bridge` anew; one without that network is not known.
 */
export async function outlivedEngine(
	{ daemon }: Pick<OutputHost, "daemon">,
	info: ContainerInspectInfo,
): Promise<boolean> {
	const bridge = await daemon.find((docker) => docker.getNetwork("bridge").inspect());
	return bridge !== null && Date.parse(bridge.Created) > Date.parse(info.State.StartedAt);
}

/** SIGTERM, after the grace SIGKILL; resolves when it does not run, or there is no such container. */
export async function endContainer(
	{ daemon, clock }: OutputHost,
	id: string,
	graceMs: number,
	exited?: Promise<unknown>,
): Promise<void> {
	const kill = async (signal: string): Promise<boolean> => {
		try {
			return (await daemon.find((docker) => docker.getContainer(id).kill({ signal }))) !== null;
		} catch (error) {
			// It does not run.
			if (statusOf(error) === 409) return false;
			throw error;
		}
	};
	const runs = async () => (await daemon.find((docker) => docker.getContainer(id).inspect()))?.State.Running === true;
	const over = new AbortController();
	void exited?.then(() => over.abort());
	if (!(await kill("SIGTERM"))) return;
	const deadline = clock.now() + graceMs;
	for (let delay = 5; (await runs()) && clock.now() < deadline; delay = Math.min(DEATH_MS.most, delay * 2))
		if (!over.signal.aborted) await clock.sleep(Math.min(delay, Math.max(1, deadline - clock.now())), over.signal);
		else await clock.sleep(DEATH_MS.look);
	for (let delay = DEATH_MS.look; await runs(); delay = Math.min(DEATH_MS.most, delay * 2)) {
		await kill("SIGKILL");
		await clock.sleep(delay, over.signal);
	}
}

function addressOf({ NetworkSettings: { Networks } }: ContainerInspectInfo): string | null {
	const addresses = Object.values(Networks).map(({ IPAddress }) => IPAddress);
	return addresses.find((address) => address !== "") ?? null;
}
