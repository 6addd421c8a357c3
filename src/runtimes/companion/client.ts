import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { Agent, request as httpRequest, type IncomingMessage } from "node:http";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { isDiskFull } from "../../ballast.ts";
import { AppError, cancelled, isAppError, messageOf } from "../../errors.ts";
import { type Platform, platformOf } from "../../platform/platform.ts";
import type { Call, ServiceRef } from "../runtime.ts";
import { systemClock } from "./clock.ts";
import { CompanionLock } from "./lock.ts";
import { type Answer, CHANGES, type Hello, type Operation, type Operations, PROTOCOL, SERVICES } from "./protocol.ts";
import type { CompanionSettings } from "./settings.ts";

const RETRY_MS = { first: 5, most: 250 };
const HELLO_MS = 5_000;
/** Services that are held at a time while they are listed. */
const PAGE = 500;
/** It lives for long beside the services, and makes little garbage at a time: memory counts more than speed. */
const NODE_FLAGS = ["--max-semi-space-size=1"];

export type ClientOptions = {
	readonly folder: string;
	readonly settings: CompanionSettings;
	/** How long a call looks for a companion before it rejects with `unavailable`. */
	readonly unavailableMs: number;
};

/** Finds the folder's companion, starts one where there is none, and speaks with it. */
export class CompanionClient {
	readonly #options: ClientOptions;
	readonly #lock: CompanionLock;
	readonly #agent = new Agent({ keepAlive: true });
	readonly #closing = new AbortController();
	readonly #listeners = new Set<(service: ServiceRef) => void>();
	/** Kept for those who begin to listen later: each is told of all services once. */
	#socket: Promise<string> | null = null;
	#spawned = false;
	#presence: Promise<void> = Promise.resolve();

	private constructor(options: ClientOptions, platform: Platform) {
		this.#options = options;
		this.#lock = new CompanionLock(options.folder, platform);
	}

