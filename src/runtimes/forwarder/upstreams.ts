import { Agent } from "node:http";
import type { Duplex } from "node:stream";

/** Where requests can go: one instance of a program. */
export type Upstream = { readonly id: string; readonly host: string; readonly port: number };

/** Idle connections end before common servers end them (node's default is 5 s), so that reuse seldom meets a closed one. */
const IDLE_MS = 4_000;
const MAX_IDLE = 128;

/** Keeps connections for reuse until it is retired. */
class PoolAgent extends Agent {
	#retired = false;

	constructor() {
		super({ keepAlive: true, scheduling: "lifo", maxFreeSockets: MAX_IDLE, timeout: IDLE_MS });
	}

	override keepSocketAlive(socket: Duplex): boolean {
		// The declared return type is void, yet a falsy result is what ends the socket.
		const keep: unknown = super.keepSocketAlive(socket);
		return !this.#retired && keep !== false;
	}

	closeIdle(): void {
		for (const sockets of Object.values(this.freeSockets)) for (const socket of [...(sockets ?? [])]) socket.destroy();
	}

	retire(): void {
		this.#retired = true;
		this.closeIdle();
	}

	revive(): void {
		this.#retired = false;
	}
}

/** One request or tunnel that an upstream is serving. */
export type Use = {
	/** The upstream is going away: end now. */
	readonly cut: () => void;
};

/** An upstream, its idle connections and what it is serving. */
export class Backend {
	readonly upstream: Upstream;
	/** `null` where connections are not reused at all. */
	readonly pool: PoolAgent | null;
	readonly uses = new Set<Use>();
	readonly #waiting = new Set<() => void>();

	constructor(upstream: Upstream, pooled: boolean) {
		this.upstream = upstream;
		this.pool = pooled ? new PoolAgent() : null;
	}

	release(use: Use): void {
		this.uses.delete(use);
		if (this.uses.size === 0) for (const wake of [...this.#waiting]) wake();
	}

	/** Calls back each time the last use ends. */
	onIdle(wake: () => void): () => void {
		this.#waiting.add(wake);
		return () => void this.#waiting.delete(wake);
	}
}

/** The route of now, and the backends that left it and are still serving. */
export class RouteTable {
	readonly #pooled: boolean;
	#current: Backend[] = [];
	readonly #leaving = new Set<Backend>();
	#next = 0;

	constructor(pooled: boolean) {
		this.#pooled = pooled;
	}

	get empty(): boolean {
		return this.#current.length === 0;
	}

	set(upstreams: readonly Upstream[]): void {
		const before = this.#current;
		this.#current = upstreams.map((upstream) => {
			const same = ({ upstream: u }: Backend) =>
				u.id === upstream.id && u.host === upstream.host && u.port === upstream.port;
			const known = before.find(same) ?? [...this.#leaving].find(same);
			if (known === undefined) return new Backend(upstream, this.#pooled);
			this.#leaving.delete(known);
			known.pool?.revive();
			return known;
		});
		for (const backend of before) {
			if (this.#current.includes(backend)) continue;
			backend.pool?.retire();
			if (backend.uses.size === 0) continue;
			this.#leaving.add(backend);
			const forget = backend.onIdle(() => {
				forget();
				this.#leaving.delete(backend);
			});
		}
	}

	has(backend: Backend): boolean {
		return this.#current.includes(backend);
	}

	/** The next in turn that is not among `tried`. */
	pick(tried?: ReadonlySet<Backend>): Backend | undefined {
		for (let i = 0; i < this.#current.length; i++) {
			const backend = this.#current[this.#next++ % this.#current.length];
			if (backend !== undefined && tried?.has(backend) !== true) return backend;
		}
		return undefined;
	}

	/** All that go by this id: after a change of address there may be two. */
	named(id: string): Backend[] {
		return [...this.#current, ...this.#leaving].filter((backend) => backend.upstream.id === id);
	}

	/** Everything that is being served. */
	inFlight(): number {
		let count = 0;
		for (const backend of [...this.#current, ...this.#leaving]) count += backend.uses.size;
		return count;
	}
}
