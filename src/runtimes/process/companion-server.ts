import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { text } from "node:stream/consumers";
import { AppError, isAppError, messageOf } from "../../errors.ts";
import type { ServiceRef } from "../runtime.ts";
import { type Answer, CHANGES, OLDEST_PROTOCOL, type Operation, type Operations, PROTOCOL } from "./protocol.ts";
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
				return { protocol: PROTOCOL, oldest: OLDEST_PROTOCOL, pid: process.pid };
			},
			apply: async (spec) => supervisor.apply(spec).then(() => null),
			abandon: async ({ id, revision }) => supervisor.abandon(id, revision).then(() => null),
			observe: async ({ id }) => supervisor.observe(id),
			list: async () => supervisor.list(),
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
		const body = await text(request);
		let answer: Answer<unknown>;
		try {
			answer = { ok: await this.#perform(name, body) };
		} catch (error) {
			const known = isAppError(error) ? error : new AppError("internal", messageOf(error));
			const { code, message, hint, field } = known;
			answer = {
				error: { code, message, ...(hint === undefined ? {} : { hint }), ...(field === undefined ? {} : { field }) },
			};
		}
		response.end(JSON.stringify(answer));
	}

	async #perform(name: string, body: string): Promise<unknown> {
		const operation = Object.entries(this.#handlers).find(([key]) => key === name)?.[1];
		if (operation === undefined) throw new AppError("not_found", `this companion does not know "${name}"`);
		// Written by our own client, behind a socket in a private folder: the protocol's number vouches for its shape.
		const handler = operation as (request: unknown) => Promise<unknown>;
		return handler(JSON.parse(body));
	}

	#follow(response: ServerResponse): void {
		const send = ({ id, namespace, name, version }: ServiceRef) =>
			response.write(`${JSON.stringify({ id, namespace, name, version })}\n`);
		const stop = this.#supervisor.listen(send);
		const heartbeat = setInterval(() => response.write("\n"), HEARTBEAT_MS);
		this.#followers.add(response);
		response.once("close", () => {
			stop();
			clearInterval(heartbeat);
			this.#followers.delete(response);
		});
		response.write("\n");
		for (const service of this.#supervisor.list()) send(service);
	}
}
