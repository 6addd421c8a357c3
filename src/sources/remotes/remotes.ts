import type { Call } from "../../blob/store.ts";
import { AppError, cancelled, messageOf } from "../../errors.ts";
import { Semaphore } from "../../semaphore.ts";
import type { RemoteAddress } from "./address.ts";
import { CheckedOutTree, type RemoteLimits, type RemoteTree } from "./checkout.ts";
import { DEFAULT_CONTENT_LIMITS } from "./contents.ts";
import { GitFailure } from "./git.ts";
import type { Lookup } from "./guard.ts";
import type { HostConfig } from "./hosts.ts";
import { ResolveTimeout } from "./inspection.ts";
import { createOutbound, type Outbound } from "./outbound.ts";
import { type PinnedRemote, Resolver } from "./resolver.ts";

export type { RemoteLimits, RemoteTree } from "./checkout.ts";
export { DEFAULT_HOSTS, type HostConfig, parseHosts } from "./hosts.ts";
export type { PinnedRemote } from "./resolver.ts";

export type RemotesOptions = {
	/** The first entry for a host counts: an operator's come before DEFAULT_HOSTS. A host without one is a plain git host. */
	readonly hosts: readonly HostConfig[];
	/** Absolute. Each piece of work makes and removes a folder `remote-…` in it; what a crash leaves may be removed at start. */
	readonly workFolder: string;
	/** The program; `git` from PATH unless said. */
	readonly git?: string;
	/** Milliseconds for one `resolve`; 5,000 unless said. */
	readonly timeoutMs?: number;
	/** Look-ups at the same time: each has its programs and connections. The others wait within their time; 8 unless said. */
	readonly parallel?: number;
	readonly limits?: Partial<RemoteLimits>;
	/** In place of the system's resolver. */
	readonly lookup?: Lookup;
};

export const DEFAULT_REMOTE_LIMITS: RemoteLimits = {
	...DEFAULT_CONTENT_LIMITS,
	fetchBytes: 2 * 1024 ** 3,
	timeMs: 10 * 60_000,
};

/**
 * Sources in git repositories elsewhere.
 *
 * Git runs without hooks, submodules, prompts, redirects and its owner's configuration, pinned to addresses that were vetted.
 * A token goes to its own host only, and appears in no argument, URL, message or file.
 */
export class Remotes implements AsyncDisposable {
	readonly #options: RemotesOptions;
	readonly #outbound: Outbound;
	readonly #resolver: Resolver;
	readonly #git: string;
	readonly #timeoutMs: number;
	readonly #slots: Semaphore;

	constructor(options: RemotesOptions) {
		this.#options = options;
		this.#git = options.git ?? "git";
		this.#timeoutMs = options.timeoutMs ?? 5_000;
		this.#slots = new Semaphore(options.parallel ?? 8);
		this.#outbound = createOutbound({
			allow: options.hosts,
			...(options.lookup === undefined ? {} : { lookup: options.lookup }),
		});
		this.#resolver = new Resolver({
			hosts: options.hosts,
			outbound: this.#outbound,
			workFolder: options.workFolder,
			git: this.#git,
		});
	}

	/**
	 * Settles repository, folder and commit, all three checked (on a host without an API the folder only where that is done
	 * in time; `open` checks it again). Rejects, with field `source`, with
	 * `not_found`: no such repository, folder or ref, as the message says · `invalid_argument`: cannot be used as it is written ·
	 * `permission_denied`: a token is needed or refused, or the address is not public ·
	 * `unavailable`: nobody answered in time, or not as expected; the source may well be right, and `open` finds out.
	 */
	async resolve(address: RemoteAddress, call: Call): Promise<PinnedRemote> {
		const late = new AbortController();
		const timer = setTimeout(() => late.abort(new ResolveTimeout("resolving took too long")), this.#timeoutMs);
		const signal = AbortSignal.any([call.signal, late.signal]);
		let release: (() => void) | undefined;
		try {
			release = await this.#slots.acquire(signal);
			return await this.#resolver.pin(address, "forge", signal);
		} catch (error) {
			if (call.signal.aborted) throw cancelled(call.signal);
			if (late.signal.aborted) {
				const seconds = this.#timeoutMs / 1000;
				const words =
					release === undefined
						? `${address.host} was not asked within ${seconds} s: too many other remotes are being looked up`
						: `${address.host} did not answer within ${seconds} s`;
				throw new AppError("unavailable", words, { field: "source", cause: error });
			}
			if (error instanceof GitFailure)
				throw new AppError("unavailable", `git failed: ${messageOf(error)}`, { field: "source", cause: error });
			throw error;
		} finally {
			release?.();
			clearTimeout(timer);
		}
	}

	/**
	 * The remote as a builder takes it; fetched on first use, removed by disposal. An address that was not resolved yet is
	 * settled by git alone, so that a trouble of the host's API does not matter. Its calls reject as `resolve`, and with
	 * `invalid_argument` for contents that are refused (see contents.ts) or too large, `no_space` where the disk is full.
	 */
	open(remote: PinnedRemote | RemoteAddress, limits: Partial<RemoteLimits> = {}): RemoteTree {
		return new CheckedOutTree(remote, {
			resolver: this.#resolver,
			workFolder: this.#options.workFolder,
			git: this.#git,
			limits: { ...DEFAULT_REMOTE_LIMITS, ...this.#options.limits, ...limits },
		});
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#outbound[Symbol.asyncDispose]();
	}
}
