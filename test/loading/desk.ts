import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { Agent, request } from "undici";
import { type Loading, type LoadingOptions, openLoading } from "../../src/loading/loading.ts";
import type { ServiceRecord } from "../../src/manager/model.ts";
import { TestCore } from "../harness/core.ts";

type Teardown = { teardown(action: () => Promise<void>): unknown };

export const SILENT = pino({ level: "silent" });

export type Answer = {
	readonly status: number;
	readonly headers: Record<string, string | string[] | undefined>;
	readonly body: Buffer;
	/** Of a problem. */
	readonly code: unknown;
	readonly detail: string;
};

export type Asked = {
	readonly method?: "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS";
	readonly token?: string;
	readonly headers?: Record<string, string>;
};

/** A folder that is removed at the test's end. */
export async function ownFolder(t: Teardown): Promise<string> {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-loading-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	return folder;
}

/** Asks by real HTTPS, trusting one authority alone. A connection for each request, as a loader has. */
export async function ask(ca: string, url: string, { method = "GET", token, headers }: Asked = {}): Promise<Answer> {
	const agent = new Agent({ connect: { ca }, pipelining: 0 });
	try {
		const answer = await request(url, {
			...{ dispatcher: agent, method },
			headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers },
		});
		const body = Buffer.from(await answer.body.arrayBuffer());
		const isProblem = String(answer.headers["content-type"]).startsWith("application/problem+json") && body.length > 0;
		const problem = isProblem ? JSON.parse(body.toString()) : {};
		return {
			...{ status: answer.statusCode, headers: answer.headers, body },
			...{ code: problem.code, detail: String(problem.detail) },
		};
	} finally {
		await agent.destroy();
	}
}

/** A real core with a fake builder and runtime, and the listener of its containers. */
export class Desk {
	readonly core: TestCore;
	readonly loading: Loading;
	readonly folder: string;

	private constructor(core: TestCore, folder: string, loading: Loading) {
		this.core = core;
		this.folder = folder;
		this.loading = loading;
	}

	static async open(t: Teardown, options: Partial<LoadingOptions> = {}): Promise<Desk> {
		const core = await TestCore.open(t);
		const folder = await ownFolder(t);
		const loading = await openLoading({ folder, hosts: ["127.0.0.1"], log: SILENT, ...options });
		t.teardown(() => loading.close());
		loading.serve(core.queries);
		return new Desk(core, folder, loading);
	}

	/** Asks as the loader of a service's revision would. */
	load(service: ServiceRecord, revision: number, asked: Asked = {}): Promise<Answer> {
		const { url, token, ca } = this.loading.pass(service, revision);
		return ask(ca, url, { token, ...asked });
	}

	async running(name: string, text: string, more: object = {}): Promise<ServiceRecord> {
		await this.core.create(name, text, more);
		return this.core.at(name, 1, "Running");
	}
}
