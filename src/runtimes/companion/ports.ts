import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { AppError, isAppError, systemCode } from "../../errors.ts";
import type { Clock } from "./clock.ts";

/** Both inclusive. */
export type PortRange = { readonly from: number; readonly to: number };

const FIRST = 20_000;
const LAST = 32_767;
/** A range below the system's own that is smaller than this is no use. */
const FEWEST = 1_000;
const LOOK_AGAIN_MS = 500;

/**
 * From 20000 up to where the system's own ports begin. Where those begin lower, the system may have any port now and then, and
 * whoever binds one tries the next.
 */
export function defaultRange(firstEphemeral: number): PortRange {
	return { from: FIRST, to: firstEphemeral - FIRST >= FEWEST ? Math.min(firstEphemeral - 1, 65_535) : LAST };
}

/** Throws `invalid_argument` for a range in which there is no port. */
export function checkRange({ from, to }: PortRange): void {
	const isPort = (port: number) => Number.isInteger(port) && port >= 1 && port <= 65_535;
	if (isPort(from) && isPort(to) && from <= to) return;
	throw new AppError("invalid_argument", `ports: there is no port from ${from} to ${to}`, {
		field: "ports",
		hint: `Give the lower one first, both from 1 to 65535, for example ${FIRST}-${LAST}.`,
	});
}

/** Gives out ports of a range, never one twice at a time. Starts at a place of its folder's own, so that two folders seldom meet. */
export class Ports {
	readonly #range: PortRange;
	readonly #taken = new Set<number>();
	#next: number;

	constructor(range: PortRange, folder: string) {
		this.#range = range;
		const offset = createHash("sha256").update(folder).digest().readUInt32BE(0);
		this.#next = range.from + (offset % this.#size);
	}

	get #size(): number {
		return this.#range.to - this.#range.from + 1;
	}

	/** Marks a port that is in use since before. */
	hold(port: number): void {
		this.#taken.add(port);
	}

	release(port: number): void {
		this.#taken.delete(port);
	}

	/** A port that nobody had taken when it was tried. Rejects with `unavailable`: another's end gives one back. */
	async take(): Promise<number> {
		for (let tried = 0; tried < this.#size; tried++) {
			const port = this.#next;
			this.#next = port >= this.#range.to ? this.#range.from : port + 1;
			if (this.#taken.has(port)) continue;
			this.#taken.add(port);
			if ((await isFree("127.0.0.1", port)) && (await isFree("::1", port))) return port;
			this.#taken.delete(port);
		}
		throw new AppError("unavailable", `no port from ${this.#range.from} to ${this.#range.to} is free`);
	}

	/** Waits where none is free: another's end gives one back. Rejects with `unavailable` after `limitMs`; null when aborted. */
	async takeInTime(clock: Clock, limitMs: number, signal: AbortSignal): Promise<number | null> {
		const deadline = clock.now() + limitMs;
		while (!signal.aborted) {
			try {
				return await this.take();
			} catch (error) {
				if (!isAppError(error, "unavailable") || clock.now() >= deadline) throw error;
				await clock.sleep(LOOK_AGAIN_MS, signal);
			}
		}
		return null;
	}

	/** So many, or none. */
	async takeAll(count: number): Promise<number[]> {
		const taken: number[] = [];
		try {
			while (taken.length < count) taken.push(await this.take());
			return taken;
		} catch (error) {
			for (const port of taken) this.release(port);
			throw error;
		}
	}
}

async function isFree(host: string, port: number): Promise<boolean> {
	const server = createServer();
	try {
		server.listen({ host, port, exclusive: true });
		await once(server, "listening");
	} catch (error) {
		// A machine without IPv6 has nobody on that port there.
		return systemCode(error) !== "EADDRINUSE" && systemCode(error) !== "EACCES";
	}
	server.close();
	await once(server, "close");
	return true;
}
