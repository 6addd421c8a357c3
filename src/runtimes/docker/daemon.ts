import type { Readable } from "node:stream";
import Docker from "dockerode";
import { AppError, isAppError, messageOf, unlessAborted } from "../../errors.ts";
import type { Clock } from "../companion/clock.ts";

const CALL_MS = 60_000;
const LOOK_MS = 10_000;
const LOOK_EVERY_MS = 5_000;
/** So many in a row are borne of an engine that still answers a ping. */
const LOOKS_MISSED = 2;
const BACKOFF_MS = { first: 100, most: 2_000 };
/** An event is some hundred bytes; more without an end is none. */
const LONGEST_EVENT = 256 * 1024;
/** SIGTERM and SIGKILL. */
const ENDING_SIGNALS: readonly string[] = ["15", "9"];

export type DaemonOptions = {
	/** Path of the daemon's socket; null: the usual one, or what DOCKER_HOST says. */
	readonly socket: string | null;
	/** Only containers with this label are asked for: `key=value`. */
	readonly label: string;
	readonly clock: Clock;
	/** How long one call may take, 60 s by default, and a ping or a look, 10 s. */
	readonly callMs?: number;
	readonly lookMs?: number;
	readonly report: (message: string, error: unknown) => void;
	/** Something happened to this container: it ended, memory was short, or somebody sent it a signal that ends it. */
	readonly told: (id: string, what: "die" | "oom" | "kill") => void;
	/**
	 * All there are (those that do not run too), now and then, and each time that the daemon is back (`back`) before anybody else
	 * is told so.
	 */
	readonly looked: (containers: readonly Docker.ContainerInfo[], back: boolean) => Promise<void>;
};

/** The connection to the Docker engine: whether it answers, and what it tells. */
export class Daemon implements AsyncDisposable {
	readonly #options: DaemonOptions;
	readonly #docker: Docker;
	readonly #streams: Docker;
	readonly #pings: Docker;
	readonly #lookMs: number;
	readonly #listeners = new Set<() => void>();
	readonly #stop = new AbortController();
	#reachable = false;
	#why: unknown = null;
	/** Ends the connection that there is, or the wait for the next. */
	#doubt = new AbortController();
	#asking: Promise<void> | null = null;
	#work: Promise<void> = Promise.resolve();

	private constructor(options: DaemonOptions) {
		this.#options = options;
		const at = options.socket === null ? {} : { socketPath: options.socket };
		this.#docker = new Docker({ ...at, timeout: options.callMs ?? CALL_MS });
		this.#lookMs = options.lookMs ?? LOOK_MS;
		this.#streams = new Docker(at);
		this.#pings = new Docker({ ...at, timeout: this.#lookMs });
	}

	/** Resolves when it is reached for the first time, or could not be. */
	static async open(options: DaemonOptions): Promise<Daemon> {
		const daemon = new Daemon(options);
		const first = Promise.withResolvers<void>();
		daemon.#work = daemon.#run(() => first.resolve());
		await first.promise;
		return daemon;
	}

	mustBeReachable(): void {
		if (!this.#reachable) throw this.#unavailable(this.#why);
	}

	onReachable(listener: () => void): () => void {
		const own = () => listener();
		this.#listeners.add(own);
		return () => void this.#listeners.delete(own);
	}

	/** Rejects with `unavailable` where the daemon does not answer, else as dockerode does (see `statusOf`). */
	async call<T>(work: (docker: Docker) => Promise<T>): Promise<T> {
		try {
			return await work(this.#docker);
		} catch (error) {
			if (statusOf(error) !== null || isAppError(error)) throw error;
			this.#asking ??= this.#ask(this.#doubt).finally(() => {
				this.#asking = null;
			});
			throw this.#unavailable(error);
		}
	}

