import { METHODS } from "node:http";

/**
 * What a client's first bytes are: an HTTP/1.x request, something else, or too little to tell. `method` says that at least
 * a whole method was read, so that waiting for the rest of the line is right.
 */
export type Guess = "http" | "other" | "method" | "unknown";

const LF = 0x0a;
const CR = 0x0d;
const LONGEST_METHOD = Math.max(...METHODS.map((method) => method.length));
const REQUEST_LINE = /^[A-Z-]+ \S+ HTTP\/1\.[0-9]\r?$/;
/** A request line that is longer is left to the HTTP parser, which refuses it with 431 or 414. */
const LONGEST_LINE = 64 * 1024;

/** Looks only at the first line, and takes only methods that node can parse for HTTP: all else passes as TCP. */
export function guessProtocol(bytes: Buffer): Guess {
	let start = 0;
	while (start < bytes.length && (bytes[start] === CR || bytes[start] === LF)) start++;
	if (start === bytes.length) return start > 8 ? "other" : "unknown";
	const head = bytes.toString("latin1", start, start + LONGEST_METHOD + 1);
	const space = head.indexOf(" ");
	if (space < 0) return METHODS.some((method) => method.startsWith(head)) ? "unknown" : "other";
	if (!METHODS.includes(head.slice(0, space))) return "other";
	const end = bytes.indexOf(LF, start);
	if (end < 0) return bytes.length - start > LONGEST_LINE ? "http" : "method";
	return REQUEST_LINE.test(bytes.toString("latin1", start, end)) ? "http" : "other";
}

/** True for bytes with which an HTTP/1.x server starts an answer. A server that gives one unasked has timed the silence out. */
export function looksLikeResponse(bytes: Buffer): boolean {
	return bytes.toString("latin1", 0, 7) === "HTTP/1.";
}
