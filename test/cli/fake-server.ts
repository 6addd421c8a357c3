import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { CONTRACT_VERSION } from "../../clients/cli/commands.gen.ts";
import type { components } from "../../src/contract/types.gen.ts";

type Schemas = components["schemas"];
type Service = Schemas["Service"];
type Revision = Schemas["Revision"];
type Status = Schemas["Status"];
type ServiceError = Schemas["Error"];

/** One thing that a revision does. `gate` waits until the test opens it. */
export type Step =
	| { readonly to: Status; readonly error?: ServiceError }
	| { readonly log: string }
	| { readonly print: string }
	| { readonly gate: string };

export type FakeOptions = {
	readonly token?: string;
	readonly script?: (revision: number, name: string) => readonly Step[];
	/** Answers a change when it is settled, and forgets a create that failed (profile dev). */
	readonly settles?: boolean;
	readonly contract?: string;
	readonly builders?: readonly { name: string; markers: string[] }[];
	readonly maxSourceBytes?: number;
	/** What `GET /remotes` answers; without it the server has no such operation. */
	readonly remote?: (source: string) => { status: number; body: unknown };
};

type Held = {
	id: string;
	name: string;
	version: string;
	metadata: Record<string, string>;
	env: Record<string, string>;
	live: number;
	url: string | null;
	revisions: Revision[];
	events: Schemas["Event"][];
	lines: Schemas["LogLine"][];
	builds: Map<number, { lines: Schemas["BuildLogLine"][]; over: boolean }>;
	gone: boolean;
};

export const BUILD = Buffer.from("#!/bin/sh\necho built\n");
const DIGEST = createHash("sha256").update(BUILD).digest();

export function buildError(extra: Partial<ServiceError> = {}): ServiceError {
	return {
		code: "build_failed",
		message: "the build failed",
		phase: "build",
		retryable: false,
		diagnostics: [],
		...extra,
	};
}

/** Plays the server in the contract's exact shapes, for what a real one does seldom: lost streams, early answers, slow builds. */
export class FakeServer {
	readonly options: FakeOptions;
	readonly requests: {
		method: string;
		url: string;
		namespace: string | undefined;
		authorization: string | undefined;
		key?: string | undefined;
		body?: unknown;
	}[] = [];
	readonly uploads: { digest: string; size: number; whole: boolean }[] = [];
	readonly services = new Map<string, Held>();
	/** Answers an upload at once, without reading it. */
	refuseUpload: { status: number; code: string; detail: string } | undefined;
	/** Answers whatever would make or change a service. */
	refuseChange: { status: number; code: string; detail: string; field: string } | undefined;
	/** Stops reading uploads. */
	stallUpload = false;
	/** Breaks this many create or update answers off after the work is done. */
	loseAnswers = 0;
	/** Revisions whose answer nobody waited for. */
	readonly forsaken: number[] = [];
	downloadDigest = DIGEST.toString("base64");
	#server: Server | undefined;
	#port = 0;
	readonly #streams = new Set<ServerResponse>();
	readonly #wakers = new Set<() => void>();
	readonly #gates = new Set<string>();
	/** By Idempotency-Key: which service it made or changed. */
	readonly #made = new Map<string, Held>();
	#seq = 0;

	private constructor(options: FakeOptions) {
		this.options = options;
	}

	static async start(options: FakeOptions = {}): Promise<FakeServer> {
		const fake = new FakeServer(options);
		await fake.listen();
		return fake;
	}

	get url(): string {
		return `http://127.0.0.1:${this.#port}`;
	}

	get streams(): number {
		return this.#streams.size;
	}

	async listen(): Promise<void> {
		const server = createServer((request, response) => {
			this.#handle(request, response).catch((error: unknown) =>
				response.destroy(error instanceof Error ? error : undefined),
			);
		});
		this.#server = server;
		server.listen(this.#port, "127.0.0.1");
		await once(server, "listening");
		const address = server.address();
		if (typeof address === "object" && address !== null) this.#port = address.port;
	}

	/** Goes away with every connection; the records stay. `listen` brings it back on the same port. */
	async stop(): Promise<void> {
		const server = this.#server;
		this.#server = undefined;
		if (server === undefined) return;
		server.closeAllConnections();
		await new Promise((resolve) => server.close(resolve));
	}

