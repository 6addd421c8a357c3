import { readFile } from "node:fs/promises";
import { Agent, buildConnector, fetch, type Response } from "undici";
import { AppError, cancelled, isAppError, messageOf } from "../../errors.ts";
import { AddressGuard, type Lookup } from "./guard.ts";
import { authority, type HostConfig, type Origin, originOf, ownerOf, readAuthority } from "./hosts.ts";

export type OutboundOptions = {
	/** Hosts whose entry relaxes the rules for their own host and port, or names certificates. */
	readonly allow: readonly HostConfig[];
	readonly lookup?: Lookup;
	/** Milliseconds to connect; 5,000 unless said. */
	readonly connectTimeoutMs?: number;
};

export type OutboundRequest = {
	readonly signal: AbortSignal;
	readonly headers?: Readonly<Record<string, string>>;
	/** How many redirects are followed, 3 unless said; the next one is an error. With 0 the redirect itself is returned. */
	readonly redirects?: number;
};

/** Requests to hosts that a user named. They cannot be made to reach addresses that only this machine or its network sees. */
export interface Outbound extends AsyncDisposable {
	/**
	 * GETs a URL. `authorization` is dropped at a redirect to another origin. Rejects with `permission_denied` for an address
	 * that is not public, `invalid_argument` for a URL that is not allowed, `unavailable` where nobody answers.
	 */
	fetch(url: string, request: OutboundRequest): Promise<Response>;
	/** The addresses that a program of ours may connect to for this origin; it has to be pinned to them. Rejects as `fetch`. */
	vet(origin: Origin, signal: AbortSignal): Promise<readonly string[]>;
}

const DEFAULT_REDIRECTS = 3;
const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];

export function createOutbound(options: OutboundOptions): Outbound {
	return new GuardedOutbound(options);
}

class GuardedOutbound implements Outbound {
	readonly #allow: readonly HostConfig[];
	readonly #guard: AddressGuard;
	readonly #timeout: number;
	readonly #agent: Agent;

	constructor(options: OutboundOptions) {
		this.#allow = options.allow;
		this.#guard = new AddressGuard(options.allow, options.lookup);
		this.#timeout = options.connectTimeoutMs ?? 5_000;
		this.#agent = new Agent({
			connect: (where, done) => this.#connect(where, done),
			keepAliveTimeout: 1_000,
			keepAliveMaxTimeout: 1_000,
		});
	}

	async fetch(url: string, request: OutboundRequest): Promise<Response> {
		const headers = new Map(
			Object.entries({ "user-agent": "runtime-builds", ...request.headers }).map(([name, value]) => [
				name.toLowerCase(),
				value,
			]),
		);
		let left = request.redirects ?? DEFAULT_REDIRECTS;
		const follows = left > 0;
		let target = this.#check(url);
		for (;;) {
			const response = await this.#once(target.url, headers, request.signal);
			const location = response.headers.get("location");
			if (!follows || location === null || !REDIRECTS.includes(response.status)) return response;
			await response.body?.cancel();
			if (left === 0) {
				throw new AppError("unavailable", `${authority(target.origin)} redirects too often`, { field: "source" });
			}
			left--;
			const next = this.#check(location, target.url);
			// A redirect that needs no TLS any more, or goes elsewhere, must not carry what was meant for the first.
			if (next.url.origin !== target.url.origin) headers.delete("authorization");
			target = next;
		}
	}

	async vet(origin: Origin, signal: AbortSignal): Promise<readonly string[]> {
		this.#checkScheme(origin);
		return this.#guard.addresses(origin, signal);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#agent.destroy();
	}

	#check(text: string, base?: URL): { readonly url: URL; readonly origin: Origin } {
		const url = URL.canParse(text, base?.href) ? new URL(text, base) : null;
		const origin = url === null ? null : originOf(url);
		if (url === null || origin === null)
			throw new AppError("invalid_argument", "the address is not an https URL", { field: "source" });
		if (url.username !== "" || url.password !== "")
			throw new AppError("invalid_argument", "the address holds credentials", { field: "source" });
		this.#checkScheme(origin);
		return { url, origin };
	}

	#checkScheme(origin: Origin): void {
		if (origin.scheme === "https" || ownerOf(this.#allow, origin)?.allowHttp === true) return;
		throw new AppError("invalid_argument", `${authority(origin)} is spoken to by https only`, {
			field: "source",
			hint: "Write https://, or let an operator set allowHttp for this host.",
		});
	}

	async #once(url: URL, headers: ReadonlyMap<string, string>, signal: AbortSignal): Promise<Response> {
		if (signal.aborted) throw cancelled(signal);
		try {
			return await fetch(url, { dispatcher: this.#agent, headers: [...headers], redirect: "manual", signal });
		} catch (error) {
			if (signal.aborted) throw cancelled(signal);
			const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
			if (cause instanceof AppError) throw cause;
			throw new AppError("unavailable", `${url.host} cannot be reached (${messageOf(cause)})`, {
				field: "source",
				cause: error,
			});
		}
	}

	#connect(where: buildConnector.Options, done: buildConnector.Callback): void {
		this.#open(where, done).catch((error: unknown) =>
			done(error instanceof Error ? error : new Error(messageOf(error)), null),
		);
	}

	async #open(where: buildConnector.Options, done: buildConnector.Callback): Promise<void> {
		const host = where.hostname.includes(":") ? `[${where.hostname}]` : where.hostname;
		const origin = readAuthority(
			where.port === "" ? host : `${host}:${where.port}`,
			where.protocol === "https:" ? "https" : "http",
		);
		if (origin === null) throw new AppError("invalid_argument", "the address names no host", { field: "source" });
		const addresses = await this.#guard
			.addresses(origin, AbortSignal.timeout(this.#timeout))
			.catch((error: unknown) => {
				if (!isAppError(error, "cancelled")) throw error;
				throw new AppError("unavailable", `the name ${origin.host} is not resolved in time`, { cause: error });
			});
		const ca = ownerOf(this.#allow, origin)?.ca;
		const trusted = ca === undefined ? {} : { ca: await readFile(ca) };
		const first = addresses[0];
		const connector = buildConnector({
			...trusted,
			allowH2: false,
			timeout: this.#timeout,
			maxCachedSessions: 0,
			autoSelectFamily: true,
			// The socket asks here instead of the resolver, so that it goes to what was checked and nowhere else.
			lookup: (_host, options, answer) => {
				const all = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
				if (options.all) answer(null, all);
				else answer(null, first ?? "", first?.includes(":") ? 6 : 4);
			},
		});
		connector(where, done);
	}
}
