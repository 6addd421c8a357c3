import type { NetworkInspectInfo } from "dockerode";
import { Turns } from "../../turns.ts";
import { type Daemon, statusOf } from "./daemon.ts";
import { LABELS } from "./plan.ts";

/** A bridge network for each namespace: programs of two namespaces do not reach one another. */
export class Networks {
	readonly #daemon: Daemon;
	readonly #folderId: string;
	readonly #turns = new Turns();

	constructor(daemon: Daemon, folderId: string) {
		this.#daemon = daemon;
		this.#folderId = folderId;
	}

	nameOf(namespace: string): string {
		return `runtime-${this.#folderId}-${namespace}`;
	}

	/** Makes it where there is none. One at a time for a namespace: the engine would make two of the same name. */
	ensure(namespace: string): Promise<void> {
		const name = this.nameOf(namespace);
		return this.#turns.inTurn(name, async () => {
			if ((await this.#daemon.find((docker) => docker.getNetwork(name).inspect())) !== null) return;
			try {
				await this.#daemon.call((docker) =>
					docker.createNetwork({
						Name: name,
						Driver: "bridge",
						CheckDuplicate: true,
						Labels: { [LABELS.folder]: this.#folderId, [LABELS.namespace]: namespace },
					}),
				);
			} catch (error) {
				// Somebody was quicker.
				if (statusOf(error) !== 409) throw error;
			}
		});
	}

	/** Whether all of its addresses are taken, as far as the engine says it. */
	async isFull(namespace: string): Promise<boolean> {
		const name = this.nameOf(namespace);
		const found: NetworkInspectInfo | null = await this.#daemon.find((docker) => docker.getNetwork(name).inspect());
		const prefix = Number(found?.IPAM?.Config?.[0]?.Subnet?.split("/")[1] ?? Number.NaN);
		// Its first address, its last, and the gateway's are nobody's; without a prefix nothing is known.
		return Object.keys(found?.Containers ?? {}).length >= 2 ** (32 - prefix) - 3;
	}

	/** Leaves one that is in use: whoever uses it now takes it along later. */
	remove(namespace: string): Promise<void> {
		return this.#removeNamed(this.nameOf(namespace));
	}

	/** Removes those without a container. */
	async sweep(): Promise<void> {
		const filters = { label: [`${LABELS.folder}=${this.#folderId}`] };
		for (const { Name } of await this.#daemon.call((docker) => docker.listNetworks({ filters })))
			await this.#removeNamed(Name);
	}

	#removeNamed(name: string): Promise<void> {
		return this.#turns.inTurn(name, async () => {
			const { Id } = (await this.#daemon.find((docker) => docker.getNetwork(name).inspect())) ?? {};
			if (Id === undefined) return;
			// The engine counts only what runs as its use; what is to be started on it has it too.
			const filters = { network: [Id] };
			const users = await this.#daemon.call((docker) => docker.listContainers({ all: true, filters }));
			if (users.some(({ State }) => State !== "dead")) return;
			try {
				await this.#daemon.find((docker) => docker.getNetwork(Id).remove());
			} catch (error) {
				// It has active endpoints.
				if (statusOf(error) !== 403) throw error;
			}
		});
	}
}