	dropStreams(): void {
		for (const stream of this.#streams) stream.destroy();
	}

	open(gate: string): void {
		this.#gates.add(gate);
		this.wake();
	}

	wake(): void {
		for (const waker of [...this.#wakers]) waker();
	}

	/** Puts a service there as if it had run for long. */
	seed(name: string, version = "latest", status: Status = "Running"): Held {
		const held = this.#create(name, version, {});
		const revision = this.#addRevision(held, { source: "source://seed", metadata: { source: "." } });
		revision.build = { digest: `sha256:${DIGEST.toString("hex")}`, size: BUILD.length, builder: "go" };
		this.#move(held, revision, "Building");
		this.#move(held, revision, "Starting");
		this.#move(held, revision, status);
		return held;
	}

	async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const url = new URL(request.url ?? "/", "http://fake");
		const { headers, method = "GET" } = request;
		const one = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value);
		const record: (typeof this.requests)[number] = {
			method,
			url: url.pathname + url.search,
			namespace: one(headers["runtime-namespace"]),
			authorization: headers.authorization,
			key: one(headers["idempotency-key"]),
		};
		this.requests.push(record);
		if (this.options.token !== undefined && headers.authorization !== `Bearer ${this.options.token}`) {
			request.resume();
			return this.#problem(response, 401, "unauthenticated", "no token, or a wrong one");
		}
		if (url.pathname === "/sources") return await this.#upload(request, response);
		if (method !== "GET") record.body = await jsonOf(request);
		const parts = url.pathname.split("/").slice(1).map(decodeURIComponent);
		if (parts[0] === "remotes" && this.options.remote !== undefined) {
			const { status, body } = this.options.remote(url.searchParams.get("source") ?? "");
			return status === 200
				? this.#json(response, 200, body)
				: this.#problem(response, status, String(asRecord(body).code), String(asRecord(body).detail));
		}
		const refused = record.key === undefined ? undefined : this.refuseChange;
		if (refused !== undefined)
			return this.#problem(response, refused.status, refused.code, refused.detail, { field: refused.field });
		const again = record.key === undefined ? undefined : this.#made.get(record.key);
		if (again !== undefined) return this.#accepted(response, again, record.key);
		if (parts[0] === "session") return this.#json(response, 200, this.#session());
		if (parts[0] === "services" && parts.length === 1) {
			return method === "POST" ? this.#post(response, record.body, record.key) : this.#list(response, url.searchParams);
		}
		const [kind, name = "", version = "", action = ""] = parts;
		const held = this.services.get(`${name}:${version}`);
		if (kind === "builds" && held !== undefined)
			return action === "log" ? this.#buildLog(response, held, url) : this.#download(response, held);
		if (kind !== "services") return this.#problem(response, 404, "not_found", `there is no ${url.pathname}`);
		if (held === undefined && method === "PUT")
			return this.#post(response, { ...asRecord(record.body), name, version }, record.key);
		if (held === undefined) return this.#problem(response, 404, "not_found", `there is no service ${name}:${version}`);
		if (action === "revisions") {
			const before = Number(url.searchParams.get("before") ?? "1000000");
			const all = held.revisions.filter(({ revision }) => revision < before).reverse();
			return this.#json(response, 200, { revisions: all.slice(0, Number(url.searchParams.get("limit") ?? "100")) });
		}
		if (action === "events")
			return this.#follow(
				response,
				url,
				() => held.events,
				() => held.gone,
			);
		if (action === "logs") {
			const tail = url.searchParams.get("tail");
			const skipped = tail === null ? 0 : Math.max(0, held.lines.length - Number(tail));
			return this.#follow(
				response,
				url,
				() => held.lines.slice(skipped),
				() => held.gone,
			);
		}
		if (action === "rollback")
			return this.#rollback(response, held, Number(asRecord(record.body).revision), record.key);
		if (action !== "") return this.#action(response, held, action);
		if (method === "GET") return this.#json(response, 200, this.#view(held));
		if (method === "DELETE") {
			this.services.delete(`${name}:${version}`);
			held.gone = true;
			this.wake();
			return this.#json(response, 202, this.#view(held));
		}
		return this.#change(response, held, asRecord(record.body), record.key);
	}

	#session(): Schemas["Session"] {
		const { builders, contract, maxSourceBytes } = this.options;
		return {
			account: "ana",
			namespace: "acme",
			server: {
				version: "0.1.0",
				contract: contract ?? CONTRACT_VERSION,
				builders: [...(builders ?? [{ name: "go", markers: ["go.mod"] }])],
				maxSourceBytes: maxSourceBytes ?? 2 ** 31,
			},
		};
	}

	async #upload(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const refuse = this.refuseUpload;
		if (refuse !== undefined) return this.#problem(response, refuse.status, refuse.code, refuse.detail);
		const match = /boundary=(.+)$/.exec(request.headers["content-type"] ?? "");
		const tail = Buffer.from(`\r\n--${match?.[1]}--\r\n`);
		const hash = createHash("sha256");
		const upload = { digest: "", size: 0, whole: false };
		this.uploads.push(upload);
		let head = true;
		let held = Buffer.alloc(0);
		for await (const part of request) {
			while (this.stallUpload && !request.destroyed) await this.#nap();
			held = Buffer.concat([held, Buffer.from(part)]);
			if (head) {
				const at = held.indexOf("\r\n\r\n");
				if (at < 0) continue;
				if (!held.subarray(0, at).toString().includes('name="archive"')) throw new Error("no part named archive");
				held = held.subarray(at + 4);
				head = false;
			}
			if (held.length <= tail.length) continue;
			const done = held.subarray(0, held.length - tail.length);
			hash.update(done);
			upload.size += done.length;
			held = Buffer.from(held.subarray(held.length - tail.length));
		}
		upload.whole = held.equals(tail);
		if (!upload.whole) return this.#problem(response, 400, "invalid_argument", "the multipart body is cut off");
		upload.digest = `sha256:${hash.digest("hex")}`;
		this.#json(response, 201, { source: `source://s${this.uploads.length}`, digest: upload.digest, size: upload.size });
	}

	#post(response: ServerResponse, body: unknown, key: string | undefined): void {
		const wanted = asRecord(body);
		const name = String(wanted.name);
		const version = typeof wanted.version === "string" ? wanted.version : "latest";
		if (this.services.has(`${name}:${version}`)) {
			this.#problem(response, 409, "conflict", `${name}:${version} exists`);
			return;
		}
		const held = this.#create(name, version, asRecord(wanted.metadata));
		this.#begin(held, wanted);
		this.#accepted(response, held, key);
	}

	#change(response: ServerResponse, held: Held, patch: Record<string, unknown>, key: string | undefined): void {
		for (const [key, value] of Object.entries(asRecord(patch.metadata))) held.metadata[key] = String(value);
		if (Object.keys(patch).every((key) => key === "metadata")) {
			this.#json(response, 200, this.#view(held));
			return;
		}
		this.#begin(held, patch);
		this.#accepted(response, held, key);
	}

	/** A new revision with the build of an earlier one. */
	#rollback(response: ServerResponse, held: Held, number: number, key: string | undefined): void {
		const old = held.revisions.find(({ revision }) => revision === number);
		if (old === undefined) {
			this.#problem(response, 404, "not_found", `there is no revision ${number}`, { field: "revision" });
			return;
		}
		this.#begin(held, { args: old.args, entrypoint: old.entrypoint });
		this.#accepted(response, held, key);
	}

	#accepted(response: ServerResponse, held: Held, key: string | undefined): void {
		if (key !== undefined) this.#made.set(key, held);
		if (this.options.settles) {
			this.#settle(response, held).catch((error: unknown) => {
				throw error;
			});
			return;
		}
		if (this.loseAnswers > 0) {
			this.loseAnswers -= 1;
			response.destroy();
		} else this.#json(response, 202, this.#view(held));
	}

	async #settle(response: ServerResponse, held: Held): Promise<void> {
		const revision = held.revisions.at(-1);
		if (revision === undefined) throw new Error("no revision");
		const gone = new AbortController();
		response.once("close", () => gone.abort());
		while (!["Running", "Stopped", "Error"].includes(revision.status) && !gone.signal.aborted) await this.#nap();
		const { error } = revision;
		if (gone.signal.aborted) this.forsaken.push(revision.revision);
		else if (error === null) this.#json(response, revision.revision === 1 ? 201 : 200, this.#view(held));
		else {
			if (revision.revision === 1) this.services.delete(`${held.name}:${held.version}`);
			this.#problem(response, 422, "build_failed", error.message, { error });
		}
	}

	#create(name: string, version: string, metadata: Record<string, unknown>): Held {
		const held: Held = {
			id: `id-${++this.#seq}`,
			name,
			version,
			metadata: Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, String(value)])),
			env: {},
			live: 1,
			url: null,
			revisions: [],
			events: [],
			lines: [],
			builds: new Map(),
			gone: false,
		};
		this.services.set(`${name}:${version}`, held);
		return held;
	}

	#addRevision(held: Held, wanted: Record<string, unknown>): Revision {
		const last = held.revisions.at(-1);
		for (const [key, value] of Object.entries(asRecord(wanted.env))) {
			if (value === null) delete held.env[key];
			else held.env[key] = String(value);
		}
		const now = new Date().toISOString();
		const revision: Revision = {
			revision: held.revisions.length + 1,
			status: "Pending",
			source: typeof wanted.source === "string" ? wanted.source : (last?.source ?? ""),
			commit: null,
			entrypoint: typeof wanted.entrypoint === "string" ? wanted.entrypoint : (last?.entrypoint ?? "."),
			args: Array.isArray(wanted.args) ? wanted.args.map(String) : (last?.args ?? []),
			env: Object.keys(held.env),
			health: { type: "port", path: "/", timeout: 60 },
			restart: "on-failure",
			instances: 1,
			limits: {},
			builder: null,
			build: wanted.source === undefined ? (last?.build ?? null) : null,
			error: null,
			createdAt: now,
			updatedAt: now,
		};
		held.revisions.push(revision);
		this.#record(held, revision, null, "Pending");
		return revision;
	}

	#begin(held: Held, wanted: Record<string, unknown>): void {
		const revision = this.#addRevision(held, wanted);
		const usual: Step[] = [
			{ to: "Building" },
			{ log: "go: downloading github.com/gin-gonic/gin" },
			{ to: "Starting" },
			{ to: "Running" },
		];
		const steps = this.options.script?.(revision.revision, held.name) ?? usual;
		this.#play(
			held,
			revision,
			wanted.source === undefined ? steps.filter((step) => !("to" in step && step.to === "Building")) : steps,
		).catch((error: unknown) => {
			throw error;
		});
	}

	async #play(held: Held, revision: Revision, steps: readonly Step[]): Promise<void> {
		for (const step of steps) {
			await new Promise((resolve) => setImmediate(resolve));
			if (revision.status === "Error") return;
			if ("gate" in step) while (!this.#gates.has(step.gate) && revision.error === null) await this.#nap();
			else if ("to" in step) this.#move(held, revision, step.to, step.error);
			else if ("log" in step) {
				const log = held.builds.get(revision.revision) ?? { lines: [], over: false };
				held.builds.set(revision.revision, log);
				log.lines.push({
					type: "line",
					seq: log.lines.length + 1,
					time: new Date().toISOString(),
					revision: revision.revision,
					text: step.log,
				});
			} else this.print(held, step.print, revision.revision);
			this.wake();
		}
	}

	print(held: Held, text: string, revision = held.live): void {
		held.lines.push({
			type: "line",
			seq: held.lines.length + 1,
			time: new Date().toISOString(),
			revision,
			instance: "i1",
			stream: "stdout",
			text,
		});
		this.wake();
	}

	#move(held: Held, revision: Revision, to: Status, error?: ServiceError): void {
		const from = revision.status;
		revision.status = to;
		revision.error = error ?? null;
		revision.updatedAt = new Date().toISOString();
		if (to === "Building") held.builds.set(revision.revision, { lines: [], over: false });
		if (from === "Building" || from === "Pending") {
			const log = held.builds.get(revision.revision);
			if (log !== undefined && to !== "Building") log.over = true;
			if (to === "Starting")
				revision.build = { digest: `sha256:${DIGEST.toString("hex")}`, size: 9_100_000, builder: "go" };
		}
		if (to === "Running") {
			const old = held.revisions.find((other) => other.revision === held.live);
			if (old !== undefined && old !== revision && old.status === "Running") this.#move(held, old, "Stopped");
			held.live = revision.revision;
			held.url ??= `http://127.0.0.1:${40_000 + this.services.size}`;
		}
		this.#record(held, revision, from, to, error);
	}

	#record(held: Held, { revision }: Revision, from: Status | null, to: Status, error?: ServiceError): void {
		const time = new Date().toISOString();
		held.events.push({
			type: "event",
			seq: held.events.length + 1,
			time,
			revision,
			from,
			to,
			...(error === undefined ? {} : { error }),
		});
		this.wake();
	}

	#action(response: ServerResponse, held: Held, action: string): void {
		const newest = held.revisions.at(-1);
		const underWay = newest !== undefined && ["Pending", "Building", "Starting"].includes(newest.status);
		if (newest === undefined || (action === "cancel" && !underWay)) {
			this.#problem(response, 409, "conflict", "nothing is on its way");
			return;
		}
		if (action === "cancel") this.#move(held, newest, "Error", buildError({ code: "cancelled", message: "cancelled" }));
		else if (action === "stop")
			this.#move(held, held.revisions.find(({ revision }) => revision === held.live) ?? newest, "Stopped");
		else if (action === "start") this.#move(held, newest, "Running");
		this.#json(response, 202, this.#view(held));
	}

	#view(held: Held): Service {
		const live = held.revisions.find(({ revision }) => revision === held.live) ?? held.revisions.at(-1);
		const newest = held.revisions.at(-1);
		if (live === undefined || newest === undefined) throw new Error("a service without a revision");
		const shown = live.status === "Running" ? live : newest;
		const target = newest === shown ? null : { revision: newest.revision, status: newest.status, error: newest.error };
		const { id, name, version, metadata, url } = held;
		return {
			...shown,
			id,
			namespace: "acme",
			name,
			version,
			metadata,
			url,
			target,
			createdAt: held.revisions[0]?.createdAt ?? "",
		};
	}

	#list(response: ServerResponse, query: URLSearchParams): void {
		const all = [...this.services.values()].map((held) => this.#view(held)).sort((a, b) => (a.name < b.name ? -1 : 1));
		const name = query.get("name");
		const version = query.get("version");
		const found = all.filter(
			(service) => (name === null || service.name === name) && (version === null || service.version === version),
		);
		const from = Number(query.get("cursor") ?? "0");
		// Small pages, so that every test of a list reads several.
		const page = found.slice(from, from + 2);
		this.#json(response, 200, { services: page, ...(from + 2 < found.length ? { nextCursor: String(from + 2) } : {}) });
	}

	#buildLog(response: ServerResponse, held: Held, url: URL): Promise<void> | void {
		const revision = Number(url.searchParams.get("revision") ?? Math.max(0, ...held.builds.keys()));
		const log = held.builds.get(revision);
		if (log === undefined) return this.#problem(response, 404, "not_found", `revision ${revision} was not built`);
		return this.#follow(
			response,
			url,
			() => log.lines,
			() => log.over,
			"finished",
		);
	}

	async #follow(
		response: ServerResponse,
		url: URL,
		items: () => readonly { readonly seq: number }[],
		over: () => boolean,
		reason: Schemas["End"]["reason"] = "deleted",
	): Promise<void> {
		let after = Number(url.searchParams.get("after") ?? "0");
		response.writeHead(200, { "content-type": "application/x-ndjson" });
		response.flushHeaders();
		this.#streams.add(response);
		try {
			for (;;) {
				const ended = over();
				for (const item of items()) {
					if (item.seq <= after) continue;
					after = item.seq;
					response.write(`${JSON.stringify(item)}\n`);
				}
				if (url.searchParams.get("follow") !== "true") break;
				if (ended) {
					response.write(`${JSON.stringify({ type: "end", reason })}\n`);
					break;
				}
				if (response.destroyed) return;
				await this.#nap();
			}
			response.end();
		} finally {
			this.#streams.delete(response);
		}
	}

	#download(response: ServerResponse, _held: Held): void {
		response.writeHead(200, {
			"content-type": "application/octet-stream",
			"repr-digest": `sha-256=:${this.downloadDigest}:`,
		});
		response.end(BUILD);
	}

	/** Until something happened, or a moment has passed. */
	async #nap(): Promise<void> {
		await new Promise<void>((resolve) => {
			const done = () => {
				clearTimeout(timer);
				this.#wakers.delete(done);
				resolve();
			};
			const timer = setTimeout(done, 50).unref();
			this.#wakers.add(done);
		});
	}

	#json(response: ServerResponse, status: number, body: unknown): void {
		response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
	}

	#problem(response: ServerResponse, status: number, code: string, detail: string, extra: object = {}): void {
		const body = { type: "about:blank", title: code, status, code, detail, requestId: "r1", ...extra };
		response
			.writeHead(status, { "content-type": "application/problem+json", connection: "close" })
			.end(JSON.stringify(body));
	}
}

function asRecord(value: unknown): Record<string, unknown> {
	return typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

async function jsonOf(request: IncomingMessage): Promise<unknown> {
	let text = "";
	for await (const part of request) text += String(part);
	return text === "" ? undefined : JSON.parse(text);
}
