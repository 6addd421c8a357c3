import { setTimeout as delay } from "node:timers/promises";
import { BuildError } from "../builder.ts";
import type { Group } from "./cgroups.ts";
import type { DiskWatch } from "./disk-watch.ts";
import { EXCEEDED, inMiB, type Limited, type Limits } from "./limits.ts";
import { AllowProxy, authorityOf } from "./proxy.ts";
import type { Confined, Ended } from "./sandbox.ts";

/** How often limits are looked at that the kernel does not hold by itself. */
const WATCH_MS = 250;

/** What belongs to one command: what ends it, and what is cleaned up after it, last first. */
export class Run implements AsyncDisposable {
	readonly #stop = new AbortController();
	readonly #after: (() => Promise<void>)[] = [];
	readonly #refused: string[] = [];
	ended: string | undefined;
	/** What the machine, and not the command, has run out of. */
	shortage: string | undefined;

	get signal(): AbortSignal {
		return this.#stop.signal;
	}

	after(action: () => Promise<void>): void {
		this.#after.push(action);
	}

	end(words: string): void {
		this.ended ??= words;
		this.#stop.abort();
	}

	/** Leads to the command's hosts from a socket at `socket`. */
	async proxy(
		socket: string,
		command: Pick<Confined, "hosts" | "log">,
		limits: Limits,
		env: Readonly<Record<string, string | undefined>>,
	): Promise<void> {
		const proxy = await AllowProxy.open({
			...{ socket, hosts: command.hosts, maxBytes: limits.network, env },
			onRefused: once((authority) => {
				this.#refused.push(authority);
				command.log(`[${authority} was not reached: a build may reach ${listOf(command.hosts)} alone]`);
			}),
			onTooMuch: () => this.end(EXCEEDED.network(limits)),
		});
		this.after(() => proxy[Symbol.asyncDispose]());
	}

	/** What is said of a command that ended with this code. */
	async verdict(exitCode: number, limits: Limits, group: Pick<Group, "exceeded"> | undefined): Promise<Ended> {
		if (this.shortage !== undefined)
			throw new BuildError(
				"unavailable",
				`the machine that builds has ${this.shortage} left; try again when there is room`,
			);
		const exceeded = exitCode === 0 ? undefined : await group?.exceeded();
		const ended = this.ended ?? (exceeded === undefined ? undefined : EXCEEDED[exceeded](limits));
		const refused = this.#refused.length === 0 ? {} : { refused: this.#refused };
		return ended === undefined ? { exitCode, ...refused } : { exitCode, ended, ...refused };
	}

	watch(disk: DiskWatch, group: Pick<Group, "exceeded"> | undefined, limits: Limits): void {
		const closing = new AbortController();
		const look = async () => {
			const exceeded: Limited | undefined = await group?.exceeded();
			if (exceeded !== undefined) this.end(EXCEEDED[exceeded](limits));
			const verdict = await disk.look();
			if (verdict === "too_much") this.end(EXCEEDED.disk(limits));
			if (verdict === "too_many") this.end(EXCEEDED.files(limits));
			if (verdict === "no_room") this.#short(`less than ${inMiB(limits.reserve)} of disk`);
			if (verdict === "no_files") this.#short(`room for fewer than ${limits.reserveFiles} files on its disk`);
		};
		const watching = (async () => {
			while (!closing.signal.aborted && !this.signal.aborted) {
				await delay(WATCH_MS, undefined, { signal: closing.signal }).catch(() => undefined);
				if (!closing.signal.aborted) await look();
			}
		})();
		// Without its watch a command is not limited: it ends, with the reason.
		watching.catch((error: unknown) => this.#stop.abort(error));
		this.after(async () => {
			closing.abort();
			await watching;
		});
	}

	#short(words: string): void {
		this.shortage ??= words;
		this.#stop.abort();
	}

	/** All of it, whatever fails; rejects with the first failure. */
	async [Symbol.asyncDispose](): Promise<void> {
		const failures: unknown[] = [];
		for (const action of this.#after.splice(0).reverse())
			await action().catch((error: unknown) => void failures.push(error));
		if (failures.length > 0) throw failures[0];
	}
}

function listOf(hosts: readonly URL[]): string {
	return hosts.map(authorityOf).join(", ");
}

/** Each value once, and not too many. */
function once(action: (value: string) => void): (value: string) => void {
	const seen = new Set<string>();
	return (value) => {
		if (seen.has(value) || seen.size >= 20) return;
		seen.add(value);
		action(value);
	};
}
