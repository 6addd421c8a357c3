import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import {
	AbortMultipartUploadCommand,
	DeleteObjectCommand,
	GetObjectCommand,
	HeadObjectCommand,
	ListMultipartUploadsCommand,
	ListObjectsV2Command,
	PutObjectCommand,
	S3Client,
} from "@aws-sdk/client-s3";
import { AppError, cancelled, unlessAborted } from "../../errors.ts";
import type { Call } from "../store.ts";
import { failureOf } from "./failures.ts";
import type { Settled } from "./options.ts";

export type Conditions = { readonly ifNoneMatch?: "*"; readonly ifMatch?: string };
export type StoredObject = { readonly name: string; readonly modified: Date };
export type OpenUpload = { readonly name: string; readonly id: string; readonly initiated: Date };
export type Content = {
	readonly body: Readable;
	/** Bytes of the whole object; undefined where the endpoint does not say it. */
	readonly total: number | undefined;
	/** Bytes of `body`. */
	readonly length: number | undefined;
};

/** Small objects are index entries and probes: an answer that is larger is something else. */
const MAX_SMALL = 16 * 1024;

/**
 * One bucket at one endpoint: requests with their limits, and errors with a code (`failureOf`): `not_found`, `precondition_failed`,
 * `conflict`, `range`, `no_space`, `cancelled`, otherwise `unavailable`. Names are those in the bucket, the prefix included.
 */
export class Bucket {
	readonly settings: Settled;
	readonly client: S3Client;
	readonly name: string;
	#clock: { readonly date: number; readonly at: number } | undefined;

	constructor(settings: Settled) {
		this.settings = settings;
		this.name = settings.bucket;
		const { region, endpoint, credentials, forcePathStyle, maxSockets } = settings;
		const quiet = () => undefined;
		this.client = new S3Client({
			...{ region, forcePathStyle, maxAttempts: settings.attempts },
			...(endpoint === undefined ? {} : { endpoint }),
			...(credentials === undefined ? {} : { credentials: { ...credentials } }),
			requestChecksumCalculation: settings.checksums === "when_required" ? "WHEN_REQUIRED" : "WHEN_SUPPORTED",
			// Whoever reads bytes has their SHA-256.
			responseChecksumValidation: "WHEN_REQUIRED",
			logger: { trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet },
			requestHandler: {
				connectionTimeout: settings.connectTimeout,
				socketTimeout: settings.idleTimeout,
				requestTimeout: settings.requestTimeout,
				throwOnRequestTimeout: true,
				httpAgent: { maxSockets },
				httpsAgent: { maxSockets },
			},
		});
		this.client.middlewareStack.add(
			(next) => async (args) => {
				const result = await next(args);
				this.#readClock(result.response);
				return result;
			},
			{ step: "deserialize", name: "endpointClock", priority: "low" },
		);
	}

	/** What the endpoint's clock says, in milliseconds since 1970; undefined if no answer told it. */
	time(): number | undefined {
		return this.#clock === undefined ? undefined : this.#clock.date + performance.now() - this.#clock.at;
	}

	close(): void {
		this.client.destroy();
	}

