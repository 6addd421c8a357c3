import type { Writable } from "node:stream";
import type { ServiceRef } from "../runtime.ts";

/**
 * Tells one listener which services may have changed, one a line. A service that changes again before the listener has taken the
 * line is told once: what waits is at most one line for each service.
 */
export class ChangesStream {
	readonly #to: Writable;
	readonly #waiting = new Map<string, ServiceRef>();
	#blocked = false;

	constructor(to: Writable) {
		this.#to = to;
		to.on("drain", () => {
			this.#blocked = false;
			this.#send();
		});
	}

	tell({ id, namespace, name, version }: ServiceRef): void {
		this.#waiting.set(id, { id, namespace, name, version });
		this.#send();
	}

	/** A sign of life, where there is nothing to tell. */
	beat(): void {
		if (!this.#blocked) this.#blocked = !this.#to.write("\n");
	}

	#send(): void {
		for (const [id, service] of this.#waiting) {
			if (this.#blocked || this.#to.writableEnded) return;
			this.#waiting.delete(id);
			this.#blocked = !this.#to.write(`${JSON.stringify(service)}\n`);
		}
	}
}
