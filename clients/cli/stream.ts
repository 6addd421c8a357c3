import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { Api, Query } from "./api.ts";
import { CliError, isCliError } from "./errors.ts";
import { isStreamItem, type StreamItem } from "./shapes.ts";

/** What a stream says besides its items: the connection broke, and (later) it is back after so many milliseconds. */
export type Interruption = { readonly type: "lost" } | { readonly type: "back"; readonly after: number };

export type ResumeOptions = {
	readonly query: Query;
	readonly signal: AbortSignal;
	/** Go on for ever until `end`; otherwise the body's end is the end. */
	readonly follow: boolean;
	/** Give up when the server has not been back for so many milliseconds. */
	readonly patience: number;
	/** Not there yet counts as a break: the log of a build that is about to begin. */
	readonly retryMissing?: boolean;
};

const LONGEST_LINE = 16 * 1024 * 1024;
/** Three missed heartbeats. */
const SILENCE = 50_000;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2000;

/** True for what another attempt may mend: no connection, or a server that is going up or down. */
export function isTransient(error: unknown): error is CliError {
	return isCliError(error, "unreachable", "unavailable", "exhausted", "deadline");
}

/**
 * The items of an NDJSON stream, across lost connections: each `seq` once, in order. Ends at the stream's `end` (which is
 * yielded) or when `signal` is aborted; heartbeats are not shown. Rejects when the server refuses, or stays away too long.
 */
export async function* resume(
	api: Api,
	path: string,
	options: ResumeOptions,
): AsyncGenerator<StreamItem | Interruption> {
	const { signal } = options;
	let after: number | undefined;
	let lostAt: number | undefined;
	let pause = FIRST_PAUSE;
	for (;;) {
		if (signal.aborted) return;
		let failure: unknown;
		try {
			const query =
				after === undefined ? options.query : { ...options.query, after, tail: undefined, since: undefined };
			const response = await api.open(
				path,
				"application/x-ndjson",
				{ ...query, follow: options.follow || undefined },
				signal,
			);
			if (lostAt !== undefined) {
				yield { type: "back", after: Date.now() - lostAt };
				lostAt = undefined;
			}
			for await (const item of items(response)) {
				pause = FIRST_PAUSE;
				if (item.type === "heartbeat") continue;
				if (item.type === "end" && item.reason === "shutdown") break;
				if ("seq" in item) {
					if (after !== undefined && item.seq <= after) continue;
					after = item.seq;
				}
				yield item;
				if (item.type === "end") return;
			}
			if (!options.follow && response.complete) return;
		} catch (error) {
			failure = error;
		}
		if (signal.aborted) return;
		const missing = options.retryMissing === true && isCliError(failure, "not_found");
		if (isCliError(failure) && !isTransient(failure) && !missing) throw failure;
		if (lostAt === undefined) {
			lostAt = Date.now();
			if (!missing) yield { type: "lost" };
		}
		if (Date.now() - lostAt > options.patience)
			throw failure ?? api.unreachable(new Error("the connection was closed"));
		await sleep(pause, undefined, { signal }).catch(() => undefined);
		pause = Math.min(pause * 2, LONGEST_PAUSE);
	}
}

async function* items(response: IncomingMessage): AsyncGenerator<StreamItem> {
	let rest = "";
	response.setTimeout(SILENCE, () => response.destroy(new Error("the connection fell silent")));
	response.setEncoding("utf8");
	for await (const part of response) {
		rest += String(part);
		let from = 0;
		for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n", from)) {
			const item = decode(rest.slice(from, end));
			from = end + 1;
			if (item !== undefined) yield item;
		}
		rest = rest.slice(from);
		if (rest.length > LONGEST_LINE) throw new Error("a line of the stream is too long");
	}
}

/** Whole lines only: one that was cut off is asked for again, since its `seq` was not seen. */
function decode(line: string): StreamItem | undefined {
	if (line.trim() === "") return undefined;
	try {
		const item: unknown = JSON.parse(line);
		return isStreamItem(item) ? item : undefined;
	} catch (cause) {
		throw new CliError("The server's stream holds a line that is not JSON", { code: "bad_answer", cause });
	}
}
