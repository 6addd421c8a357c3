import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { isDiskFull } from "../../ballast.ts";
import { AppError, isAppError, messageOf } from "../../errors.ts";
import { ChangesStream } from "./changes-stream.ts";
import {
	type Answer,
	CHANGES,
	MAX_REQUEST_BYTES,
	OLDEST_PROTOCOL,
	type Operation,
	type Operations,
	PROTOCOL,
	SERVICES,
} from "./protocol.ts";
import type { Supervisor } from "./supervisor.ts";

const HEARTBEAT_MS = 10_000;

type Handlers = { [K in Operation]: (request: Operations[K]["request"]) => Promise<Operations[K]["answer"]> };

/** What a companion offers to its server, as HTTP over a unix socket that only this user can open. */
export class CompanionServer {
	readonly #server: Server;
	readonly #supervisor: Supervisor;
	readonly #handlers: Handlers;
	readonly #followers = new Set<ServerResponse>();
	#working = 0;

	constructor(supervisor: Supervisor, handOver: () => void) {
		this.#supervisor = supervisor;
		this.#handlers = {
			hello: async ({ settings }) => {
				supervisor.settings = settings;
				return {
					protocol: PROTOCOL,
					oldest: OLDEST_PROTOCOL,
					pid: process.pid,
					engine: supervisor.kind,
					...supervisor.place,
				};
			},
			apply: async (spec) => supervisor.apply(spec).then(() => null),
			abandon: async ({ id, revision }) => supervisor.abandon(id, revision).then(() => null),
			observe: async ({ id }) => supervisor.observe(id),
			stop: async ({ id }) => supervisor.stop(id).then(() => null),
			remove: async ({ id }) => supervisor.remove(id).then(() => null),
			stopAll: async () => supervisor.stopAll().then(() => null),
			handOver: async () => {
				handOver();
				return null;
			},
		};
		this.#server = createServer({ requestTimeout: 0, keepAliveTimeout: 0 }, (request, response) => {
			this.#working++;
			response.once("close", () => this.#working--);
			this.#answer(request, response).catch((error) => response.destroy(error));
		});
	}

	/** Whether a server is connected. */
	get used(): boolean {
		return this.#working > 0;
	}

	async listen(socket: string): Promise<void> {
		await new Promise<void>((resolve, reject) => {
			this.#server.once("error", reject);
			this.#server.listen(socket, resolve);
		});
	}

	close(): void {
		this.#server.close();
		for (const follower of this.#followers) follower.end();
	}

	async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const name = (request.url ?? "").slice(1);
		if (name === CHANGES) return this.#follow(response);
		let answer: Answer<unknown>;
		try {
			const body = await bodyOf(request);
			if (name === SERVICES) return await this.#list(JSON.parse(body), response);
			answer = { ok: await this.#perform(name, body) };
		} catch (error) {
			if (response.headersSent) throw error;
			const { code, message, hint, field } = known(error);
			answer = {
				error: { code, message, ...(hint === undefined ? {} : { hint }), ...(field === undefined ? {} : { field }) },
			};
		}
		response.end(JSON.stringify(answer));
	}

	async #list(after: string, response: ServerResponse): Promise<void> {
		const services = this.#supervisor
			.list()
			.filter(({ id }) => id > after)
			.sort((a, b) => (a.id < b.id ? -1 : 1));
		function* lines() {
			for (const service of services) yield `${JSON.stringify(service)}\n`;
		}
		await pipeline(Readable.from(lines()), response);
	}

	async #perform(name: string, body: string): Promise<unknown> {
		const operation = Object.entries(this.#handlers).find(([key]) => key === name)?.[1];
		if (operation === undefined) throw new AppError("not_found", `this companion does not know "${name}"`);
		// Written by our own client, behind a socket in a private folder: the protocol's number vouches for its shape.
		const handler = operation as (request: unknown) => Promise<unknown>;
		return handler(JSON.parse(body));
	}

	#follow(response: ServerResponse): void {
		const stream = new ChangesStream(response);
		const stop = this.#supervisor.listen((service) => stream.tell(service));
		const heartbeat = setInterval(() => stream.beat(), HEARTBEAT_MS);
		this.#followers.add(response);
		response.once("close", () => {
			stop();
			clearInterval(heartbeat);
			this.#followers.delete(response);
		});
		stream.beat();
		for (const service of this.#supervisor.list()) stream.tell(service);
	}
}

/** Rejects with `too_large`. */
async function bodyOf(request: IncomingMessage): Promise<string> {
	const pieces: Buffer[] = [];
	let size = 0;
	for await (const piece of request) {
		size += piece.length;
		if (size > MAX_REQUEST_BYTES)
			throw new AppError("too_large", `a request to the companion may have ${MAX_REQUEST_BYTES / 1024 ** 2} MiB`, {
				hint: "Make the service's environment and arguments smaller.",
			});
		pieces.push(piece);
	}
	return Buffer.concat(pieces).toString();
}

function known(error: unknown): AppError {
	if (isAppError(error)) return error;
	return isDiskFull(error) ? new AppError("no_space", "the disk is full") : new AppError("internal", messageOf(error));
}