	/** → its ETag. */
	async put(name: string, content: string, call: Call, conditions: Conditions = {}): Promise<string> {
		const { ifNoneMatch, ifMatch } = conditions;
		const command = new PutObjectCommand({
			...{ Bucket: this.name, Key: name, Body: content, ContentType: "application/json" },
			...(ifNoneMatch === undefined ? {} : { IfNoneMatch: ifNoneMatch }),
			...(ifMatch === undefined ? {} : { IfMatch: ifMatch }),
		});
		return (await this.#small("PutObject", call, (options) => this.client.send(command, options))).ETag ?? "";
	}

	/** A small object whole. */
	async read(name: string, call: Call): Promise<{ readonly content: string; readonly etag: string }> {
		const command = new GetObjectCommand({ Bucket: this.name, Key: name });
		return this.#small("GetObject", call, async (options) => {
			const { Body, ContentLength = 0, ETag = "" } = await this.client.send(command, options);
			const body = readable(Body);
			if (ContentLength > MAX_SMALL) {
				body.destroy();
				throw new AppError("internal", `the object ${name} is not what should be under that name`);
			}
			return { content: await text(body), etag: ETag };
		});
	}

	async head(name: string, call: Call): Promise<{ readonly size: number; readonly etag: string }> {
		const command = new HeadObjectCommand({ Bucket: this.name, Key: name });
		const { ContentLength = 0, ETag = "" } = await this.#small("HeadObject", call, (options) =>
			this.client.send(command, options),
		);
		return { size: ContentLength, etag: ETag };
	}

	/** Bytes `start` to `end` (exclusive), or all. Whoever asks destroys the body. */
	async get(
		name: string,
		bounds: { readonly start: number; readonly end: number } | undefined,
		ifMatch: string,
		{ signal }: Call,
	): Promise<Content> {
		const command = new GetObjectCommand({
			...{ Bucket: this.name, Key: name },
			...(bounds === undefined ? {} : { Range: `bytes=${bounds.start}-${bounds.end - 1}` }),
			...(ifMatch === "" ? {} : { IfMatch: ifMatch }),
		});
		// The signal is not given to the SDK: it would hold it for as long as the body is read.
		const opening = new AbortController();
		const abort = () => opening.abort(signal.reason);
		signal.addEventListener("abort", abort, { once: true });
		try {
			if (signal.aborted) throw cancelled(signal);
			const reply = await this.client.send(command, { abortSignal: opening.signal });
			const [, total] = /\/(\d+)$/.exec(reply.ContentRange ?? "") ?? [];
			const whole = reply.ContentRange === undefined ? reply.ContentLength : undefined;
			return {
				body: readable(reply.Body),
				total: total === undefined ? whole : Number(total),
				length: reply.ContentLength,
			};
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			throw failureOf("GetObject", error);
		} finally {
			signal.removeEventListener("abort", abort);
		}
	}

	/** One that does not exist is no error. */
	async remove(name: string, call: Call): Promise<void> {
		const command = new DeleteObjectCommand({ Bucket: this.name, Key: name });
		await this.#small("DeleteObject", call, (options) => this.client.send(command, options));
	}

	/** Objects whose names start with `prefix`, in the endpoint's order, which is that of bytes. */
	async *list(prefix: string, call: Call): AsyncGenerator<StoredObject, void, undefined> {
		for (let token: string | undefined; ; ) {
			const command = new ListObjectsV2Command({
				...{ Bucket: this.name, Prefix: prefix },
				...(token === undefined ? {} : { ContinuationToken: token }),
			});
			const page = await this.#small("ListObjectsV2", call, (options) => this.client.send(command, options));
			for (const { Key: name, LastModified: modified = new Date() } of page.Contents ?? [])
				if (name !== undefined) yield { name, modified };
			token = page.NextContinuationToken;
			if (page.IsTruncated !== true || token === undefined) return;
		}
	}

	/** Unfinished uploads of names that start with `prefix`. */
	async *uploads(prefix: string, call: Call): AsyncGenerator<OpenUpload, void, undefined> {
		for (let after: { KeyMarker?: string; UploadIdMarker?: string } = {}; ; ) {
			const command = new ListMultipartUploadsCommand({ Bucket: this.name, Prefix: prefix, ...after });
			const page = await this.#small("ListMultipartUploads", call, (options) => this.client.send(command, options));
			// Not every endpoint heeds the prefix.
			for (const { Key: name = "", UploadId: id = "", Initiated: initiated = new Date() } of page.Uploads ?? [])
				if (name.startsWith(prefix)) yield { name, id, initiated };
			if (page.IsTruncated !== true || page.NextKeyMarker === undefined) return;
			after = {
				KeyMarker: page.NextKeyMarker,
				...(page.NextUploadIdMarker === undefined ? {} : { UploadIdMarker: page.NextUploadIdMarker }),
			};
		}
	}

	/** One that is gone is no error. */
	async abortUpload({ name, id }: { readonly name: string; readonly id: string }, call: Call): Promise<void> {
		const command = new AbortMultipartUploadCommand({ Bucket: this.name, Key: name, UploadId: id });
		try {
			await this.#small("AbortMultipartUpload", call, (options) => this.client.send(command, options));
		} catch (error) {
			if (!(error instanceof AppError) || error.code !== "not_found") throw error;
		}
	}

	async #small<T>(
		operation: string,
		{ signal }: Call,
		send: (options: { abortSignal: AbortSignal; requestTimeout: number }) => Promise<T>,
	): Promise<T> {
		if (signal.aborted) throw cancelled(signal);
		try {
			const options = { abortSignal: signal, requestTimeout: this.settings.smallRequestTimeout };
			// The SDK heeds no signal while it waits for its next try.
			return await unlessAborted(send(options), signal);
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			throw failureOf(operation, error);
		}
	}

	#readClock(response: unknown): void {
		if (typeof response !== "object" || response === null || !("headers" in response)) return;
		const { headers } = response;
		if (typeof headers !== "object" || headers === null || !("date" in headers)) return;
		const date = Date.parse(String(headers.date));
		if (!Number.isNaN(date)) this.#clock = { date, at: performance.now() };
	}
}

function readable(body: unknown): Readable {
	if (body instanceof Readable) return body;
	throw new AppError("internal", "the S3 client gave no stream");
}
