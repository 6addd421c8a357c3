import { AppError } from "../errors.ts";
import type { Runtime } from "../runtimes/runtime.ts";
import type { ServiceStore } from "./store.ts";

/** Keeps a runtime whose programs can reach each other to the services of one namespace. */
export class TrustDomain {
	readonly #store: ServiceStore;
	readonly #trust: Runtime["trust"];
	#turn: Promise<unknown> = Promise.resolve();

	constructor(store: ServiceStore, trust: Runtime["trust"]) {
		this.#store = store;
		this.#trust = trust;
	}

	/** Runs a create in this namespace. Rejects with `permission_denied` where another namespace has services already. */
	admit<T>(namespace: string, create: () => Promise<T>): Promise<T> {
		if (this.#trust === "many") return create();
		// One at a time: two first services of two namespaces must not both find nobody there.
		const admitted = this.#turn.then(async () => {
			await this.#check(namespace);
			return create();
		});
		this.#turn = admitted.catch(() => undefined);
		return admitted;
	}

	async #check(namespace: string): Promise<void> {
		// All services are of one namespace, so that the first tells of all.
		for await (const service of this.#store.all()) {
			if (service.namespace === namespace) return;
			throw new AppError(
				"permission_denied",
				`this server runs the services of namespace ${service.namespace} and keeps others out: its programs are not shielded from each other`,
				{
					field: "Runtime-Namespace",
					hint: `Start another server on a data folder of its own for ${namespace}, or remove the services of ${service.namespace} first.`,
				},
			);
		}
	}
}
