import type { MultipartFile } from "@fastify/multipart";
import type { FastifyRequest } from "fastify";
import type { Handler, Input } from "../contract/bind.ts";
import { AppError, isAppError, unlessAborted } from "../errors.ts";
import type { Manager } from "../manager/manager.ts";
import { namespaceOf } from "./caller.ts";
import { youngCollector } from "./young-garbage.ts";

export type UploadLimits = {
	/** Uploads at the same time. */
	readonly parallel: number;
	/** Milliseconds that may pass without a byte. */
	readonly pauseMs: number;
};

/** `POST /sources`: one multipart file, streamed to the store. */
export function uploadSource(
	manager: Manager,
	limits: UploadLimits & { readonly maxBytes: number },
): Handler<"uploadSource"> {
	let underWay = 0;
	return async (input) => {
		if (underWay >= limits.parallel)
			throw new AppError("exhausted", `${limits.parallel} uploads are under way`, { hint: "Try again in a moment." });
		underWay++;
		try {
			return await upload(manager, limits, input);
		} finally {
			underWay--;
		}
	};
}

async function upload(
	manager: Manager,
	limits: { readonly maxBytes: number; readonly pauseMs: number },
	{ request, signal: gone }: Pick<Input<"uploadSource">, "request" | "signal">,
) {
	const stalled = new AbortController();
	const timer = setTimeout(
		() => stalled.abort(new AppError("deadline", "the upload paused for too long")),
		limits.pauseMs,
	);
	const arrived = () => timer.refresh();
	const signal = AbortSignal.any([gone, stalled.signal]);
	try {
		const namespace = namespaceOf(request);
		const sha256 = expectedDigest(request.headers["repr-digest"]);
		const parts = request.parts();
		const file = await unlessAborted(firstFile(parts), signal);
		const archive = wholeArchive(file, parts, limits.maxBytes, arrived);
		const options = { signal, maxBytes: limits.maxBytes, ...(sha256 === undefined ? {} : { sha256 }) };
		const source = await manager.upload(namespace, archive, options);
		const body = { source: `source://${source.id}`, digest: `sha256:${source.sha256}`, size: source.size };
		return { status: 201 as const, body };
	} catch (error) {
		if (isAppError(error) && error.field === "sha256")
			throw new AppError("invalid_argument", "the archive does not have this digest", {
				cause: error,
				field: "Repr-Digest",
			});
		throw error;
	} finally {
		clearTimeout(timer);
	}
}

/** Received chunks are garbage at once, but count too little for the collector to look after them in time. */
const COLLECT_EVERY = 4 * 1024 * 1024;

type Parts = ReturnType<FastifyRequest["parts"]>;

/** Skips fields (they come first) to the file. */
async function firstFile(parts: Parts): Promise<MultipartFile> {
	const next = await nextPart(parts);
	if (next === undefined)
		throw new AppError("invalid_argument", "the form has no file named archive", {
			field: "archive",
			hint: "curl -F archive=@source.tar.gz sends one.",
		});
	if (next.type === "field") return firstFile(parts);
	if (next.fieldname !== "archive")
		throw new AppError("invalid_argument", `the file must be named archive, not ${next.fieldname}`, {
			field: "archive",
		});
	return next;
}

/**
 * The file's bytes. Ends well only when the whole form has arrived: a file over its limit ends like any other and a form
 * that broke off looks like a short file, so both are made errors here, before the store makes the blob visible.
 */
async function* wholeArchive(
	file: MultipartFile,
	parts: Parts,
	maxBytes: number,
	arrived: () => void,
): AsyncIterable<Uint8Array> {
	let collectYoung: (() => void) | undefined;
	let uncollected = 0;
	let head = Buffer.alloc(0);
	try {
		for await (const chunk of file.file) {
			arrived();
			if (head.length < 2) {
				head = Buffer.concat([head, chunk.subarray(0, 2)]);
				if (head.length >= 2) checkMagic(head);
			}
			yield chunk;
			uncollected += chunk.length;
			if (uncollected < COLLECT_EVERY) continue;
			uncollected = 0;
			collectYoung ??= youngCollector();
			collectYoung();
		}
	} catch (error) {
		throw error instanceof AppError ? error : brokenOff(error);
	}
	if (file.file.truncated)
		throw new AppError("too_large", `the archive is larger than ${maxBytes} bytes`, { field: "archive" });
	checkMagic(head);
	if ((await nextPart(parts)) !== undefined)
		throw new AppError("invalid_argument", "nothing may follow the archive in the form", { field: "archive" });
}

async function nextPart(parts: Parts) {
	try {
		const next = await parts.next();
		return next.done === true ? undefined : next.value;
	} catch (error) {
		throw brokenOff(error);
	}
}

function checkMagic(head: Buffer): void {
	if (head[0] !== 0x1f || head[1] !== 0x8b)
		throw new AppError("invalid_argument", "the archive is not gzip-compressed", {
			field: "archive",
			hint: "Make it with tar -czf.",
		});
}

function brokenOff(cause: unknown): AppError {
	return new AppError("invalid_argument", "the form is malformed or broke off", { cause, field: "archive" });
}

function expectedDigest(header: string | string[] | undefined): string | undefined {
	if (header === undefined) return undefined;
	const value = Array.isArray(header) ? header.join(",") : header;
	const digest = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?:,|$)/.exec(value)?.[1];
	if (digest === undefined)
		throw new AppError("invalid_argument", "Repr-Digest must hold sha-256=:BASE64:", { field: "Repr-Digest" });
	return Buffer.from(digest, "base64").toString("hex");
}
