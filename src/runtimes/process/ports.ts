import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { AppError, systemCode } from "../../errors.ts";

export type PortRange = { readonly from: number; readonly to: number };

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

	/** A port that nobody had taken when it was tried. Rejects with `exhausted`. */
	async take(): Promise<number> {
		for (let tried = 0; tried < this.#size; tried++) {
			const port = this.#next;
			this.#next = port >= this.#range.to ? this.#range.from : port + 1;
			if (this.#taken.has(port)) continue;
			this.#taken.add(port);
			if ((await isFree("127.0.0.1", port)) && (await isFree("::1", port))) return port;
			this.#taken.delete(port);
		}
		throw new AppError("exhausted", `no port from ${this.#range.from} to ${this.#range.to} is free`);
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
