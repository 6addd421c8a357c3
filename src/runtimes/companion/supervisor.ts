import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Ballast } from "../../ballast.ts";
import { AppError, isAppError, systemCode } from "../../errors.ts";
import { type Platform, platformOf } from "../../platform/platform.ts";
import { Turns } from "../../turns.ts";
import { Poll } from "../output/poll.ts";
import type { Observed, ServiceRef } from "../runtime.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { Engine, OpenEngine } from "./engine.ts";
import { checkRange, defaultRange, Ports } from "./ports.ts";
import { untilReached } from "./reach.ts";
import { Service, type ServiceHost } from "./service.ts";
import { type CompanionSettings, DEFAULT_SETTINGS } from "./settings.ts";
import { type SpecRecord, StateFile, writeWhole } from "./state-file.ts";
import { Vigil } from "./vigil.ts";

export type SupervisorOptions = {
	readonly folder: string;
	readonly settings: CompanionSettings;
	readonly engine: OpenEngine;
	/** Given up where the disk is too full to go on. */
	readonly ballast: Ballast;
	readonly platform?: Platform;
	readonly clock?: Clock;
	readonly newId?: () => string;
	readonly report: (message: string, error: unknown) => void;
};

type Current = { settings: CompanionSettings; readonly place: { readonly socket?: string | null } };

/** All services of a data folder. One at a time for each folder: see `lock.ts`. */
export class Supervisor {
	readonly #host: ServiceHost;
	readonly #services = new Map<string, Service>();
	/** Applies and removals of a service: one that is being opened is there for whoever removes it. */
	readonly #turns = new Turns();
	readonly #listeners: Set<(service: ServiceRef) => void>;
	readonly #closing = new AbortController();
	readonly #current: Current;
	#dismissed = false;

	private constructor(host: ServiceHost, current: Current, listeners: Set<(service: ServiceRef) => void>) {
		this.#host = host;
		this.#current = current;
		this.#listeners = listeners;
		const stopListening = host.engine.onReachable(() => {
			for (const ref of this.list()) host.changed(ref);
		});
		this.#closing.signal.addEventListener("abort", stopListening, { once: true });
	}

	/** Adopts what an earlier one left, and ends what carries our mark without a record. */
	static async open(options: SupervisorOptions): Promise<Supervisor> {
		const { folder, ballast, report, clock = systemClock, platform = platformOf() } = options;
		const { engine: chosen } = options.settings;
		const place = chosen.kind === "docker" ? { socket: chosen.socket } : {};
		const current: Current = { settings: options.settings, place };
		const settings = () => current.settings;
		const newId = options.newId ?? (() => randomBytes(8).toString("hex"));
		const services = join(folder, "services");
		const trash = join(folder, "trash");
		for (const path of [services, trash]) await mkdir(path, { recursive: true, mode: 0o700 });
		const folderId = await identify(folder);
		const bootId = await platform.bootId();
		const range = current.settings.ports ?? defaultRange(await platform.firstEphemeralPort());
		checkRange(range);
		const engine = await options.engine({ folder, folderId, bootId, platform, clock, settings, report });
		const listeners = new Set<(service: ServiceRef) => void>();
		const host: ServiceHost = {
			...{ engine, clock, bootId, newId, trash, ballast, report, settings },
			vigil: new Vigil({ engine, clock, report, settings }),
			ports: new Ports(range, folder),
			poll: new Poll(),
			folder: services,
			changed: (service) => {
				for (const listener of listeners) listener(service);
			},
		};
		const supervisor = new Supervisor(host, current, listeners);
		await supervisor.#adopt();
		for (const name of await readdir(trash)) await rm(join(trash, name), { recursive: true, force: true });
		return supervisor;
	}

	/** What starts the programs; it stays so for life. */
	get kind(): Engine["kind"] {
		return this.#host.engine.kind;
	}

	/** Where its engine was found. */
	get place(): { readonly socket?: string | null } {
		return this.#current.place;
	}

	/** A server of another version may know fewer of them. */
	set settings(settings: Partial<CompanionSettings>) {
		const { engine } = this.#current.settings;
		this.#current.settings = { ...DEFAULT_SETTINGS, engine, ...settings };
	}

	/** For how long nobody must have needed it before it ends; none where all was stopped on purpose. */
	get idleMs(): number {
		return this.#dismissed ? 0 : this.#current.settings.idleMs;
	}

	/** Whether a program runs, or is to. */
	get needed(): boolean {
		return !this.#turns.idle || [...this.#services.values()].some((service) => service.needed);
	}

	listen(listener: (service: ServiceRef) => void): () => void {
		this.#listeners.add(listener);
		return () => void this.#listeners.delete(listener);
	}

