import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse, request as send } from "node:http";
import { pipeline } from "node:stream/promises";

/** What becomes of one request: `lost` is carried out, and its answer is not; `truncated` ends in the middle of its answer. */
export type Fate = "pass" | "busy" | "lost" | "unanswered" | "truncated" | { readonly status: number };
export type Seen = { readonly method: string; readonly path: string; readonly conditional: boolean };

/** Stands between a store and its S3 server, and lets each request meet its fate. */
export class S3Proxy {
	readonly endpoint: string;
	/** Asked before a request is passed on. */
	fate: (seen: Seen) => Fate = () => "pass";
	readonly #server: Server;
	readonly #port: number;

	private constructor(server: Server, endpoint: string, port: number) {
		this.#server = server;
		this.endpoint = endpoint;
		this.#port = port;
	}

	static async start(port: number): Promise<S3Proxy> {
		const server = createServer({ keepAliveTimeout: 1_000 }).listen(0, "127.0.0.1");
		await once(server, "listening");
		const address = server.address();
		if (address === null || typeof address === "string") throw new Error("no port");
		const proxy = new S3Proxy(server, `http://127.0.0.1:${address.port}`, port);
		server.on("request", (request: IncomingMessage, response: ServerResponse) => {
			proxy.#pass(request, response).catch(() => response.destroy());
		});
		return proxy;
	}

	async close(): Promise<void> {
		this.#server.close();
		this.#server.closeAllConnections();
	}

	async #pass(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const { method = "", url = "", headers } = request;
		const fate = this.fate({ method, path: url, conditional: headers["if-none-match"] !== undefined });
		if (fate === "busy") {
			request.resume();
			response.writeHead(503, { "content-type": "application/xml" });
			response.end("<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>slow</Message></Error>");
			return;
		}
		const onward = send({ host: "127.0.0.1", port: this.#port, method, path: url, headers });
		const [[answer]] = await Promise.all([once(onward, "response"), pipeline(request, onward)]);
		if (fate === "unanswered") {
			answer.resume();
			return;
		}
		if (fate === "lost") {
			answer.resume();
			response.destroy();
			return;
		}
		if (typeof fate === "object") {
			answer.resume();
			response.writeHead(fate.status, { etag: '"0"' }).end();
			return;
		}
		response.writeHead(answer.statusCode ?? 502, answer.headers);
		if (fate === "pass") {
			await pipeline(answer, response);
			return;
		}
		let left = Math.ceil(Number(answer.headers["content-length"]) / 2);
		for await (const chunk of answer) {
			response.write(chunk.subarray(0, left));
			left -= chunk.length;
			if (left <= 0) break;
		}
		// What was written has to leave first.
		setImmediate(() => response.destroy());
	}
}