	/** Rejects with `unavailable` where no companion comes up. */
	static async open(options: ClientOptions): Promise<CompanionClient> {
		const client = new CompanionClient(options, platformOf());
		await mkdir(client.#lock.folder, { recursive: true, mode: 0o700 });
		await client.#reach(client.#closing.signal);
		client.#presence = client.#stayConnected();
		return client;
	}

	/** Every operation is idempotent, so one that was cut off is simply sent again. */
	call<K extends Operation>(
		name: K,
		request: Operations[K]["request"],
		{ signal }: Call,
	): Promise<Operations[K]["answer"]> {
		return this.#untilDone(signal, (socket, either) => this.#send(socket, name, request, either));
	}

	/** All services of the companion, by id. One that is made or removed meanwhile may be there or not. */
	async *services({ signal }: Call): AsyncGenerator<ServiceRef> {
		let after = "";
		for (let more = true; more; ) {
			const page = await this.#untilDone(signal, (socket, either) => this.#page(socket, after, either));
			yield* page;
			after = page.at(-1)?.id ?? after;
			more = page.length === PAGE;
		}
	}

	/** The first services after an id: a stream that is cut off is then asked for anew where it was. */
	async #page(socket: string, after: string, signal: AbortSignal): Promise<ServiceRef[]> {
		const response = await this.#request(socket, SERVICES, JSON.stringify(after), signal);
		const page: ServiceRef[] = [];
		for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
			page.push(JSON.parse(line));
			if (page.length === PAGE) break;
		}
		if (page.length < PAGE && !response.complete) throw new Error("the companion's list was cut off");
		response.destroy();
		return page;
	}

	async #untilDone<T>(signal: AbortSignal, action: (socket: string, signal: AbortSignal) => Promise<T>): Promise<T> {
		const either = AbortSignal.any([signal, this.#closing.signal]);
		for (let delay = RETRY_MS.first; ; delay = Math.min(RETRY_MS.most, delay * 2)) {
			if (signal.aborted) throw cancelled(signal);
			const socket = await this.#reach(either);
			try {
				return await action(socket, either);
			} catch (error) {
				if (signal.aborted) throw cancelled(signal);
				if (this.#closing.signal.aborted) throw closed();
				if (isAppError(error)) throw error;
				this.#lost(socket);
				await systemClock.sleep(delay, either);
			}
		}
	}

	/** Called with every service that may have changed, and with all after a reconnection. */
	listen(listener: (service: ServiceRef) => void): () => void {
		this.#listeners.add(listener);
		return () => void this.#listeners.delete(listener);
	}

	async close(): Promise<void> {
		this.#closing.abort();
		this.#agent.destroy();
		await this.#presence;
	}

	#lost(socket: string): void {
		const current = this.#socket;
		current?.then(
			(path) => {
				if (path === socket && this.#socket === current) this.#socket = null;
			},
			() => undefined,
		);
	}

	async #reach(signal: AbortSignal): Promise<string> {
		if (this.#closing.signal.aborted) throw closed();
		this.#socket ??= this.#find().catch((error) => {
			this.#socket = null;
			throw error;
		});
		const found = this.#socket;
		return new Promise((resolve, reject) => {
			const aborted = () => reject(this.#closing.signal.aborted ? closed() : cancelled(signal));
			signal.addEventListener("abort", aborted, { once: true });
			found.then(resolve, reject).finally(() => signal.removeEventListener("abort", aborted));
		});
	}

	/** One search at a time, for all calls. */
	async #find(): Promise<string> {
		const deadline = performance.now() + this.#options.unavailableMs;
		const { signal } = this.#closing;
		let problem: unknown;
		let starting: { ended: boolean } | null = null;
		for (let delay = RETRY_MS.first; performance.now() < deadline; delay = Math.min(RETRY_MS.most, delay * 1.5)) {
			if (signal.aborted) throw closed();
			const holder = await this.#lock.holder();
			try {
				if (holder === null) {
					if (starting === null || starting.ended) starting = this.#start();
				} else {
					const hello = await this.#hello(holder.socket);
					if (hello.protocol >= PROTOCOL && hello.oldest <= PROTOCOL && this.#fits(hello)) return holder.socket;
					if (hello.oldest > PROTOCOL)
						throw new AppError("unavailable", "the companion of this data folder is of a newer version");
					await this.#send(holder.socket, "handOver", null, AbortSignal.timeout(HELLO_MS));
				}
			} catch (error) {
				if (isAppError(error, "unavailable")) throw error;
				problem = error;
			}
			await systemClock.sleep(delay, signal);
		}
		throw new AppError(
			"unavailable",
			`the companion process cannot be reached: ${messageOf(problem ?? "it did not start")}`,
			{
				cause: problem,
				hint: `See ${join(this.#lock.folder, "companion.log")}`,
			},
		);
	}

	/**
	 * False where it looks for its engine at another place: the next one looks here. Throws `unavailable` where its programs are
	 * not of the kind that is asked for: no other could adopt them.
	 */
	#fits({ engine, socket }: Hello): boolean {
		const wanted = this.#options.settings.engine;
		const { kind } = wanted;
		if (engine === kind) return socket === undefined || wanted.kind !== "docker" || wanted.socket === socket;
		throw new AppError(
			"unavailable",
			`the companion of this data folder runs its programs by "${engine}", not by "${kind}"`,
			{ hint: "Stop its services first, or use another data folder." },
		);
	}

	#hello(socket: string): Promise<Hello> {
		const { settings } = this.#options;
		return this.#send(socket, "hello", { protocol: PROTOCOL, settings }, AbortSignal.timeout(HELLO_MS));
	}

	/** Detached, so that it outlives this process; with an environment that holds none of the server's secrets. */
	#start(): { ended: boolean } {
		const state = { ended: false };
		const log = openLog(join(this.#lock.folder, "companion.log"));
		const { PATH, HOME, TMPDIR, LANG, RUNTIME_FAILPOINTS, RUNTIME_FAILPOINT_LOG } = process.env;
		const env = { PATH, HOME, TMPDIR, LANG, RUNTIME_FAILPOINT_LOG };
		const main = fileURLToPath(new URL(`./companion-main${extname(import.meta.url)}`, import.meta.url));
		try {
			const child = spawn(
				process.execPath,
				[...NODE_FLAGS, main, this.#options.folder, JSON.stringify(this.#options.settings)],
				{
					cwd: this.#options.folder,
					// A crash that is asked for happens once: the companion that follows lives.
					env: this.#spawned ? env : { ...env, RUNTIME_FAILPOINTS },
					detached: true,
					stdio: ["ignore", log ?? "ignore", log ?? "ignore"],
				},
			);
			const ended = () => {
				state.ended = true;
			};
			child.once("exit", ended).once("error", ended);
			child.unref();
			this.#spawned = true;
		} finally {
			if (log !== null) closeSync(log);
		}
		return state;
	}

	async #send<K extends Operation>(
		socket: string,
		name: K,
		request: Operations[K]["request"],
		signal: AbortSignal,
	): Promise<Operations[K]["answer"]> {
		const response = await this.#request(socket, name, JSON.stringify(request), signal);
		const answer: Answer<Operations[K]["answer"]> = JSON.parse(await text(response));
		if ("ok" in answer) return answer.ok;
		const { code, message, ...details } = answer.error;
		throw new AppError(code, message, details);
	}

	#request(socketPath: string, name: string, body: string, signal: AbortSignal): Promise<IncomingMessage> {
		return new Promise((resolve, reject) => {
			const agent = name === CHANGES ? false : this.#agent;
			const request = httpRequest({ socketPath, path: `/${name}`, method: "POST", agent, signal }, resolve);
			request.once("error", reject);
			request.end(body);
		});
	}

	/** An open stream tells the companion that a server is here, and us at once when the companion is not. */
	async #stayConnected(): Promise<void> {
		const { signal } = this.#closing;
		while (!signal.aborted) {
			try {
				const socket = await this.#reach(signal);
				try {
					const response = await this.#request(socket, CHANGES, "", signal);
					for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
						if (line === "") continue;
						const service: ServiceRef = JSON.parse(line);
						for (const listener of this.#listeners) listener(service);
					}
				} finally {
					this.#lost(socket);
				}
			} catch (error) {
				// Not reached: the next round looks again, and whoever calls meanwhile is told.
				if (!signal.aborted) await systemClock.sleep(isAppError(error) ? RETRY_MS.most : RETRY_MS.first, signal);
			}
		}
	}
}

/** Null where the disk has no room for one. */
function openLog(file: string): number | null {
	try {
		return openSync(file, "a", 0o600);
	} catch (error) {
		if (isDiskFull(error)) return null;
		throw error;
	}
}

function closed(): AppError {
	return new AppError("unavailable", "the runtime is closed");
}
