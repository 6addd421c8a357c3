import type { FastifyRequest } from "fastify";
import type { Handlers } from "../contract/bind.ts";
import { AppError } from "../errors.ts";
import type { Follow } from "../manager/follow.ts";
import type { Queries } from "../manager/queries.ts";
import { namespaceOf } from "./caller.ts";
import { errorView } from "./service-view.ts";
import { type Entry, sendEntries } from "./stream.ts";

/** Logs, events and build logs: all that can be followed. */
export function streamHandlers(
	queries: Queries,
	follow: Follow,
	facts: { readonly down: AbortSignal; readonly heartbeatMs: number },
): Pick<Handlers, "getLogs" | "getEvents" | "getBuildLog"> {
	const { down } = facts;
	return {
		getLogs: async ({ request, reply, params, query, signal: gone }) => {
			const signal = AbortSignal.any([gone, down]);
			const service = await queries.get({ namespace: namespaceOf(request), ...params });
			const { tail, since, follow: following = false } = query;
			const after = afterOf(request, query.after);
			const items = follow.logs(
				service,
				{
					follow: following,
					...(tail === undefined ? {} : { tail }),
					...(since === undefined ? {} : { since }),
					...(after === undefined ? {} : { after }),
				},
				{ signal },
			);
			return sendEntries(
				request,
				reply,
				tagged(items, (item) => ("line" in item ? item.line : null)),
				{
					...{ ...facts, follow: following, signal },
				},
			);
		},
		getEvents: async ({ request, reply, params, query, signal: gone }) => {
			const signal = AbortSignal.any([gone, down]);
			const service = await queries.get({ namespace: namespaceOf(request), ...params });
			const { follow: following = false } = query;
			const after = afterOf(request, query.after) ?? 0;
			const items = follow.events(service, { after, follow: following }, { signal });
			const events = tagged(items, (item) => {
				if (!("event" in item)) return null;
				const { error, ...event } = item.event;
				return error === undefined ? event : { ...event, error: errorView(error) };
			});
			return sendEntries(request, reply, renamed(events, "line", "event"), { ...facts, follow: following, signal });
		},
		getBuildLog: async ({ request, reply, params, query, signal: gone }) => {
			const signal = AbortSignal.any([gone, down]);
			const service = await queries.get({ namespace: namespaceOf(request), ...params });
			const { follow: following = false, revision } = query;
			const after = afterOf(request, query.after) ?? 0;
			const items = await follow.buildLog(service, revision, { after, follow: following }, { signal });
			const lines = tagged(items, (item) => ("line" in item ? { ...item.line, revision: item.revision } : null));
			return sendEntries(request, reply, lines, { ...facts, follow: following, signal });
		},
	};
}

type Item = { readonly gap: { readonly from: number; readonly to: number } } | { readonly end: string } | object;

/** Gives each entry its `type`: what `line` finds in it, or a gap, or the end. */
async function* tagged<T extends Item>(
	items: AsyncIterable<T>,
	line: (item: T) => object | null,
): AsyncIterable<Entry> {
	for await (const item of items) {
		const found = line(item);
		if (found !== null) yield { type: "line", ...found };
		else if ("gap" in item && typeof item.gap === "object") yield { type: "gap", ...item.gap };
		else if ("end" in item) yield { type: "end", ...{ reason: item.end } };
	}
}

async function* renamed(entries: AsyncIterable<Entry>, from: string, to: string): AsyncIterable<Entry> {
	for await (const entry of entries) yield entry.type === from ? { ...entry, type: to } : entry;
}

/** Where to go on: the query's word, else what a browser sends when it reconnects. */
function afterOf(request: FastifyRequest, query: number | undefined): number | undefined {
	if (query !== undefined) return query;
	const header = request.headers["last-event-id"];
	if (header === undefined) return undefined;
	const after = Number(header);
	if (!Number.isSafeInteger(after))
		throw new AppError("invalid_argument", "Last-Event-ID must be the id of an entry", { field: "Last-Event-ID" });
	return after;
}
