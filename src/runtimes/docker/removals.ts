import type { ContainerInfo, ContainerInspectInfo } from "dockerode";
import { AppError, isAppError } from "../../errors.ts";
import type { EngineHost } from "../companion/engine.ts";
import { type Daemon, reasonOf, statusOf } from "./daemon.ts";
import { asideName } from "./plan.ts";

const LOOK_MS = { first: 50, most: 1_000 };
/** The engine says that it removes a container, and it does not go away. */
const UNDER_WAY_MS = 30_000;
/** What the engine cannot remove: another mount of it may be there for hours. */
const AGAIN_MS = { first: 5_000, most: 600_000 };

export type RemovalsHost = Pick<EngineHost, "clock" | "folderId" | "report">;

/** Removes containers, or at least what is in the way of others. */
export class Removals {
	readonly #host: RemovalsHost;
	readonly #daemon: Daemon;
	#again = { at: 0, delay: AGAIN_MS.first };

	constructor(host: RemovalsHost, daemon: Daemon) {
		this.#host = host;
		this.#daemon = daemon;
	}

	/** Resolves when there is no such container, or it is out of the way. Rejects with `unavailable` where neither comes about. */
	async remove(id: string): Promise<void> {
		const { clock } = this.#host;
		const deadline = clock.now() + UNDER_WAY_MS;
		for (let delay = LOOK_MS.first; ; delay = Math.min(LOOK_MS.most, delay * 1.5)) {
			let refused: unknown = null;
			try {
				const removed = this.#daemon.find((docker) => docker.getContainer(id).remove({ force: true, v: true }));
				if ((await removed) === null) return;
			} catch (error) {
				if (statusOf(error) === null) throw error;
				// Else its removal is under way.
				if (statusOf(error) !== 409) refused = error;
			}
			const info = await this.#daemon.find((docker) => docker.getContainer(id).inspect());
			if (info === null) return;
			if (refused !== null) {
				if (!info.State.Dead) throw refused;
				return this.#putAside(info, refused);
			}
			if (clock.now() >= deadline)
				throw new AppError(
					"unavailable",
					`the Docker engine says that it removes the container ${id.slice(0, 12)}, and does not come to an end; where that goes on, the operator has to restart the engine`,
				);
			await clock.sleep(delay);
		}
	}

	/** What could not be removed is tried again, now and then. `all`: the containers that there are. */
	again(all: readonly ContainerInfo[]): void {
		const { clock, folderId, report } = this.#host;
		const dead = all.filter(({ Id, Names }) => Names.includes(`/${asideName(folderId, Id)}`));
		if (dead.length === 0) this.#again = { at: 0, delay: AGAIN_MS.first };
		if (dead.length === 0 || clock.now() < this.#again.at) return;
		const { delay } = this.#again;
		this.#again = { at: clock.now() + delay, delay: Math.min(AGAIN_MS.most, delay * 2) };
		for (const { Id } of dead)
			this.remove(Id).catch((error) => {
				if (!isAppError(error, "unavailable")) report(`${Id} cannot be removed`, error);
			});
	}

	/** Its file system is busy, and it can do nothing any more: it must not be in the way of those that can. */
	async #putAside({ Id, Name }: ContainerInspectInfo, refused: unknown): Promise<void> {
		const name = asideName(this.#host.folderId, Id);
		if (Name === `/${name}`) return;
		this.#host.report(`${Id} cannot be removed yet: ${reasonOf(refused)}`, refused);
		await this.#daemon.find((docker) => docker.getContainer(Id).rename({ name }));
	}
}
