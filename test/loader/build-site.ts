import { execFileSync } from "node:child_process";
import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import path from "node:path";

type Answer = (request: IncomingMessage, response: ServerResponse, count: number) => void | Promise<void>;
export type Seen = { readonly headers: IncomingMessage["headers"]; status: number; sent: number };

export type Certificates = { readonly ca: string; readonly cert: string; readonly key: string };

/** A certificate authority of the test's own, and a certificate for one address. */
export function certificates(address: string): Certificates {
	const program = path.join(import.meta.dirname, "certificates/main.go");
	const env = { ...process.env, GOFLAGS: "", GOWORK: "off" };
	return JSON.parse(execFileSync("go", ["run", program, address], { env, encoding: "utf8" }));
}

/** An HTTPS server that answers for one build as badly as a test wants. */
export class BuildSite implements AsyncDisposable {
	readonly ca: string;
	readonly seen: Seen[] = [];
	readonly #server: Server;
	readonly #address: string;
	#port = 0;

	private constructor(server: Server, address: string, ca: string) {
		this.#server = server;
		this.#address = address;
		this.ca = ca;
	}

	/** Listens on a free port; where a port is given, it listens there later. */
	static async open(address: string, { ca, cert, key }: Certificates, answer: Answer, port = 0): Promise<BuildSite> {
		const server = createServer({ cert, key });
		const site = new BuildSite(server, address, ca);
		server.on("request", (request: IncomingMessage, response: ServerResponse) => {
			const seen: Seen = { headers: request.headers, status: 0, sent: 0 };
			const count = site.seen.push(seen);
			response.once("close", () => {
				seen.status = response.statusCode;
			});
			Promise.resolve(answer(request, response, count)).catch(() => response.destroy());
		});
		site.#port = port;
		if (port === 0) await site.listen();
		return site;
	}

	async listen(): Promise<void> {
		this.#server.listen(this.#port, this.#address);
		await once(this.#server, "listening");
		const bound = this.#server.address();
		if (bound === null || typeof bound === "string") throw new Error("no port");
		this.#port = bound.port;
	}

	get port(): number {
		return this.#port;
	}

	get url(): string {
		return `https://${this.#address}:${this.#port}/builds/probe/latest?revision=1`;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#server.closeAllConnections();
		await new Promise((resolve) => this.#server.close(resolve));
	}
}
