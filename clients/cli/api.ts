import type {
	ClientRequest,
	Agent as HttpAgent,
	request as httpRequest,
	IncomingMessage,
	RequestOptions,
} from "node:http";
import type { Connection } from "./connection.ts";
import { CliError, EXIT, hints, systemCode } from "./errors.ts";
import { reasonOf } from "./reasons.ts";
import {
	isProblem,
	type Revision,
	type Service,
	type Session,
	toRevisions,
	toService,
	toServicePage,
	toSession,
} from "./shapes.ts";

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;
export type CallOptions = {
	readonly query?: Query;
	readonly body?: unknown;
	readonly contentType?: string;
	readonly headers?: Readonly<Record<string, string>>;
	readonly signal?: AbortSignal | undefined;
	/** Milliseconds for the whole answer. */
	readonly timeout?: number;
};
export type Answer = { readonly status: number; readonly body: unknown };

const CONNECT_LIMIT = 10_000;
const ANSWER_LIMIT = 60_000;
const BODY_LIMIT = 64 * 1024 * 1024;

export function servicePath(name: string, version: string, rest = ""): string {
	return `/services/${encodeURIComponent(name)}/${encodeURIComponent(version)}${rest}`;
}

export function buildPath(name: string, version: string, rest = ""): string {
	return `/builds/${encodeURIComponent(name)}/${encodeURIComponent(version)}${rest}`;
}

/** Talks to one server over `node:http`. Refusals are CliErrors with the problem's code; see `refusal` and `unreachable`. */
export class Api {
	readonly connection: Connection;
	readonly #request: typeof httpRequest;
	readonly #agent: HttpAgent;

	private constructor(connection: Connection, request: typeof httpRequest, agent: HttpAgent) {
		this.connection = connection;
		this.#request = request;
		this.#agent = agent;
	}

	static async create(connection: Connection): Promise<Api> {
		// Not by import: that reads every export, and one of node:http loads a client for web sockets (15 ms).
		const { Agent, request } =
			connection.url.protocol === "http:"
				? process.getBuiltinModule("node:http")
				: process.getBuiltinModule("node:https");
		return new Api(connection, request, new Agent({ keepAlive: true }));
	}

	close(): void {
		this.#agent.destroy();
	}

	/** Starts a request; the caller handles `error` and `response`. */
	start(method: string, path: string, headers: Record<string, string | number>, query: Query = {}): ClientRequest {
		const { url, token, namespace } = this.connection;
		const target = new URL(url);
		target.pathname = `${url.pathname.replace(/\/+$/, "")}${path}`;
		for (const [key, value] of Object.entries(query))
			if (value !== undefined) target.searchParams.set(key, String(value));
		const options: RequestOptions = {
			method,
			agent: this.#agent,
			headers: {
				...headers,
				...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
				...(namespace === undefined ? {} : { "runtime-namespace": namespace }),
			},
		};
		const request = this.#request(target, options);
		request.on("socket", (socket) => {
			if (!socket.connecting) return;
			const timer = setTimeout(
				() => request.destroy(Object.assign(new Error("timed out"), { code: "ETIMEDOUT" })),
				CONNECT_LIMIT,
			);
			const clear = () => clearTimeout(timer);
			socket.once("connect", clear).once("close", clear);
		});
		return request;
	}

	/** One JSON call. A read over a kept-alive connection that the server had just closed is tried once more. */
	async call(method: string, path: string, options: CallOptions = {}): Promise<Answer> {
		const payload = options.body === undefined ? undefined : JSON.stringify(options.body);
		const headers: Record<string, string | number> = { accept: "application/json", ...options.headers };
		if (payload !== undefined) {
			headers["content-type"] = options.contentType ?? "application/json";
			headers["content-length"] = Buffer.byteLength(payload);
		}
		const signal = deadline(options.timeout ?? ANSWER_LIMIT, options.signal);
		for (let attempt = 1; ; attempt++) {
			const request = this.start(method, path, headers, options.query);
			try {
				const response = await responseOf(request, payload, signal);
				const text = await textOf(response, signal);
				const status = response.statusCode ?? 0;
				if (status >= 200 && status < 300) return { status, body: text === "" ? undefined : parsed(text) };
				throw this.refusal(response, text);
			} catch (error) {
				if (error instanceof CliError || (options.signal?.aborted === true && !isTimeout(options.signal.reason)))
					throw error;
				const stale = request.reusedSocket && systemCode(error) === "ECONNRESET";
				if (!stale || method !== "GET" || attempt > 1) throw this.unreachable(error);
			}
		}
	}

	/** The body of a 2xx answer, unread; rejects as `call` does. */
	async open(path: string, accept: string, query: Query, signal: AbortSignal): Promise<IncomingMessage> {
		const request = this.start("GET", path, { accept }, query);
		try {
			const response = await responseOf(request, undefined, deadline(ANSWER_LIMIT, signal));
			const status = response.statusCode ?? 0;
			if (status >= 200 && status < 300) {
				const stop = () => response.destroy();
				signal.addEventListener("abort", stop, { once: true });
				response.once("close", () => signal.removeEventListener("abort", stop));
				return response;
			}
			throw this.refusal(response, await textOf(response, signal));
		} catch (error) {
			if (error instanceof CliError || signal.aborted) throw error;
			throw this.unreachable(error);
		}
	}

