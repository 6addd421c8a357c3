import type { FastifyInstance, InjectOptions } from "fastify";
import { pino } from "pino";
import { LevelTokenStore } from "../../src/accounts/level-tokens.ts";
import { newToken } from "../../src/accounts/tokens.ts";
import { type AppDeps, buildApp } from "../../src/app.ts";
import { type Contract, loadContract } from "../../src/contract/document.ts";
import { Validation } from "../../src/contract/validation.ts";
import type { TestCore } from "./core.ts";

type Teardown = { teardown(action: () => Promise<void>): unknown };
export type Reply = {
	readonly status: number;
	readonly headers: Record<string, unknown>;
	readonly body: string;
	json(): Record<string, unknown>;
};

/** Checks that an answer is one that the contract declares for this operation, in status, type and shape. */
export class AnswerCheck {
	readonly #contract: Contract;
	readonly #validation: Validation;

	constructor(contract: Contract) {
		this.#contract = contract;
		this.#validation = new Validation(contract);
	}

	/** What is wrong with it, or null. `id` is an operation's; an answer by no operation is a problem. */
	fault(id: string | null, status: number, type: string | undefined, body: string): string | null {
		const operation = this.#contract.operations.find((candidate) => candidate.id === id);
		const declared = operation?.responses[String(status)]?.content;
		if (operation !== undefined && operation.responses[String(status)] === undefined)
			return `${id} does not declare ${status}: ${body.slice(0, 300)}`;
		const plain = type?.split(";")[0] ?? "";
		if (body === "") return null;
		const schema =
			declared?.[plain]?.schema ?? (operation === undefined ? { $ref: "#/components/schemas/Problem" } : null);
		if (schema === null) return `${id} does not declare ${plain} for ${status}`;
		const validate = this.#validation.body(schema);
		const values = plain === "application/x-ndjson" ? entries(body) : plain.endsWith("json") ? [JSON.parse(body)] : [];
		for (const value of values)
			if (!validate(value))
				return `${id} ${status}: ${JSON.stringify(validate.errors?.[0])} in ${JSON.stringify(value)}`;
		return null;
	}

	/** The operation behind a request. */
	idOf(method: string, url: string): string | null {
		const segments = (url.split("?")[0] ?? "").split("/");
		const found = this.#contract.operations.find(({ method: its, path }) => {
			const parts = path.split("/");
			return (
				its === (method === "HEAD" ? "GET" : method) &&
				parts.length === segments.length &&
				parts.every((part, index) => part === segments[index] || part.startsWith("{"))
			);
		});
		return found?.id ?? null;
	}
}

export function entries(body: string): Record<string, unknown>[] {
	return body
		.split("\n")
		.filter((line) => line !== "")
		.map((line) => JSON.parse(line));
}

/** The HTTP server over a test's core. Every answer is checked against the contract. */
export class TestApp {
	readonly app: FastifyInstance;
	readonly token: string;
	/** Of a tenant's, who is no administrator; its namespace is `tenant`. */
	readonly tenant: string;
	readonly down: AbortController;
	/** What answers were not as the contract says. */
	readonly faults: string[] = [];
	/** All that was ever answered, to look for what must not be. */
	answered = "";
	ready = true;
	readonly #check = new AnswerCheck(loadContract());

	private constructor(app: FastifyInstance, token: string, tenant: string, down: AbortController) {
		this.app = app;
		this.token = token;
		this.tenant = tenant;
		this.down = down;
	}

	static async open(
		t: Teardown,
		core: TestCore,
		{
			buildsFor = "everyone",
			...options
		}: Pick<AppDeps, "heartbeatMs" | "uploads"> & Partial<Pick<AppDeps["facts"], "buildsFor">> = {},
	): Promise<TestApp> {
		const tokens = new LevelTokenStore(core.database);
		const admin = newToken({ name: "admin", namespace: "default", administrator: true }, new Date());
		const tenant = newToken({ name: "tenant", namespace: "tenant", administrator: false }, new Date());
		await tokens.put(admin.record);
		await tokens.put(tenant.record);
		const down = new AbortController();
		const holder: { app?: TestApp } = {};
		const app = await buildApp({
			...{
				manager: core.manager,
				changes: core.changes,
				queries: core.queries,
				follow: core.follow,
				remotes: core.remotes,
				tokens,
				contract: loadContract(),
			},
			facts: {
				version: "0",
				builders: [core.builder],
				maxSourceBytes: 64 * 1024,
				buildsFor,
				ready: () => holder.app?.ready ?? false,
			},
			...{ down: down.signal, deadline: new AbortController().signal, tls: null, logger: pino({ level: "silent" }) },
			...options,
		});
		const test = new TestApp(app, admin.token, tenant.token, down);
		holder.app = test;
		t.teardown(async () => {
			down.abort();
			await app.close();
		});
		return test;
	}

	async call(
		method: NonNullable<InjectOptions["method"]>,
		url: string,
		more: Omit<InjectOptions, "method" | "url"> = {},
	): Promise<Reply> {
		const answer = await this.app.inject({
			...{ method, url },
			...more,
			headers: { authorization: `Bearer ${this.token}`, ...more.headers },
		});
		const { statusCode: status, headers, body } = answer;
		this.answered += body;
		const fault = this.#check.fault(this.#check.idOf(method, url), status, String(headers["content-type"] ?? ""), body);
		if (fault !== null) this.faults.push(fault);
		return { status, headers, body, json: () => JSON.parse(body) };
	}
}

/** A form as a client sends it; `parts` are name, file name (or null for a field) and content. */
export function form(parts: readonly (readonly [string, string | null, Uint8Array | string])[], end = true) {
	const chunks: Uint8Array[] = [];
	for (const [name, file, content] of parts)
		chunks.push(
			Buffer.from(
				`--xyz\r\ncontent-disposition: form-data; name="${name}"${file === null ? "" : `; filename="${file}"`}\r\n\r\n`,
			),
			Buffer.from(content),
			Buffer.from("\r\n"),
		);
	if (end) chunks.push(Buffer.from("--xyz--\r\n"));
	return { payload: Buffer.concat(chunks), headers: { "content-type": "multipart/form-data; boundary=xyz" } };
}
