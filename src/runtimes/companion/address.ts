import { systemCode } from "../../errors.ts";
import { Forwarder, type Upstream } from "../forwarder/forwarder.ts";
import type { Clock } from "./clock.ts";
import type { Ports } from "./ports.ts";
import type { CompanionSettings } from "./settings.ts";

const RETRY_MS = { first: 20, most: 1_000 };

export type AddressHost = {
	readonly ports: Ports;
	readonly clock: Clock;
	readonly settings: () => CompanionSettings;
	report(message: string, error: unknown): void;
};

/** A service's address: one port for life, and who gets the requests that come there. */
export class Address {
	readonly #host: AddressHost;
	readonly #closing = new AbortController();
	#port: number | null;
	#forwarder: Forwarder | null = null;
	#upstreams: readonly Upstream[] = [];

	/** `port` is that of an earlier companion, null where there was none. */
	constructor(host: AddressHost, port: number | null) {
		this.#host = host;
		this.#port = port;
		if (port !== null) host.ports.hold(port);
	}

	/** Null before the first `open`. */
	get port(): number | null {
		return this.#port;
	}

	get url(): string | null {
		const { publicHost } = this.#host.settings();
		return this.#port === null
			? null
			: `http://${publicHost.includes(":") ? `[${publicHost}]` : publicHost}:${this.#port}`;
	}

	/** Takes a port for life on first use. Rejects with `unavailable` where none is free. */
	async open(): Promise<void> {
		while (this.#port === null) {
			const port = await this.#host.ports.take();
			try {
				this.#forwarder = await Forwarder.listen({ host: this.#host.settings().publicHost, port });
				this.#port = port;
			} catch (error) {
				this.#host.ports.release(port);
				if (systemCode(error) !== "EADDRINUSE") throw error;
			}
		}
	}

	/** Listens again where an earlier companion did: whoever else has the port now is waited for. */
	async reopen(): Promise<void> {
		const { signal } = this.#closing;
		const port = this.#port;
		if (port === null) return;
		for (let delay = RETRY_MS.first; !signal.aborted; delay = Math.min(RETRY_MS.most, delay * 2)) {
			try {
				const forwarder = await Forwarder.listen({ host: this.#host.settings().publicHost, port });
				this.#forwarder = forwarder;
				forwarder.route(this.#upstreams);
				if (signal.aborted) await forwarder[Symbol.asyncDispose]();
				return;
			} catch (error) {
				if (systemCode(error) !== "EADDRINUSE") this.#host.report(`port ${port} cannot be listened on`, error);
				await this.#host.clock.sleep(delay, signal);
			}
		}
	}

	route(upstreams: readonly Upstream[]): void {
		this.#upstreams = upstreams;
		this.#forwarder?.route(upstreams);
	}

	/** As the forwarder's. Nothing where it does not listen. */
	async drain(
		upstreamId: string,
		options: { readonly timeoutMs: number; readonly signal: AbortSignal },
	): Promise<void> {
		await this.#forwarder?.drain(upstreamId, options);
	}

	async close(): Promise<void> {
		this.#closing.abort();
		await this.#forwarder?.[Symbol.asyncDispose]();
		this.#forwarder = null;
	}

	/** Gives the port back for good. Close it first. */
	release(): void {
		if (this.#port !== null) this.#host.ports.release(this.#port);
		this.#port = null;
	}
}
