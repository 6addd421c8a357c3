import { once } from "node:events";
import type { ServerResponse } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import { preferred } from "../contract/accept.ts";
import { AppError } from "../errors.ts";

/** One entry of a stream; `seq` is the id by which a client goes on. */
export type Entry = { readonly type: string; readonly seq?: number };

/**
 * Sends entries as NDJSON, or as server-sent events where the client prefers those. With `follow`, a heartbeat comes when
 * nothing else does; when the server goes down, an `end` says so.
 */
export async function sendEntries(
	request: FastifyRequest,
	reply: FastifyReply,
	entries: AsyncIterable<Entry>,
	options: {
		readonly follow: boolean;
		readonly signal: AbortSignal;
		readonly down: AbortSignal;
		readonly heartbeatMs: number;
	},
): Promise<undefined> {
	const type = preferred(request.headers.accept, ["application/x-ndjson", "text/event-stream"]);
	const encode = type === "text/event-stream" ? asEvent : asLine;
	reply.hijack();
	const { raw } = reply;
	raw.writeHead(200, {
		...plainHeaders(reply),
		"content-type": type === "text/event-stream" ? "text/event-stream" : "application/x-ndjson",
		"cache-control": "no-store",
		"x-accel-buffering": "no",
		// A stream ends with its connection: one kept alive would hold up a server that goes down.
		...(options.follow ? { connection: "close" } : {}),
	});
	raw.flushHeaders();
	const heart = options.follow
		? setInterval(
				() => raw.write(encode({ type: "heartbeat", ...{ time: new Date().toISOString() } })),
				options.heartbeatMs,
			)
		: undefined;
	try {
		for await (const entry of entries) {
			heart?.refresh();
			if (!raw.write(encode(entry))) await once(raw, "drain", { signal: options.signal });
		}
		if (options.follow && options.down.aborted) raw.write(encode({ type: "end", ...{ reason: "shutdown" } }));
		raw.end();
	} catch (error) {
		// Too late for a status: a cut connection tells the client that it has not seen the end.
		if (!options.signal.aborted) request.log.error({ err: error }, "a stream broke off");
		raw.destroy();
	} finally {
		clearInterval(heart);
	}
	return undefined;
}

/**
 * Sends a blob. A chunk is valid until the next is pulled, so each is awaited until the socket has taken it. A reader that
 * takes nothing for `pauseMs` is cut off; one that is slow is not.
 */
export async function sendBytes(
	request: FastifyRequest,
	reply: FastifyReply,
	status: number,
	headers: Readonly<Record<string, string>>,
	body: AsyncIterable<Uint8Array>,
	pauseMs?: number,
): Promise<undefined> {
	reply.hijack();
	const { raw } = reply;
	raw.writeHead(status, { ...plainHeaders(reply), ...headers });
	// The socket's own clock: it also sees a part of a chunk leave, and is set anew for the connection's next request.
	if (pauseMs !== undefined) raw.setTimeout(pauseMs, () => raw.destroy());
	try {
		for await (const chunk of body) await written(raw, chunk);
		raw.end();
	} catch (error) {
		if (!raw.destroyed) request.log.error({ err: error }, "a download broke off");
		raw.destroy();
	}
	return undefined;
}

/** Resolves when the socket has taken it. One that was destroyed a moment ago keeps it, and says nothing but that it closed. */
function written(raw: ServerResponse, chunk: Uint8Array): Promise<void> {
	return new Promise((resolve, reject) => {
		const closed = () => reject(new AppError("cancelled", "the client went away"));
		raw.once("close", closed);
		raw.write(chunk, (error) => {
			raw.off("close", closed);
			if (error) reject(error);
			else resolve();
		});
	});
}

function plainHeaders(reply: FastifyReply): Record<string, string> {
	return Object.fromEntries(
		Object.entries(reply.getHeaders()).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])),
	);
}

function asLine(entry: Entry): string {
	return `${JSON.stringify(entry)}\n`;
}

function asEvent(entry: Entry): string {
	const id = entry.seq === undefined ? "" : `id: ${entry.seq}\n`;
	return `${id}event: ${entry.type}\ndata: ${JSON.stringify(entry)}\n\n`;
}
