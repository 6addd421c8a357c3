import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ContainerCreateOptions, ContainerInfo, ContainerInspectInfo } from "dockerode";
import { AppError, isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import { accepts } from "../companion/connect.ts";
import type { Engine, EngineHost, Gone, InstancePlan, Running } from "../companion/engine.ts";
import type { InstanceRecord } from "../companion/state-file.ts";
import type { Limits, ServiceRef } from "../runtime.ts";
import { Container, type ContainerHost, endContainer, exitOf } from "./container.ts";
import { Daemon, reasonOf, statusOf } from "./daemon.ts";
import { Networks } from "./network.ts";
import { ContainerOutput, STREAMS } from "./output.ts";
import { asideName, containerName, containerOptions, DEFAULT_LIMITS, LABELS, PROGRAM_HOST } from "./plan.ts";

/** What the engine refuses it may take a moment later: a network that was just removed, an address that is not free yet. */
const START_ATTEMPTS = 4;
const START_BACKOFF_MS = 100;
const REMOVE_BACKOFF_MS = 50;
/** What the engine cannot remove: another mount of it may be there for hours. */
const REMOVE_AGAIN_MS = { first: 5_000, most: 600_000 };

/** Runs instances as containers of the Docker engine on this machine. */
export class DockerEngine implements Engine {
	readonly kind = "docker";
	readonly trust = "many";
	readonly programHost = PROGRAM_HOST;
	readonly #host: EngineHost;
	readonly #watched: Map<string, Container>;
	readonly #daemon: Daemon;
	readonly #networks: Networks;
	#removal = { at: 0, delay: REMOVE_AGAIN_MS.first };

	private constructor(host: EngineHost, daemon: Daemon, watched: Map<string, Container>) {
		this.#host = host;
		this.#daemon = daemon;
		this.#watched = watched;
		this.#networks = new Networks(daemon, host.folderId);
	}

	/** Resolves, not reachable, where the engine does not answer. */
	static async open(host: EngineHost): Promise<DockerEngine> {
		const { engine: settings } = host.settings();
		const watched = new Map<string, Container>();
		const again = { removeDead: (_all: readonly ContainerInfo[]): void => undefined };
		const daemon = await Daemon.open({
			socket: settings.kind === "docker" ? settings.socket : null,
			label: `${LABELS.folder}=${host.folderId}`,
			clock: host.clock,
			report: host.report,
			told: (id, what) => {
				const container = watched.get(id);
				if (what === "oom") container?.shortOfMemory();
				else if (what === "kill") container?.signalled();
				else container?.look(false);
			},
			looked: async (all, back) => {
				lookAgain(watched, all, back);
				again.removeDead(all);
			},
		});
		const engine = new DockerEngine(host, daemon, watched);
		again.removeDead = (all) => engine.#removeDead(all);
		return engine;
	}

	mustBeReachable(): void {
		this.#daemon.mustBeReachable();
	}

	onReachable(listener: () => void): () => void {
		return this.#daemon.onReachable(listener);
	}

	async check(): Promise<void> {
		// The loader checks the bytes, in the container.
	}

	async start(plan: InstancePlan): Promise<Running> {
		this.mustBeReachable();
		const { clock, folderId, settings } = this.#host;
		const { namespace, image } = plan.spec;
		const network = this.#networks.nameOf(namespace);
		const options = containerOptions(folderId, plan, network, this.#limits(plan), settings());
		await prepareFolder(plan);
		for (let attempt = 1; ; attempt++) {
			try {
				await this.#networks.ensure(namespace);
				return this.#hold(plan, await this.#run(plan, options));
			} catch (error) {
				if (statusOf(error) === null) throw error;
				if (statusOf(error) === 404 && !(await this.#hasImage(image)))
					throw new AppError("internal", `the image ${image} is not there`, { cause: error });
				await this.#remove(plan);
				// It is about to go away.
				await this.#daemon.call((docker) => docker.ping());
				if (attempt >= START_ATTEMPTS)
					throw new AppError("internal", `the container could not be started${wordsOf(error)}`, { cause: error });
			}
			await clock.sleep(START_BACKOFF_MS * attempt ** 2);
		}
	}

	async adopt(plan: InstancePlan): Promise<Running | Gone | null> {
		this.mustBeReachable();
		const { record } = plan;
		const info = await this.#find(plan);
		const wasStarted = record.pid !== null || record.startTime !== null;
		const excused = record.bootId !== this.#host.bootId;
		if (info === null)
			return wasStarted
				? { gone: { exitCode: null, words: "is gone: its container was removed", excused }, follow: () => [] }
				: null;
		if (info.State.Status === "created") return null;
		await prepareFolder(plan);
		const gone = await exitOf(this.#own, info.Id, this.#limits(plan).memory, excused);
		if (gone === null) return this.#hold(plan, info);
		return { gone, follow: (log) => [new ContainerOutput(this.#own, info.Id, plan, log, true)] };
	}

	async clear(plan: InstancePlan, graceMs: number): Promise<void> {
		const info = await this.#find(plan);
		if (info !== null) await endContainer(this.#own, info.Id, graceMs);
	}

	async discard(plan: InstancePlan): Promise<void> {
		await this.#remove(plan);
		await rm(plan.folders.instance, { recursive: true, force: true });
	}

	async sweep(isKnown: (instance: string) => boolean): Promise<void> {
		this.mustBeReachable();
		const { folderId, settings } = this.#host;
		const filters = { label: [`${LABELS.folder}=${folderId}`] };
		const all = await this.#daemon.call((docker) => docker.listContainers({ all: true, filters }));
		failpoint("docker.sweep");
		const strays = all.filter(({ Labels }) => !isKnown(Labels[LABELS.instance] ?? ""));
		await Promise.all(
			strays.map(async ({ Id }) => {
				await endContainer(this.#own, Id, settings().graceMs);
				await this.#removeById(Id);
			}),
		);
		await this.#networks.sweep();
	}

	async forgotten({ namespace }: ServiceRef, rest: readonly ServiceRef[]): Promise<void> {
		if (!rest.some((other) => other.namespace === namespace)) await this.#networks.remove(namespace);
	}

	async listening(records: readonly InstanceRecord[]): Promise<ReadonlySet<string>> {
		this.mustBeReachable();
		const found = await Promise.all(
			records.map(async ({ instance, host, port }) => ((await accepts(host, port)) ? instance : null)),
		);
		return new Set(found.filter((instance) => instance !== null));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#daemon[Symbol.asyncDispose]();
	}

	get #own(): ContainerHost {
		const { clock, platform, report } = this.#host;
		const watch = (container: Container) => {
			this.#watched.set(container.id, container);
			return () => void this.#watched.delete(container.id);
		};
		return { daemon: this.#daemon, clock, platform, report, watch };
	}

	#limits({ spec }: InstancePlan): Limits {
		const { engine } = this.#host.settings();
		return { ...DEFAULT_LIMITS, ...(engine.kind === "docker" ? engine.limits : {}), ...spec.limits };
	}

	#hold(plan: InstancePlan, info: ContainerInspectInfo): Container {
		return Container.hold(this.#own, plan, info, this.#limits(plan).memory);
	}

	async #run(plan: InstancePlan, options: ContainerCreateOptions): Promise<ContainerInspectInfo> {
		const id = await this.#create(plan, options);
		failpoint("docker.after_create");
		const info = await this.#daemon.call((docker) => docker.getContainer(id).inspect());
		// One that was started by a try that was cut is not started again.
		if (info.State.Status !== "created") return info;
		try {
			await this.#daemon.call((docker) => docker.getContainer(id).start());
		} catch (error) {
			if (statusOf(error) !== 304) throw error;
		}
		failpoint("companion.after_spawn");
		return this.#daemon.call((docker) => docker.getContainer(id).inspect());
	}

	/** Its id. What has the name is taken over where it is this instance, else it is a leftover and removed. */
	async #create(plan: InstancePlan, options: ContainerCreateOptions): Promise<string> {
		for (let attempt = 1; ; attempt++) {
			try {
				return (await this.#daemon.call((docker) => docker.createContainer(options))).id;
			} catch (error) {
				if (statusOf(error) !== 409 || attempt >= START_ATTEMPTS) throw error;
			}
			const name = containerName(this.#host.folderId, plan);
			const holder = await this.#daemon.find((docker) => docker.getContainer(name).inspect());
			if (holder?.Config.Labels[LABELS.instance] === plan.record.instance) return holder.Id;
			if (holder !== null) await this.#removeById(holder.Id);
		}
	}

	/** Null where the container of this name is another instance, too. */
	async #find(plan: InstancePlan): Promise<ContainerInspectInfo | null> {
		const name = containerName(this.#host.folderId, plan);
		const info = await this.#daemon.find((docker) => docker.getContainer(name).inspect());
		return info?.Config.Labels[LABELS.instance] === plan.record.instance ? info : null;
	}

	async #remove(plan: InstancePlan): Promise<void> {
		const info = await this.#find(plan);
		if (info !== null) await this.#removeById(info.Id);
	}

	/** Resolves when there is no such container, or it is out of the way. */
	async #removeById(id: string): Promise<void> {
		for (;;) {
			let refused: unknown = null;
			try {
				const removed = this.#daemon.find((docker) => docker.getContainer(id).remove({ force: true, v: true }));
				if ((await removed) === null) return;
			} catch (error) {
				if (statusOf(error) === null) throw error;
				// Else its removal is under way.
				if (statusOf(error) !== 409) refused = error;
			}
			const info = await this.#daemon.find((docker) => docker.getContainer(id).inspect());
			if (info === null) return;
			if (refused !== null) {
				if (!info.State.Dead) throw refused;
				return this.#putAside(info, refused);
			}
			await this.#host.clock.sleep(REMOVE_BACKOFF_MS);
		}
	}

	/** Its file system is busy, and it can do nothing any more: it must not be in the way of those that can. */
	async #putAside({ Id, Name }: ContainerInspectInfo, refused: unknown): Promise<void> {
		const name = asideName(this.#host.folderId, Id);
		if (Name === `/${name}`) return;
		this.#host.report(`${Id} cannot be removed yet: ${reasonOf(refused)}`, refused);
		await this.#daemon.find((docker) => docker.getContainer(Id).rename({ name }));
	}

	/** What could not be removed is tried again, now and then. */
	#removeDead(all: readonly ContainerInfo[]): void {
		const { clock, folderId, report } = this.#host;
		const dead = all.filter(({ Id, Names }) => Names.includes(`/${asideName(folderId, Id)}`));
		if (dead.length === 0) this.#removal = { at: 0, delay: REMOVE_AGAIN_MS.first };
		if (dead.length === 0 || clock.now() < this.#removal.at) return;
		const { delay } = this.#removal;
		this.#removal = { at: clock.now() + delay, delay: Math.min(REMOVE_AGAIN_MS.most, delay * 2) };
		for (const { Id } of dead)
			this.#removeById(Id).catch((error) => {
				if (!isAppError(error, "unavailable")) report(`${Id} cannot be removed`, error);
			});
	}

	async #hasImage(image: string | undefined): Promise<boolean> {
		return image !== undefined && (await this.#daemon.find((docker) => docker.getImage(image).inspect())) !== null;
	}
}

/** What the engine told of while nobody listened, or did not tell. */
function lookAgain(watched: ReadonlyMap<string, Container>, all: readonly ContainerInfo[], back: boolean): void {
	const running = new Set(all.filter(({ State }) => State === "running").map(({ Id }) => Id));
	for (const [id, container] of watched) if (!running.has(id)) container.look(back);
}

/** The log keeps how far it has read a container for as long as these are there. */
async function prepareFolder({ folders }: InstancePlan): Promise<void> {
	await mkdir(folders.instance, { recursive: true, mode: 0o700 });
	for (const stream of STREAMS) await (await open(join(folders.instance, stream), "a", 0o600)).close();
}

/** What Docker says of the request is for the service's owner (more cores than there are); of itself, for the log. */
function wordsOf(error: unknown): string {
	return statusOf(error) === 400 ? `: ${reasonOf(error)}` : "; the server's log says why";
}
