import type { IncomingMessage } from "node:http";

/** Raw headers as node gives them: name, value, name, value … with case, order and duplicates kept. */
type RawHeaders = readonly string[];

/** RFC 9110, 7.6.1: these belong to one connection. `TE` is dealt with apart, `Trailer` is end to end. */
const HOP_BY_HOP = new Set(["connection", "keep-alive", "proxy-connection", "upgrade", "te", "transfer-encoding"]);

/** The header names that `Connection` declares to be of this connection only, in lower case. */
function namedByConnection(raw: RawHeaders): Set<string> | undefined {
	let named: Set<string> | undefined;
	for (let i = 0; i + 1 < raw.length; i += 2) {
		if (raw[i]?.toLowerCase() !== "connection") continue;
		for (const token of (raw[i + 1] ?? "").split(",")) {
			const name = token.trim().toLowerCase();
			if (name === "" || name === "close" || name === "keep-alive") continue;
			named ??= new Set();
			named.add(name);
		}
	}
	return named;
}

type EndToEnd = {
	readonly headers: string[];
	/** The body is chunked (and `Transfer-Encoding` is among the headers). */
	readonly chunked: boolean;
	readonly length: string | undefined;
};

/**
 * What may pass to the next hop. `Transfer-Encoding` stays as it came where the next hop can have it (our framing is then
 * the same), and `Trailer` only with it. `drop` names further headers to leave out, in lower case.
 */
function endToEnd(raw: RawHeaders, mayChunk: boolean, drop?: ReadonlySet<string>): EndToEnd {
	const named = namedByConnection(raw);
	const headers: string[] = [];
	let chunked = false;
	let length: string | undefined;
	let trailer: string[] | undefined;
	for (let i = 0; i + 1 < raw.length; i += 2) {
		const name = raw[i] ?? "";
		const value = raw[i + 1] ?? "";
		const lower = name.toLowerCase();
		if (lower === "transfer-encoding") {
			if (!mayChunk || !/(?:^|,)\s*chunked\s*$/i.test(value)) continue;
			chunked = true;
		} else if (lower === "te") {
			if (!/(?:^|,)\s*trailers\s*(?:,|$)/i.test(value)) continue;
			headers.push(name, "trailers");
			continue;
		} else if (lower === "trailer") {
			trailer ??= [];
			trailer.push(name, value);
			continue;
		} else if (HOP_BY_HOP.has(lower) || named?.has(lower) === true || drop?.has(lower) === true) {
			continue;
		} else if (lower === "content-length") {
			length = value;
		}
		headers.push(name, value);
	}
	if (chunked && trailer !== undefined) headers.push(...trailer);
	return { headers, chunked, length };
}

export type RequestHead = { readonly headers: string[]; readonly hasBody: boolean };

/**
 * The headers for the upstream, with `X-Forwarded-For` extended and `-Proto` and `-Host` set where nobody before us has.
 * `upgrade` keeps the wish for another protocol.
 */
export function requestHead(req: IncomingMessage, upgrade = false): RequestHead {
	const { headers, chunked, length } = endToEnd(req.rawHeaders, true);
	const address = (req.socket.remoteAddress ?? "").replace(/^::ffff:/, "");
	let host: string | undefined;
	let forwardedFor = -1;
	let proto = false;
	let forwardedHost = false;
	for (let i = 0; i + 1 < headers.length; i += 2) {
		const lower = headers[i]?.toLowerCase();
		if (lower === "host") host = headers[i + 1];
		else if (lower === "x-forwarded-for") forwardedFor = i;
		else if (lower === "x-forwarded-proto") proto = true;
		else if (lower === "x-forwarded-host") forwardedHost = true;
	}
	if (forwardedFor >= 0) headers[forwardedFor + 1] = `${headers[forwardedFor + 1]}, ${address}`;
	else headers.push("X-Forwarded-For", address);
	if (!proto) headers.push("X-Forwarded-Proto", "http");
	if (host === undefined) headers.push("Host", "");
	else if (!forwardedHost) headers.push("X-Forwarded-Host", host);
	if (upgrade) headers.push("Connection", "Upgrade", "Upgrade", req.headers.upgrade ?? "");
	// Without either, a request has no body (RFC 9112, 6.3), but node would frame one for some methods.
	else if (!chunked && length === undefined && !BODYLESS.has(req.method ?? "")) headers.push("Content-Length", "0");
	return { headers, hasBody: chunked || (length !== undefined && Number(length) > 0) };
}

const BODYLESS = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"]);

/** The headers for the client. A client of HTTP/1.0 gets no chunks. */
export function responseHeaders(raw: RawHeaders, mayChunk: boolean): string[] {
	return endToEnd(raw, mayChunk).headers;
}

/** Raw trailers as the pairs that node's `addTrailers` takes. */
export function trailerPairs(raw: RawHeaders): [string, string][] {
	const pairs: [string, string][] = [];
	for (let i = 0; i + 1 < raw.length; i += 2) pairs.push([raw[i] ?? "", raw[i + 1] ?? ""]);
	return pairs;
}

/** A head in the form of the wire, for what goes past node's own writer. `line` is the first line. */
export function wireHead(line: string, raw: RawHeaders): Buffer {
	let text = `${line}\r\n`;
	for (let i = 0; i + 1 < raw.length; i += 2) text += `${raw[i]}: ${raw[i + 1]}\r\n`;
	return Buffer.from(`${text}\r\n`, "latin1");
}

/** The request's own head again, without its wish to upgrade, so that it can be served as a plain request. */
export function withoutUpgrade(req: IncomingMessage): Buffer {
	const kept: string[] = [];
	for (let i = 0; i + 1 < req.rawHeaders.length; i += 2) {
		const name = req.rawHeaders[i] ?? "";
		let value = req.rawHeaders[i + 1] ?? "";
		if (name.toLowerCase() === "upgrade") continue;
		if (name.toLowerCase() === "connection") {
			const tokens = value.split(",").map((token) => token.trim());
			value = tokens.filter((token) => token.toLowerCase() !== "upgrade").join(", ");
			if (value === "") continue;
		}
		kept.push(name, value);
	}
	return wireHead(`${req.method} ${req.url} HTTP/${req.httpVersion}`, kept);
}
