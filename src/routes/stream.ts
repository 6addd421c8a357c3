import { once } from "node:events";
import type { FastifyReply, FastifyRequest } from "fastify";
import { preferred } from "../contract/accept.ts";

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

/** Sends a blob. A chunk is valid until the next is pulled, so each is awaited until the socket has taken it. */
export async function sendBytes(
	request: FastifyRequest,
	reply: FastifyReply,
	status: number,
	headers: Readonly<Record<string, string>>,
	body: AsyncIterable<Uint8Array>,
): Promise<undefined> {
	reply.hijack();
	const { raw } = reply;
	raw.writeHead(status, { ...plainHeaders(reply), ...headers });
	try {
		for await (const chunk of body)
			await new Promise<void>((resolve, reject) => {
				raw.write(chunk, (error) => (error ? reject(error) : resolve()));
			});
		raw.end();
	} catch (error) {
		if (!raw.destroyed) request.log.error({ err: error }, "a download broke off");
		raw.destroy();
	}
	return undefined;
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
