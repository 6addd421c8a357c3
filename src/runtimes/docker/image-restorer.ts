import Docker from "dockerode";
import { AppError, messageOf } from "../../errors.ts";
import type { EngineHost } from "../companion/engine.ts";
import type { SpecRecord } from "../companion/state-file.ts";
import type { Daemon } from "./daemon.ts";
import { createImages, type Images } from "./images.ts";
import { LoaderBinary } from "./loader-binary.ts";

/** Puts base images back that somebody removed: the companion does so itself, since no server may be there. */
export class ImageRestorer {
	readonly #settings: EngineHost["settings"];
	readonly #daemon: Daemon;
	readonly #signal: AbortSignal;
	#making: { readonly key: string; readonly images: Images } | null = null;

	constructor(settings: EngineHost["settings"], daemon: Daemon, signal: AbortSignal) {
		this.#settings = settings;
		this.#daemon = daemon;
		this.#signal = signal;
	}

	async isMissing(image: string | undefined): Promise<boolean> {
		return image === undefined || (await this.#daemon.find((docker) => docker.getImage(image).inspect())) === null;
	}

	/** The name of what can be started instead. Rejects with `internal` where there is nothing. */
	async restore({ image, requires }: Pick<SpecRecord, "image" | "requires">): Promise<string> {
		const gone = `the image ${image} is not there`;
		let made = image;
		try {
			made = (await this.#images()?.image(requires)) ?? image;
		} catch (error) {
			// Where the engine itself is away, that is the reason.
			await this.#daemon.call((docker) => docker.ping());
			throw new AppError("internal", `${gone}, and cannot be made: ${messageOf(error)}`, { cause: error });
		}
		if (made === undefined || (await this.isMissing(made)))
			throw new AppError("internal", `${gone}; the operator has to put it into the engine (docker load)`);
		return made;
	}

	/** Null where none is made here. Kept for as long as the settings are the same: it knows what it has hashed. */
	#images(): Images | null {
		const { engine } = this.#settings();
		if (engine.kind !== "docker" || engine.images === undefined) return null;
		const { go, cache, ...rest } = engine.images;
		const key = JSON.stringify(engine);
		if (this.#making?.key !== key) {
			const docker = new Docker(engine.socket === null ? {} : { socketPath: engine.socket });
			const loader = new LoaderBinary({ go, cache });
			this.#making = { key, images: createImages({ docker, loader, ...rest, signal: this.#signal }) };
		}
		return this.#making.images;
	}
}