	async session(signal?: AbortSignal): Promise<Session> {
		return toSession((await this.call("GET", "/session", { signal })).body);
	}

	async service(name: string, version: string, signal?: AbortSignal): Promise<Service> {
		return toService((await this.call("GET", servicePath(name, version), { signal })).body);
	}

	/** One revision, or undefined where it is no longer kept. */
	async revision(name: string, version: string, revision: number, signal?: AbortSignal): Promise<Revision | undefined> {
		const query = { before: revision + 1, limit: 1 };
		const list = toRevisions(
			(await this.call("GET", servicePath(name, version, "/revisions"), { query, signal })).body,
		);
		return list.find((entry) => entry.revision === revision);
	}

	/** Every page, in order. */
	async *services(query: Query = {}, signal?: AbortSignal): AsyncGenerator<Service> {
		let cursor: string | undefined;
		do {
			const page = toServicePage((await this.call("GET", "/services", { query: { ...query, cursor }, signal })).body);
			yield* page.services;
			cursor = page.nextCursor;
		} while (cursor !== undefined);
	}

	/** The error for an answer that is no success. 401 is exit 4, every other refusal exit 1. */
	refusal(response: IncomingMessage, text: string): CliError {
		const status = response.statusCode ?? 0;
		const body = parsed(text);
		if (status === 401)
			return this.#notSignedIn(isProblem(body) ? body.detail : undefined, isProblem(body) ? body : undefined);
		if (!isProblem(body)) {
			const type = response.headers["content-type"] ?? "no content";
			return new CliError(`${this.connection.label} answered ${status} (${type}), not as a runtime server does`, {
				exit: EXIT.unreachable,
				code: status >= 502 && status <= 504 ? "unavailable" : "bad_answer",
				lines: ["Use another:  --server URL"],
			});
		}
		const lines: string[] = [];
		const fields = (body.errors ?? []).filter(({ message }) => !body.detail.includes(message));
		for (const { field, message } of fields) lines.push(`${field}: ${message}`);
		if (body.hint !== undefined) lines.push(body.hint);
		const where = body.field !== undefined && !body.detail.includes(body.field) ? `${body.field}: ` : "";
		return new CliError(`${where}${body.detail}`, { code: body.code, problem: body, lines });
	}

	#notSignedIn(detail: string | undefined, problem: CliError["problem"]): CliError {
		const { label, token, tokenFrom } = this.connection;
		const why = token === undefined ? "" : `: the token in ${tokenFrom} was refused`;
		return new CliError(`Not signed in to ${label}${why}`, {
			exit: EXIT.unauthenticated,
			code: "unauthenticated",
			lines: [
				"The administrator's is in the file admin-token of the server's data folder; RUNTIME_DATA_DIR names a folder here.",
				...hints([
					["Here", "export RUNTIME_TOKEN=TOKEN"],
					["In CI", "set RUNTIME_TOKEN"],
				]),
			],
			...(problem === undefined ? {} : { problem }),
			cause: detail,
		});
	}

	unreachable(error: unknown): CliError {
		return new CliError(`Can't reach ${this.connection.label}: ${reasonOf(error)}`, {
			exit: EXIT.unreachable,
			code: "unreachable",
			lines: [
				...hints([
					["Start one", "runtime server"],
					["Use another", "--server URL"],
				]),
			],
			cause: error,
		});
	}
}

function isTimeout(reason: unknown): boolean {
	return reason instanceof DOMException && reason.name === "TimeoutError";
}

function deadline(ms: number, signal: AbortSignal | undefined): AbortSignal {
	const limit = AbortSignal.timeout(ms);
	return signal === undefined ? limit : AbortSignal.any([limit, signal]);
}

function parsed(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}

function responseOf(
	request: ClientRequest,
	payload: string | undefined,
	signal: AbortSignal,
): Promise<IncomingMessage> {
	return new Promise((resolve, reject) => {
		const stop = () => {
			request.destroy();
			reject(signal.reason);
		};
		if (signal.aborted) {
			request.on("error", reject);
			stop();
			return;
		}
		signal.addEventListener("abort", stop, { once: true });
		const clear = () => signal.removeEventListener("abort", stop);
		request.once("response", (response) => {
			clear();
			resolve(response);
		});
		request.on("error", (error) => {
			clear();
			reject(error);
		});
		request.end(payload);
	});
}

/** A bounded body as text; also for the error bodies of uploads and downloads. */
export async function textOf(response: IncomingMessage, signal: AbortSignal): Promise<string> {
	const stop = () => response.destroy(signal.reason instanceof Error ? signal.reason : new Error("aborted"));
	if (signal.aborted) stop();
	signal.addEventListener("abort", stop, { once: true });
	try {
		const parts: Buffer[] = [];
		let total = 0;
		for await (const part of response) {
			const bytes = Buffer.from(part);
			total += bytes.length;
			if (total > BODY_LIMIT) throw new Error("the answer is too long");
			parts.push(bytes);
		}
		return Buffer.concat(parts).toString("utf8");
	} finally {
		signal.removeEventListener("abort", stop);
	}
}
