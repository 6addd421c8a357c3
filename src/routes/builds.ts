import type { FastifyReply, FastifyRequest } from "fastify";
import type { ByteRange, Call } from "../blob/store.ts";
import type { Handlers } from "../contract/bind.ts";
import { AppError } from "../errors.ts";
import type { Build, Queries } from "../manager/queries.ts";
import { namespaceOf } from "./caller.ts";
import { sendBytes } from "./stream.ts";

/** `GET /builds/{name}/{version}`. `pauseMs` as for `sendBuild`. */
export function buildHandlers(queries: Queries, pauseMs: number): Pick<Handlers, "getBuild"> {
	return {
		getBuild: async ({ request, reply, params, query, signal }) => {
			const build = await queries.build({ namespace: namespaceOf(request), ...params }, query.revision);
			return sendBuild(request, reply, build, { signal, pauseMs });
		},
	};
}

/** Sends the file, with conditional and range requests (RFC 9110). A reader that takes nothing for `pauseMs` is cut off. */
export async function sendBuild(
	request: FastifyRequest,
	reply: FastifyReply,
	build: Build,
	{ signal, pauseMs }: Call & { readonly pauseMs?: number },
): Promise<undefined> {
	const etag = `"sha256:${build.sha256}"`;
	const headers: Record<string, string> = {
		etag,
		"repr-digest": `sha-256=:${Buffer.from(build.sha256, "hex").toString("base64")}:`,
		"accept-ranges": "bytes",
		"cache-control": "private, no-cache",
	};
	if (matchesAny(request.headers["if-none-match"], etag)) {
		reply.code(304).headers(headers).send();
		return undefined;
	}
	headers["content-type"] = "application/octet-stream";
	const ifRange = request.headers["if-range"];
	const range = ifRange !== undefined && ifRange !== etag ? undefined : rangeOf(request.headers.range, build.size);
	if (range === "unsatisfiable") {
		reply.header("content-range", `bytes */${build.size}`);
		throw new AppError("range", `the file has ${build.size} bytes`, { field: "Range" });
	}
	const length = range === undefined ? build.size : range.end - range.start + 1;
	headers["content-length"] = String(length);
	if (range !== undefined) headers["content-range"] = `bytes ${range.start}-${range.end}/${build.size}`;
	const status = range === undefined ? 200 : 206;
	if (request.method === "HEAD") {
		reply.hijack();
		reply.raw.writeHead(status, headers).end();
		return undefined;
	}
	const body = await build.open({ signal, ...(range === undefined ? {} : { range }) });
	return sendBytes(request, reply, status, headers, body, pauseMs);
}

function matchesAny(header: string | undefined, etag: string): boolean {
	return header?.split(",").some((tag) => tag.trim() === "*" || tag.trim().replace(/^W\//, "") === etag) ?? false;
}

/** One range, or none: several ranges and other units are ignored, as RFC 9110 allows. */
function rangeOf(header: string | undefined, size: number): ByteRange | "unsatisfiable" | undefined {
	const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "");
	if (match === null) return undefined;
	const [, first = "", last = ""] = match;
	if (first === "" && last === "") return undefined;
	const start = first === "" ? Math.max(0, size - Number(last)) : Number(first);
	const end = first === "" || last === "" ? size - 1 : Math.min(Number(last), size - 1);
	if (first !== "" && last !== "" && Number(last) < Number(first)) return undefined;
	if (start >= size || (first === "" && Number(last) === 0)) return "unsatisfiable";
	return { start, end };
}
