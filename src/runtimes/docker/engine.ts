import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ContainerCreateOptions, ContainerInfo, ContainerInspectInfo } from "dockerode";
import { AppError, isAppError } from "../../errors.ts";
import { failpoint } from "../../failpoint.ts";
import { accepts } from "../companion/connect.ts";
import type { Engine, EngineHost, Gone, InstancePlan, Running, StartPlan } from "../companion/engine.ts";
import type { InstanceRecord } from "../companion/state-file.ts";
import type { Limits, ServiceRef } from "../runtime.ts";
import { Container, type ContainerHost, endContainer, exitOf, outlivedEngine } from "./container.ts";
import { Daemon, reasonOf, statusOf } from "./daemon.ts";
import { ImageRestorer } from "./image-restorer.ts";
import { Networks } from "./network.ts";
import { ContainerOutput, STREAMS } from "./output.ts";
import { containerName, containerOptions, DEFAULT_LIMITS, LABELS, PROGRAM_HOST } from "./plan.ts";
import { Removals } from "./removals.ts";

/** What the engine refuses it may take a moment later: a network that was just removed, an address that is not free yet. */
const START_ATTEMPTS = 4;
const START_BACKOFF_MS = 100;
const NOT_STARTED = "the container could not be started";
const SEE_LOG = "the server's log says why";

/** Runs instances as containers of the Docker engine on this machine. */
export class DockerEngine implements Engine {
	readonly kind = "docker";
	readonly trust = "many";
	readonly programHost = PROGRAM_HOST;
	readonly #host: EngineHost;
	readonly #watched: Map<string, Container>;
	readonly #daemon: Daemon;
	readonly #networks: Networks;
	readonly #removals: Removals;
	readonly #closing = new AbortController();
	readonly #restorer: ImageRestorer;

	private constructor(host: EngineHost, daemon: Daemon, watched: Map<string, Container>) {
		this.#host = host;
		this.#daemon = daemon;
		this.#watched = watched;
		this.#networks = new Networks(daemon, host.folderId);
		this.#removals = new Removals(host, daemon);
		this.#restorer = new ImageRestorer(host.settings, daemon, this.#closing.signal);
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
		again.removeDead = (all) => engine.#removals.again(all);
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

	async start(plan: StartPlan): Promise<Running> {
		this.mustBeReachable();
		try {
			return await this.#start(plan);
		} catch (error) {
			if (!plan.proven || isAppError(error, "unavailable")) throw error;
			// It has run here: what is in the way now may go away again, so that is no reason to give the service up.
			this.#host.report(`${plan.spec.id} could not be started; it is tried again`, error);
			throw new AppError("unavailable", isAppError(error) ? error.message : `${NOT_STARTED}; ${SEE_LOG}`, {
				cause: error,
			});
		}
	}

	async adopt(plan: InstancePlan): Promise<Running | Gone | null> {
		this.mustBeReachable();
		const { record } = plan;
		const info = await this.#find(plan);
		const wasStarted = record.pid !== null || record.startTime !== null;
		const rebooted = record.bootId !== this.#host.bootId;
		if (info === null)
			return wasStarted
				? { gone: { exitCode: null, words: "is gone: its container was removed", excused: rebooted }, follow: () => [] }
				: null;
		if (info.State.Status === "created") return null;
		await prepareFolder(plan);
		const excused = rebooted || (!info.State.Running && (await outlivedEngine(this.#own, info)));
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
				await this.#removals.remove(Id);
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
		this.#closing.abort();
		await this.#daemon[Symbol.asyncDispose]();
	}

	async #start(plan: InstancePlan): Promise<Running> {
		const { clock, folderId, settings } = this.#host;
		const { namespace } = plan.spec;
		const network = this.#networks.nameOf(namespace);
		const options = containerOptions(folderId, plan, network, this.#limits(plan), settings());
		let { image } = plan.spec;
		await prepareFolder(plan);
		for (let attempt = 1; ; attempt++) {
			let atNetwork = true;
			try {
				await this.#networks.ensure(namespace);
				atNetwork = false;
				return this.#hold(plan, await this.#run(plan, { ...options, Image: image }));
			} catch (error) {
				if (statusOf(error) === null) throw error;
				const noImage = !atNetwork && statusOf(error) === 404 && (await this.#restorer.isMissing(image));
				if (noImage) image = await this.#restorer.restore(plan.spec);
				else await this.#remove(plan);
				// It is about to go away.
				await this.#daemon.call((docker) => docker.ping());
				if (attempt >= START_ATTEMPTS) throw await this.#notStarted(namespace, atNetwork, error);
				if (noImage) continue;
			}
			await clock.sleep(START_BACKOFF_MS * attempt ** 2);
		}
	}

	/** In words for the service's owner, with what its operator can do. */
	async #notStarted(namespace: string, atNetwork: boolean, cause: unknown): Promise<AppError> {
		if (atNetwork)
			return new AppError(
				"internal",
				`the Docker engine made no network for the namespace "${namespace}", most likely because all of its address ranges are taken; the operator can remove networks that nobody uses (docker network prune) or give the engine more ranges (default-address-pools in its daemon.json); ${SEE_LOG}`,
				{ cause },
			);
		if (await this.#networks.isFull(namespace))
			return new AppError(
				"internal",
				`all addresses of the namespace "${namespace}" are taken: its network has no more; the operator can give the engine larger ranges (default-address-pools in its daemon.json), for networks that are made after that`,
				{ cause },
			);
		// What Docker says of the request is for the service's owner (more cores than there are); of itself, for the log.
		const why = statusOf(cause) === 400 ? `: ${reasonOf(cause)}` : `; that is for the operator to mend, and ${SEE_LOG}`;
		return new AppError("internal", `${NOT_STARTED}${why}`, { cause });
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
			if (holder !== null) await this.#removals.remove(holder.Id);
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
		if (info !== null) await this.#removals.remove(info.Id);
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
