import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { platformOf } from "../../src/platform/platform.ts";
import { CompanionLock } from "../../src/runtimes/companion/lock.ts";
import type { Runtime, ServiceRef, ServiceSpec } from "../../src/runtimes/runtime.ts";
import { until } from "../conformance/runtime.ts";

/** What the runtimes that have a companion share in their tests. */
export const FAST = {
	graceMs: 2_000,
	drainMs: 5_000,
	backoffFirstMs: 20,
	backoffMostMs: 200,
	aliveMs: 100,
	idleMs: 300,
	unavailableMs: 20_000,
	ports: { from: 21_000, to: 31_999 },
};

export const SERVICE: ServiceRef = { id: "s1", namespace: "default", name: "hello", version: "latest" };
export const call = { signal: new AbortController().signal };

/** A folder of the test's own, in which nothing runs any more when the test is over. */
export async function folderOf(
	t: Test,
	open: (folder: string) => Promise<Runtime>,
	check: () => Promise<void> = async () => undefined,
): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), "runtime-"));
	t.teardown(async () => {
		const last = await open(folder);
		for await (const service of last.list(call)) await last.remove(service, call);
		await last[Symbol.asyncDispose]();
		await until(
			() => companion(folder),
			(pid) => pid === null,
			"the companion ends by itself",
		);
		await check();
		await rm(folder, { recursive: true, force: true });
	});
	return folder;
}

/** Pid of the folder's living companion. */
export async function companion(folder: string): Promise<number | null> {
	return (await new CompanionLock(folder, platformOf()).holder())?.pid ?? null;
}

export function specOf(
	bytes: Buffer,
	service: ServiceRef,
	revision: number,
	args: readonly string[],
	change: Partial<ServiceSpec> = {},
): ServiceSpec {
	const open = async () =>
		(async function* () {
			yield bytes;
		})();
	return {
		...service,
		revision,
		generation: 1,
		program: { kind: "build", sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, open },
		requires: "none",
		args,
		env: {},
		health: { type: "port", path: "/", timeout: 30 },
		restart: "on-failure",
		instances: 1,
		...change,
	};
}

/** Body of a 200, null for anything else. A connection of its own. */
export function ask(url: string): Promise<string | null> {
	return new Promise((resolve) => {
		const outgoing = request(url, { agent: false, timeout: 10_000 }, (response) => {
			let body = "";
			response.setEncoding("utf8").on("data", (piece) => {
				body += piece;
			});
			response.on("end", () => resolve(response.statusCode === 200 ? body : null));
			response.on("error", () => resolve(null));
		});
		outgoing.on("timeout", () => outgoing.destroy());
		outgoing.on("error", () => resolve(null));
		outgoing.end();
	});
}

export function reach(runtime: Runtime, revision: number, phase: string, generation = 1, service = SERVICE) {
	return until(
		() => runtime.observe(service, call),
		(seen) => seen.revisions.find((one) => one.revision === revision && one.generation === generation)?.phase === phase,
		`revision ${revision} is ${phase}`,
	);
}