	list(): ServiceRef[] {
		return [...this.#services.values()].map(({ ref }) => ref);
	}

	/** Makes anew what was given up, where there is room again. Cheap: to be called often. */
	async restock(): Promise<void> {
		await this.#host.ballast.fill();
	}

	/** Throws `unavailable` while it cannot be known. */
	observe(id: string): Observed {
		this.#host.engine.mustBeReachable();
		return this.#services.get(id)?.observed ?? { url: null, serving: null, revisions: [] };
	}

	async apply(spec: SpecRecord): Promise<void> {
		this.#host.engine.mustBeReachable();
		const other = this.list().find(({ namespace }) => namespace !== spec.namespace);
		if (this.#host.engine.trust === "one_namespace" && other !== undefined)
			throw new AppError(
				"permission_denied",
				`the process runtime runs the programs of one namespace, here ${other.namespace}: they could read each other's files`,
				{ field: "namespace", hint: "Use the Docker or Kubernetes runtime for several namespaces." },
			);
		this.#dismissed = false;
		await this.#turns.inTurn(spec.id, async () => (await this.#open(spec)).apply(spec));
	}

	async abandon(id: string, revision: number): Promise<void> {
		this.#host.engine.mustBeReachable();
		await this.#services.get(id)?.abandon(revision);
	}

	async stop(id: string): Promise<void> {
		this.#host.engine.mustBeReachable();
		await this.#services.get(id)?.stop();
	}

	async remove(id: string): Promise<void> {
		this.#host.engine.mustBeReachable();
		await this.#remove(id);
	}

	#remove(id: string): Promise<void> {
		return this.#turns.inTurn(id, async () => {
			const service = this.#services.get(id);
			if (service === undefined) {
				await rm(join(this.#host.folder, id), { recursive: true, force: true });
				return;
			}
			await service.remove();
			this.#services.delete(id);
			this.#host.changed(service.ref);
			await this.#whenReached(() => this.#host.engine.forgotten(service.ref, this.list())).catch((error) =>
				this.#host.report(`${id} left something behind`, error),
			);
		});
	}

	async stopAll(): Promise<void> {
		this.#host.engine.mustBeReachable();
		await Promise.all([...this.#services.values()].map((service) => service.stop()));
		this.#dismissed = true;
	}

	/** Closes every address; the programs go on for another companion to adopt. */
	async close(): Promise<void> {
		this.#closing.abort();
		await Promise.all([...this.#services.values()].map((service) => service.close()));
		await this.#host.engine[Symbol.asyncDispose]();
	}

	async #open(ref: ServiceRef): Promise<Service> {
		const known = this.#services.get(ref.id);
		if (known !== undefined) return known;
		const service = await Service.open(this.#host, ref);
		this.#services.set(ref.id, service);
		return service;
	}

	async #adopt(): Promise<void> {
		const { folder, report } = this.#host;
		const recorded = new Set<string>();
		let unreadable = false;
		for (const id of await readdir(folder)) {
			const state = await new StateFile(join(folder, id)).load().catch((error) => {
				report(`the state of ${id} cannot be read; what runs of it is left alone`, error);
				unreadable = true;
				return null;
			});
			// Only bytes for an apply that never came: the next one goes on from there.
			if (state === null) continue;
			const runs = [state.live, state.target, ...state.retiring].filter((run) => run !== null);
			for (const run of runs)
				if (run.phase !== "ended" && (run.phase !== "failed" || run.failure?.code === "crash_loop"))
					for (const { instance } of run.instances) recorded.add(instance);
			const service = await this.#host.ballast.spend(() => Service.open(this.#host, state.ref, state));
			this.#services.set(id, service);
			if (service.removing) this.#remove(id).catch((error) => report(`${id} could not be removed`, error));
		}
		if (!unreadable)
			await this.#whenReached(() =>
				this.#host.engine.sweep(
					(instance) =>
						recorded.has(instance) || [...this.#services.values()].some((service) => service.knows(instance)),
				),
			);
	}

	/** Clears something away. Where the engine cannot be reached, nobody waits for that: it is done when it is back. */
	async #whenReached(clear: () => Promise<void>): Promise<void> {
		const { signal } = this.#closing;
		try {
			await clear();
		} catch (error) {
			if (!isAppError(error, "unavailable")) throw error;
			untilReached(this.#host, clear, signal).catch((failed) => {
				if (!signal.aborted) this.#host.report("what is of no use any more could not be cleared away", failed);
			});
		}
	}
}

/** Names this folder in the environment of its programs. A copy of the folder is another folder. */
async function identify(folder: string): Promise<string> {
	const file = join(folder, "folder.id");
	const { dev, ino } = await stat(folder);
	const place = `${dev}.${ino}`;
	try {
		const [id, where] = (await readFile(file, "utf8")).trim().split(" ");
		if (id !== undefined && where === place) return id;
	} catch (error) {
		if (systemCode(error) !== "ENOENT") throw error;
	}
	const id = createHash("sha256").update(randomBytes(16)).update(place).digest("hex").slice(0, 16);
	await writeWhole(file, `${id} ${place}\n`);
	return id;
}
