import { setTimeout as sleep } from "node:timers/promises";
import { type Api, buildPath, servicePath } from "./api.ts";
import { CliError, EXIT, isCliError } from "./errors.ts";
import { serviceWords } from "./format.ts";
import type { Revision, Service, Status } from "./shapes.ts";
import { isTransient, resume } from "./stream.ts";

/** One revision of one service: `id` tells a namesake that was made after a removal. */
export type Watched = {
	readonly id: string;
	readonly name: string;
	readonly version: string;
	readonly revision: number;
};

/** Hears of everything in order; each call is awaited. */
export interface FollowView {
	moved(to: Status, time: string): Promise<void> | void;
	line(text: string): void;
	lost(): void;
	back(ms: number): void;
}

/** What became of a revision. `gone`: the service was removed. */
export type Verdict = {
	readonly status: Status | "gone";
	readonly service: Service | undefined;
	readonly revision: Revision | undefined;
};

export type FollowOptions = {
	readonly signal: AbortSignal;
	/** Milliseconds for which the server may be away. */
	readonly patience: number;
};

const POLL = 3000;
/** How long the rest of a build's log may take once the build is over. */
const LOG_REST = 2000;

const FINAL: ReadonlySet<string> = new Set(["Running", "Stopped", "Error", "gone"]);

export function isFinal(status: string): boolean {
	return FINAL.has(status);
}

/**
 * Waits until the revision is Running, Stopped, Error or gone, whatever happens to the connection: the events tell of it
 * at once, a poll beside them makes sure, and the answer is always read from the service itself.
 */
export async function follow(api: Api, watched: Watched, view: FollowView, options: FollowOptions): Promise<Verdict> {
	const stop = new AbortController();
	const inner = { ...options, signal: AbortSignal.any([options.signal, stop.signal]) };
	const log = new BuildLog(api, watched, view, inner);
	try {
		return await Promise.race([byEvents(api, watched, view, log, inner), byPolling(api, watched, log, inner)]);
	} finally {
		stop.abort();
		options.signal.throwIfAborted();
	}
}

async function byEvents(
	api: Api,
	watched: Watched,
	view: FollowView,
	log: BuildLog,
	options: FollowOptions,
): Promise<Verdict> {
	const path = servicePath(watched.name, watched.version, "/events");
	try {
		for await (const item of resume(api, path, { ...options, query: {}, follow: true })) {
			if (item.type === "lost") view.lost();
			else if (item.type === "back") view.back(item.after);
			else if (item.type === "end") break;
			else if (item.type === "event" && item.revision === watched.revision) {
				if (item.to === "Building") log.start();
				else await log.finish();
				if (!isFinal(item.to)) await view.moved(item.to, item.time);
				else return await settled(api, watched, log, options);
			}
		}
	} catch (error) {
		if (options.signal.aborted || !isCliError(error, "not_found")) throw lostFor(api, error, watched, options);
	}
	return await settled(api, watched, log, options);
}

function lostFor(api: Api, error: unknown, watched: Watched, options: FollowOptions): unknown {
	if (options.signal.aborted || !isTransient(error)) return error;
	return new CliError(`${error.message}; revision ${watched.revision} goes on without us`, {
		exit: EXIT.unreachable,
		code: "connection_lost",
		lines: [`Follow:  runtime wait ${serviceWords(watched.name, watched.version)}${api.connection.flags}`],
		cause: error,
	});
}

async function byPolling(api: Api, watched: Watched, log: BuildLog, options: FollowOptions): Promise<Verdict> {
	for (;;) {
		await sleep(POLL, undefined, { signal: options.signal });
		const verdict = await readVerdict(api, watched, options.signal).catch((error: unknown) => {
			if (isTransient(error)) return undefined;
			throw error;
		});
		if (verdict === undefined || !isFinal(verdict.status)) continue;
		await log.finish();
		return verdict;
	}
}

/** Reads until the answer is final: an event may be seen a moment before the record. */
async function settled(api: Api, watched: Watched, log: BuildLog, options: FollowOptions): Promise<Verdict> {
	let awaySince: number | undefined;
	for (;;) {
		try {
			const verdict = await readVerdict(api, watched, options.signal);
			awaySince = undefined;
			if (isFinal(verdict.status)) {
				if (verdict.revision?.error?.phase === "build") log.start();
				await log.finish();
				return verdict;
			}
		} catch (error) {
			awaySince ??= Date.now();
			if (options.signal.aborted || !isTransient(error) || Date.now() - awaySince > options.patience)
				throw lostFor(api, error, watched, options);
		}
		await sleep(100, undefined, { signal: options.signal });
	}
}

/** What the service says now about the revision. */
export async function readVerdict(api: Api, watched: Watched, signal: AbortSignal): Promise<Verdict> {
	const { name, version } = watched;
	try {
		const [service, revision] = await Promise.all([
			api.service(name, version, signal),
			api.revision(name, version, watched.revision, signal),
		]);
		if (service.id !== watched.id) return { status: "gone", service: undefined, revision: undefined };
		const now = service.target?.revision === watched.revision ? service.target.status : service.status;
		return { status: revision?.status ?? (service.revision > watched.revision ? "Stopped" : now), service, revision };
	} catch (error) {
		if (isCliError(error, "not_found")) return { status: "gone", service: undefined, revision: undefined };
		throw error;
	}
}

/** The build's log, read beside the events from when the build begins. */
class BuildLog {
	readonly #api: Api;
	readonly #watched: Watched;
	readonly #view: FollowView;
	readonly #options: FollowOptions;
	#reading: Promise<void> | undefined;

	constructor(api: Api, watched: Watched, view: FollowView, options: FollowOptions) {
		this.#api = api;
		this.#watched = watched;
		this.#view = view;
		this.#options = options;
	}

	start(): void {
		this.#reading ??= this.#read();
	}

	/** Waits for the log's end, but not long: a log is worth less than a verdict. */
	async finish(): Promise<void> {
		if (this.#reading === undefined) return;
		const limit = new AbortController();
		const signal = AbortSignal.any([limit.signal, this.#options.signal]);
		await Promise.race([this.#reading, sleep(LOG_REST, undefined, { signal }).catch(() => undefined)]);
		limit.abort();
	}

	async #read(): Promise<void> {
		const { name, version, revision } = this.#watched;
		const options = { ...this.#options, query: { revision }, follow: true, retryMissing: true };
		try {
			for await (const item of resume(this.#api, buildPath(name, version, "/log"), options)) {
				if (item.type === "line") this.#view.line(item.text);
				else if (item.type === "gap") this.#view.line(`(lines ${item.from} to ${item.to} are no longer kept)`);
			}
		} catch (error) {
			// The events decide; without a log the screen says less, and says so.
			if (!this.#options.signal.aborted)
				this.#view.line(`(the build log cannot be read: ${error instanceof Error ? error.message : "?"})`);
		}
	}
}
