import type { components } from "../../src/contract/types.gen.ts";
import { archiveFolder, archiveOf } from "../fixtures/archive.ts";

export type Service = components["schemas"]["Service"];
export type Problem = components["schemas"]["Problem"];
export type CreateService = components["schemas"]["CreateService"];
export type UpdateService = components["schemas"]["UpdateService"];
export type Answer = { readonly status: number; readonly headers: Headers; readonly body: unknown };

const PENDING = new Set(["Pending", "Building", "Starting", "Stopping"]);

/** The API as a script with an HTTP client would use it. */
export class Api {
	readonly url: string;
	readonly token: string;

	constructor(url: string, token: string) {
		this.url = url;
		this.token = token;
	}

	async call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
		const response = await fetch(`${this.url}${path}`, {
			method,
			headers: {
				authorization: `Bearer ${this.token}`,
				...(body === undefined ? {} : { "content-type": "application/json" }),
				...headers,
			},
			...(body === undefined ? {} : { body: JSON.stringify(body) }),
		});
		const text = await response.text();
		const isJson = /^application\/(problem\+)?json/.test(response.headers.get("content-type") ?? "");
		const parsed: unknown = isJson && text !== "" ? JSON.parse(text) : text;
		return { status: response.status, headers: response.headers, body: parsed };
	}

	/** Uploads bytes as the form's file; answers whatever the server says. */
	async send(bytes: Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}): Promise<Answer> {
		const form = new FormData();
		form.set("archive", new Blob([bytes], { type: "application/gzip" }), "source.tar.gz");
		const response = await fetch(`${this.url}/sources`, {
			method: "POST",
			headers: { authorization: `Bearer ${this.token}`, ...headers },
			body: form,
		});
		return { status: response.status, headers: response.headers, body: await response.json() };
	}

	/** Uploads files given as text; answers the key. */
	async uploadFiles(files: Record<string, string>): Promise<string> {
		return this.#key(await this.send(new Uint8Array(await archiveOf(files))));
	}

	/** Uploads a folder; answers the key. */
	async uploadFolder(folder: string): Promise<string> {
		const chunks: Uint8Array[] = [];
		for await (const chunk of archiveFolder(folder)) chunks.push(chunk);
		return this.#key(await this.send(new Uint8Array(Buffer.concat(chunks))));
	}

	async create(request: CreateService): Promise<Service> {
		return service(await this.call("POST", "/services", request), 202);
	}

	async update(name: string, request: UpdateService): Promise<Service> {
		return service(await this.call("PATCH", `/services/${name}/latest`, request), 202);
	}

	async get(name: string): Promise<Service> {
		return service(await this.call("GET", `/services/${name}/latest`), 200);
	}

	async find(name: string): Promise<Service | undefined> {
		const answer = await this.call("GET", `/services/${name}/latest`);
		return answer.status === 404 ? undefined : service(answer, 200);
	}

	/** Waits until neither the service nor a newer revision of it is on its way. */
	async settled(name: string, limitMs = 120_000): Promise<Service> {
		const end = Date.now() + limitMs;
		for (;;) {
			const current = await this.get(name);
			if (!PENDING.has(current.status) && !PENDING.has(current.target?.status ?? "")) return current;
			if (Date.now() > end) throw new Error(`${name} is not settled: ${JSON.stringify(current)}`);
			await new Promise((resolve) => setTimeout(resolve, 30));
		}
	}

	/** Entries of an NDJSON stream that ends by itself. */
	async entries(path: string): Promise<Record<string, unknown>[]> {
		const answer = await this.call("GET", path);
		if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
		return String(answer.body)
			.split("\n")
			.filter((line) => line !== "")
			.map((line) => JSON.parse(line));
	}

	#key(answer: Answer): string {
		if (answer.status === 201 && typeof answer.body === "object" && answer.body !== null && "source" in answer.body)
			return String(answer.body.source);
		throw new Error(`upload: ${answer.status} ${JSON.stringify(answer.body)}`);
	}
}

function service(answer: Answer, status: number): Service {
	// The contract tests check shapes; here the status is proof enough.
	if (answer.status === status) return answer.body as Service;
	throw new Error(`expected ${status}, got ${answer.status}: ${JSON.stringify(answer.body)}`);
}
