import { Agent, request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

export type LoadReport = {
	readonly requests: number;
	readonly failures: readonly string[];
	/** Milliseconds of the slowest request. */
	readonly longest: number;
	readonly perSecond: number;
};

/**
 * Clients that ask a service all the time: `keepAlive` of them on one connection each, `fresh` with a new connection for
 * every request; every third request is a POST whose echo is compared. Paced, so that the load is the same on every machine.
 */
export class Load {
	readonly #url: URL;
	readonly #stop = new AbortController();
	readonly #clients: Promise<void>[];
	readonly #failures: string[] = [];
	readonly #started = Date.now();
	#requests = 0;
	#longest = 0;

	constructor(url: string, shape: { readonly keepAlive: number; readonly fresh: number; readonly pauseMs: number }) {
		this.#url = new URL(url);
		const client = (agent: Agent) => this.#client(agent, shape.pauseMs);
		this.#clients = [
			...Array.from({ length: shape.keepAlive }, () => client(new Agent({ keepAlive: true, maxSockets: 1 }))),
			...Array.from({ length: shape.fresh }, () => client(new Agent({ keepAlive: false }))),
		];
	}

	async stop(): Promise<LoadReport> {
		this.#stop.abort();
		await Promise.all(this.#clients);
		const seconds = (Date.now() - this.#started) / 1000;
		return {
			requests: this.#requests,
			failures: this.#failures,
			longest: this.#longest,
			perSecond: this.#requests / seconds,
		};
	}

	async #client(agent: Agent, pauseMs: number): Promise<void> {
		for (let turn = 0; !this.#stop.signal.aborted; turn++) {
			const started = performance.now();
			const body = turn % 3 === 0 ? `body ${turn} ${"x".repeat((turn * 37) % 3000)}` : undefined;
			try {
				const answer = await send(this.#url, agent, body);
				const right = body === undefined ? / \d+ [0-9a-f]{16}\n$/.test(answer.text) : answer.text === body;
				if (answer.status !== 200 || !right) this.#failures.push(`${answer.status} ${answer.text.slice(0, 80)}`);
			} catch (error) {
				this.#failures.push(String(error));
			}
			this.#requests++;
			this.#longest = Math.max(this.#longest, performance.now() - started);
			await delay(pauseMs);
		}
		agent.destroy();
	}
}

function send(url: URL, agent: Agent, body: string | undefined): Promise<{ status: number; text: string }> {
	return new Promise((resolve, reject) => {
		const options = { agent, method: body === undefined ? "GET" : "POST", path: body === undefined ? "/" : "/echo" };
		const outgoing = request(url, options, (response) => {
			let text = "";
			response.setEncoding("utf8");
			response.on("data", (chunk: string) => {
				text += chunk;
			});
			response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
			response.on("error", reject);
		});
		outgoing.on("error", reject);
		outgoing.end(body);
	});
}

/** Reads a response that takes five seconds; rejects where it is cut short or mixed. */
export async function longStream(url: string): Promise<void> {
	const text = await (await fetch(`${url}/stream?seconds=5`)).text();
	const lines = text.trimEnd().split("\n");
	const nonces = new Set(lines.slice(0, -1).map((line) => line.split(" ").at(-1)));
	if (lines.length !== 51 || lines.at(-1) !== "end" || nonces.size !== 1)
		throw new Error(`the stream was cut or mixed: ${lines.length} lines, ${nonces.size} programs`);
}
