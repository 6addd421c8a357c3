import { join } from "node:path";
import { Readable } from "node:stream";
import type Docker from "dockerode";
import { isAppError } from "../../errors.ts";
import type { Clock } from "../companion/clock.ts";
import type { InstancePlan } from "../companion/engine.ts";
import type { Follower, ServiceLog } from "../output/log.ts";
import { type Daemon, statusOf } from "./daemon.ts";
import { Frames } from "./frames.ts";
import { newReading, StreamPosition } from "./stream-position.ts";

export const STREAMS = ["stdout", "stderr"] as const;
const BACKOFF_MS = { first: 50, most: 2_000 };
/** How long the last of the output is waited for while the engine is away. */
const LAST_WAIT_MS = 10_000;
const START_OF_TIME = "0";
const LONGEST_LINE = 4_096;

export type OutputHost = { readonly daemon: Daemon; readonly clock: Clock };

/** The output of one container on its way into its service's log: each line once, over restarts of the engine and of us. */
export class ContainerOutput implements Follower {
	readonly #host: OutputHost;
	readonly #id: string;
	readonly #positions: { readonly stdout: StreamPosition; readonly stderr: StreamPosition };
	readonly #stop = new AbortController();
	readonly #following: Promise<void>;
	#closing: Promise<void> | null = null;

	/** `ended`: there is no more to come than there is. */
	constructor(host: OutputHost, id: string, plan: InstancePlan, log: ServiceLog, ended: boolean) {
		this.#host = host;
		this.#id = id;
		const { spec, record, folders } = plan;
		const position = (stream: (typeof STREAMS)[number]) => {
			const file = join(folders.instance, stream);
			const source = { file, revision: spec.revision, instance: record.instance, stream };
			return new StreamPosition(log.take(source, this));
		};
		this.#positions = { stdout: position("stdout"), stderr: position("stderr") };
		this.#following = ended ? Promise.resolve() : this.#follow();
	}

	async flush(): Promise<void> {
		if (this.#closing === null) await this.#read(false, this.#stop.signal);
	}

	close(final: boolean): Promise<void> {
		this.#closing ??= this.#close(final);
		return this.#closing;
	}

	async #close(final: boolean): Promise<void> {
		this.#stop.abort();
		const positions = Object.values(this.#positions);
		try {
			await this.#following;
			if (!final) return;
			await this.#readLast();
			for (const position of positions) position.finish();
		} finally {
			for (const position of positions) position.close();
		}
	}

	/** Never rejects: what does not work is tried again, from what is stored. */
	async #follow(): Promise<void> {
		const { signal } = this.#stop;
		const { clock } = this.#host;
		for (let delay = BACKOFF_MS.first; !signal.aborted; delay = Math.min(BACKOFF_MS.most, delay * 2)) {
			try {
				if (await this.#read(true, signal)) delay = BACKOFF_MS.first;
			} catch (error) {
				// It was removed: there is nothing left to read.
				if (statusOf(error) === 404) return;
			}
			await clock.sleep(delay, signal);
		}
	}

	/** Without a container there is nothing to wait for. */
	async #readLast(): Promise<void> {
		const { clock } = this.#host;
		const deadline = clock.now() + LAST_WAIT_MS;
		const { signal } = new AbortController();
		for (let delay = BACKOFF_MS.first; ; delay = Math.min(BACKOFF_MS.most, delay * 2)) {
			try {
				await this.#read(false, signal);
				return;
			} catch (error) {
				if (statusOf(error) === 404) return;
				if (!isAppError(error, "unavailable") || clock.now() >= deadline) throw error;
			}
			await clock.sleep(delay);
		}
	}

	/** Reads from what is stored on, to the end there is or for as long as there may come more. True where there was any. */
	async #read(live: boolean, signal: AbortSignal): Promise<boolean> {
		const stream = await this.#open(live, signal);
		const frames = new Frames();
		const readings = { stdout: newReading(live), stderr: newReading(live) };
		let any = false;
		try {
			for await (const chunk of stream)
				for (const { stream: name, time, bytes } of frames.push(chunk)) {
					this.#positions[name].push(readings[name], time, bytes);
					any = true;
				}
		} catch (error) {
			if (!signal.aborted) throw error;
		} finally {
			stream.destroy();
		}
		return any;
	}

	#open(live: boolean, signal: AbortSignal): Promise<Readable> {
		const [first, second] = STREAMS.map((name) => this.#positions[name].since);
		const since = first == null || second == null ? START_OF_TIME : secondsOf(first < second ? first : second);
		const options = { follow: live, stdout: true, stderr: true, timestamps: true, since, abortSignal: signal };
		return this.#host.daemon.stream((docker) => openLog(docker, this.#id, options));
	}
}

/** As `container.logs`, which holds all of the log in memory where it does not follow. */
function openLog(
	docker: Docker,
	id: string,
	options: Docker.ContainerLogsOptions & { readonly abortSignal: AbortSignal },
): Promise<NodeJS.ReadableStream> {
	const request = {
		path: `/containers/${id}/logs?`,
		method: "GET",
		isStream: true,
		statusCodes: { 200: true, 404: "no such container", 500: "server error" },
		abortSignal: options.abortSignal,
		options,
	};
	return new Promise((resolve, reject) => {
		docker.modem.dial(request, (error, stream) =>
			stream instanceof Readable ? resolve(stream) : reject(error ?? new Error("the engine sent no stream")),
		);
	});
}

/** The last line of its stderr, null where there is none. Of what is long, the end. */
export async function lastErrorLine(daemon: Daemon, id: string): Promise<string | null> {
	const options = { stdout: false, stderr: true, tail: 1, timestamps: true, abortSignal: AbortSignal.timeout(10_000) };
	const stream = await daemon.stream((docker) => openLog(docker, id, options));
	const frames = new Frames();
	let text = "";
	for await (const chunk of stream)
		for (const { bytes } of frames.push(chunk)) text = (text + bytes.toString("utf8")).slice(-LONGEST_LINE);
	return text === "" ? null : text.trimEnd();
}

/** What the engine takes as `since`: seconds since the epoch with nanoseconds. */
function secondsOf(time: string): string {
	const [second = "", fraction = ""] = time.replace(/Z$/, "").split(".");
	return `${Date.parse(`${second}Z`) / 1000}.${fraction.padEnd(9, "0")}`;
}