	/** One call may take too long, of an engine that is busy, and tells nothing about the rest. */
	async #ask(doubt: AbortController): Promise<void> {
		try {
			await this.#ping(AbortSignal.any([doubt.signal, this.#stop.signal]));
		} catch {
			// The look that follows says why.
			doubt.abort();
		}
	}

	async #ping(signal: AbortSignal): Promise<void> {
		await unlessAborted(this.#pings.ping(), signal);
	}

	/** As `call`; null where there is no such thing (404). */
	async find<T>(work: (docker: Docker) => Promise<T>): Promise<T | null> {
		try {
			return await this.call(work);
		} catch (error) {
			if (statusOf(error) === 404) return null;
			throw error;
		}
	}

	/** For streams: they may be silent for as long as they like. */
	async stream(work: (docker: Docker) => Promise<NodeJS.ReadableStream>): Promise<Readable> {
		try {
			// What comes over http is an IncomingMessage.
			return (await work(this.#streams)) as Readable;
		} catch (error) {
			if (statusOf(error) !== null || isAppError(error)) throw error;
			throw this.#unavailable(error);
		}
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#stop.abort();
		await this.#work;
	}

	async #run(tried: () => void): Promise<void> {
		const { clock, report } = this.#options;
		const { signal } = this.#stop;
		for (let delay = BACKOFF_MS.first; !signal.aborted; delay = Math.min(BACKOFF_MS.most, delay * 2)) {
			this.#doubt = new AbortController();
			const either = AbortSignal.any([signal, this.#doubt.signal]);
			const wasReachable = this.#reachable;
			try {
				await this.#connected(either, () => {
					delay = BACKOFF_MS.first;
					this.#set(true, null);
					tried();
				});
			} catch (error) {
				if (signal.aborted) break;
				if (this.#reachable || wasReachable) report("the Docker engine went away", error);
				this.#set(false, error);
			}
			tried();
			await clock.sleep(delay, signal);
		}
		this.#set(false, new Error("closed"));
	}

	/** For as long as it is connected. Rejects when it is not. */
	async #connected(signal: AbortSignal, ready: () => void): Promise<never> {
		const { clock, looked } = this.#options;
		// From before the look: nothing is missed between the two.
		const events = await this.#events(signal);
		try {
			const told = this.#read(events);
			// It is awaited below; not before the look is over.
			told.catch(() => undefined);
			await this.#look(signal, true, looked);
			ready();
			for (let missed = 0; ; ) {
				const first = await Promise.race([told.then(() => "end"), clock.sleep(LOOK_EVERY_MS, signal)]);
				if (first === "end") throw new Error("its events ended");
				signal.throwIfAborted();
				try {
					await this.#look(signal, false, looked);
					missed = 0;
				} catch (error) {
					if (signal.aborted || ++missed > LOOKS_MISSED) throw error;
					await this.#ping(signal);
				}
			}
		} finally {
			events.destroy();
		}
	}

	async #events(signal: AbortSignal): Promise<Readable> {
		const slow = new AbortController();
		const timer = setTimeout(() => slow.abort(), this.#lookMs);
		try {
			return await this.stream((docker) =>
				docker.getEvents({
					filters: { type: ["container"], event: ["die", "oom", "kill"], label: [this.#options.label] },
					abortSignal: AbortSignal.any([signal, slow.signal]),
				}),
			);
		} finally {
			clearTimeout(timer);
		}
	}

	async #look(signal: AbortSignal, back: boolean, looked: DaemonOptions["looked"]): Promise<void> {
		const abortSignal = AbortSignal.any([signal, AbortSignal.timeout(this.#lookMs)]);
		const filters = { label: [this.#options.label] };
		await looked(await this.#streams.listContainers({ all: true, filters, abortSignal }), back);
	}

	async #read(events: Readable): Promise<void> {
		let rest = "";
		for await (const piece of events.setEncoding("utf8")) {
			const lines = (rest + piece).split("\n");
			rest = lines.pop() ?? "";
			if (rest.length > LONGEST_EVENT) throw new Error("an event without an end");
			for (const line of lines) {
				const event = parseEvent(line);
				if (event !== null) this.#options.told(event.id, event.what);
			}
		}
	}

	#set(reachable: boolean, why: unknown): void {
		this.#why = why;
		if (this.#reachable === reachable) return;
		this.#reachable = reachable;
		for (const listener of [...this.#listeners]) listener();
	}

	#unavailable(cause: unknown): AppError {
		if (isAppError(cause, "unavailable")) return cause;
		const { socket } = this.#options;
		const where = socket ?? process.env.DOCKER_HOST ?? "its usual socket";
		const detail = cause === null ? "" : ` (${messageOf(cause).trim()})`;
		return new AppError("unavailable", `the Docker engine does not answer at ${where}${detail}; is dockerd running?`, {
			cause,
			hint: "Start dockerd, or say where its socket is.",
		});
	}
}

/** The HTTP status of the engine's refusal; null for what is none. */
export function statusOf(error: unknown): number | null {
	if (typeof error !== "object" || error === null || !("statusCode" in error)) return null;
	return typeof error.statusCode === "number" ? error.statusCode : null;
}

/** What the engine says about its refusal. */
export function reasonOf(error: unknown): string {
	if (typeof error === "object" && error !== null && "json" in error) {
		const { json } = error;
		if (typeof json === "object" && json !== null && "message" in json && typeof json.message === "string")
			return json.message;
	}
	return messageOf(error).trim();
}

/** Null for what tells nothing. */
function parseEvent(line: string): { id: string; what: "die" | "oom" | "kill" } | null {
	let value: unknown;
	try {
		value = JSON.parse(line);
	} catch (error) {
		if (!(error instanceof SyntaxError)) throw error;
		return null;
	}
	if (!isObject(value) || !isObject(value.Actor)) return null;
	const { Action: what, Actor: actor } = value;
	const { ID: id, Attributes: attributes } = actor;
	if (typeof id !== "string" || !isObject(attributes)) return null;
	if (what === "die" || what === "oom") return { id, what };
	return what === "kill" && ENDING_SIGNALS.includes(String(attributes.signal)) ? { id, what } : null;
}

function isObject(value: unknown): value is Record<string, unknown> {
	return typeof value === "object" && value !== null;
}
