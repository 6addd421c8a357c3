import { createHash, randomBytes } from "node:crypto";
import type { ClientRequest, IncomingMessage } from "node:http";
import { type Api, textOf } from "./api.ts";
import { CliError, EXIT, isCliError } from "./errors.ts";
import { size as sizeWords } from "./format.ts";
import { reasonOf } from "./reasons.ts";
import { type Source, toSource } from "./shapes.ts";
import { writeArchive } from "./source/archive.ts";
import type { SourceFiles } from "./source/files.ts";

export type UploadOptions = {
	readonly signal: AbortSignal;
	/** From the session; the sending stops there by itself. */
	readonly maxBytes: number | undefined;
	readonly onProgress: (readBytes: number) => void;
};

const ANSWER_LIMIT = 120_000;

/**
 * Streams the archive of `source` as multipart, with back-pressure. An answer that comes early (too large, not signed in)
 * ends the sending and is what rejects; when anything fails the request is broken off, and the server keeps nothing.
 */
export async function upload(api: Api, source: SourceFiles, options: UploadOptions): Promise<Source> {
	const boundary = `runtime-${randomBytes(16).toString("hex")}`;
	const request = api.start("POST", "/sources", {
		accept: "application/json",
		"content-type": `multipart/form-data; boundary=${boundary}`,
	});
	const stop = new AbortController();
	const signal = AbortSignal.any([options.signal, stop.signal]);
	const sending = new Sending(request);
	// An early answer ends the sending; so does the end of the connection.
	const answered = sending.answer.finally(() => stop.abort(new EarlyEnd()));
	answered.catch(() => undefined);
	const hash = createHash("sha256");
	let sent = 0;
	const sink = async (piece: Buffer) => {
		sent += piece.length;
		if (options.maxBytes !== undefined && sent > options.maxBytes) throw tooLarge(options.maxBytes);
		hash.update(piece);
		await sending.write(piece, signal);
	};
	try {
		const head = `--${boundary}\r\ncontent-disposition: form-data; name="archive"; filename="source.tar.gz"\r\ncontent-type: application/gzip\r\n\r\n`;
		await sending.write(Buffer.from(head), signal);
		await writeArchive(source.files, sink, { signal, onRead: options.onProgress });
		request.end(`\r\n--${boundary}--\r\n`);
	} catch (error) {
		if (!(error instanceof EarlyEnd) && !(stop.signal.reason instanceof EarlyEnd)) {
			request.destroy();
			throw options.signal.aborted ? options.signal.reason : error;
		}
	}
	try {
		const limit = AbortSignal.any([options.signal, AbortSignal.timeout(ANSWER_LIMIT)]);
		const response = await Promise.race([answered, rejection(limit)]);
		const text = await textOf(response, limit);
		const status = response.statusCode ?? 0;
		if (status < 200 || status > 299) throw api.refusal(response, text);
		const stored = toSource(JSON.parse(text));
		const digest = `sha256:${hash.digest("hex")}`;
		if (stored.digest !== digest) {
			throw new CliError("The server stored other bytes than were sent; nothing was created", {
				code: "digest_mismatch",
				lines: ["Try again"],
			});
		}
		return stored;
	} catch (error) {
		if (options.signal.aborted) throw options.signal.reason;
		if (isCliError(error)) throw error;
		throw new CliError(`Lost ${api.connection.label} while uploading (after ${sizeWords(sent)}): ${reasonOf(error)}`, {
			exit: EXIT.unreachable,
			code: "connection_lost",
			lines: ["Nothing was created; try again"],
			cause: error,
		});
	} finally {
		request.destroy();
	}
}

class EarlyEnd extends Error {}

class Sending {
	readonly answer: Promise<IncomingMessage>;
	readonly #request: ClientRequest;

	constructor(request: ClientRequest) {
		this.#request = request;
		this.answer = new Promise((resolve, reject) => {
			request.once("response", resolve);
			request.on("error", reject);
		});
	}

	/** Resolves when the next piece is welcome. The turn of the event loop lets an early answer be read before a write fails. */
	async write(piece: Buffer, signal: AbortSignal): Promise<void> {
		await new Promise((resolve) => setImmediate(resolve));
		signal.throwIfAborted();
		if (this.#request.write(piece)) return;
		await new Promise<void>((resolve, reject) => {
			const request = this.#request;
			const done = (finish: () => void) => {
				request.off("drain", drained).off("close", closed);
				signal.removeEventListener("abort", aborted);
				finish();
			};
			const drained = () => done(resolve);
			const closed = () => done(() => reject(new EarlyEnd()));
			const aborted = () => done(() => reject(signal.reason));
			request.once("drain", drained).once("close", closed);
			signal.addEventListener("abort", aborted, { once: true });
		});
	}
}

function tooLarge(limit: number): CliError {
	return new CliError(`The archive is larger than the ${sizeWords(limit)} that the server takes; nothing was created`, {
		code: "too_large",
		lines: ["Try:  list what is not needed in .runtimeignore", "See:  runtime run --dry-run"],
	});
}

function rejection(signal: AbortSignal): Promise<never> {
	return new Promise((_, reject) => {
		if (signal.aborted) reject(signal.reason);
		signal.addEventListener("abort", () => reject(signal.reason), { once: true });
	});
}
