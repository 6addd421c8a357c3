import type { FollowView } from "./follow.ts";
import { size } from "./format.ts";
import type { Screen } from "./screen/screen.ts";
import type { Revision, ServiceError, Status } from "./shapes.ts";

export type ProgressOptions = {
	/** What will build it, as far as known. */
	readonly builder: string | undefined;
	/** Whether a build is expected: a source was sent. Undefined: attached from outside. */
	readonly builds: boolean | undefined;
	/** The revision as it is now; asked once, when its build is done. */
	readonly revision: () => Promise<Revision | undefined>;
	/** True where the events are about what happened before we looked. */
	readonly replay: boolean;
	/** Called when what Ctrl-C would do changes. */
	readonly onStatus: (status: Status) => void;
};

const LONGEST_LOG = 20_000;

/** Turns a revision's moves into the screen's phases, timed by the server's own clock. */
export class Progress implements FollowView {
	readonly #screen: Screen;
	readonly #options: ProgressOptions;
	readonly #log: string[] = [];
	#phase: "Build" | "Start" | undefined;
	#since = Date.now();
	#sinceServer: number | undefined;
	#built = false;

	constructor(screen: Screen, options: ProgressOptions) {
		this.#screen = screen;
		this.#options = options;
		if (options.builds === true) this.#begin("Build", undefined);
	}

	/** The build's log so far; the oldest lines of a very long one are missing. */
	get log(): readonly string[] {
		return this.#log;
	}

	async moved(to: Status, time: string): Promise<void> {
		this.#options.onStatus(to);
		if (to === "Building") this.#begin("Build", time);
		else if (to === "Starting") {
			if (this.#phase === "Build" || this.#options.builds === true) await this.#buildDone(time);
			if (this.#phase !== "Start") this.#begin("Start", time);
		}
	}

	line(text: string): void {
		this.#log.push(text);
		if (this.#log.length > LONGEST_LOG) this.#log.shift();
		this.#screen.log(text);
	}

	lost(): void {
		this.#screen.update("connection lost; trying again");
	}

	back(ms: number): void {
		this.#screen.update(this.#detail());
		if (ms >= 1000) this.#screen.say(`-- connection lost; back after ${Math.round(ms / 1000)}s, nothing missed --`);
	}

	/** Closes the open phase with what became of the revision. */
	async ended(
		revision: Revision | undefined,
		outcome: "ready" | "ended" | "failed",
		error?: ServiceError | null,
	): Promise<void> {
		const time = revision?.updatedAt;
		if (outcome !== "failed") {
			if (this.#phase === "Build") await this.#buildDone(time, revision);
			if (this.#phase !== "Start") this.#begin("Start", time);
			this.#screen.done(outcome, this.#elapsed(time));
			return;
		}
		const inBuild = error?.phase !== "start" && error?.phase !== "run" && error?.phase !== "stop";
		if (!inBuild && this.#phase === "Build") await this.#buildDone(time, revision);
		if (this.#phase === undefined || (!inBuild && this.#phase !== "Start"))
			this.#begin(inBuild ? "Build" : "Start", time);
		this.#screen.fail(inBuild ? (this.#options.builder ?? "") : failureWords(error), this.#elapsed(time));
	}

	#begin(phase: "Build" | "Start", time: string | undefined): void {
		this.#phase = phase;
		this.#sinceServer = time === undefined ? undefined : Date.parse(time);
		this.#since =
			this.#options.replay && this.#sinceServer !== undefined ? Math.min(this.#sinceServer, Date.now()) : Date.now();
		this.#screen.begin(phase, this.#detail(), this.#since);
	}

	async #buildDone(time: string | undefined, known?: Revision): Promise<void> {
		if (this.#built) return;
		this.#built = true;
		const revision = known ?? (await this.#options.revision().catch(() => undefined));
		const build = revision?.build;
		const words = build ? `${build.builder}, ${size(build.size)}` : (this.#options.builder ?? "");
		// A build that nobody saw running was taken from an earlier one.
		const cached = this.#phase !== "Build" || this.#sinceServer === undefined;
		this.#screen.done(cached ? `cached ${words}`.trim() : words, this.#elapsed(time));
		this.#phase = undefined;
	}

	#detail(): string {
		return this.#phase === "Build" ? (this.#options.builder ?? "") : "";
	}

	#elapsed(time: string | undefined): number {
		if (time !== undefined && this.#sinceServer !== undefined) return Math.max(0, Date.parse(time) - this.#sinceServer);
		return Date.now() - this.#since;
	}
}

function failureWords(error: ServiceError | null | undefined): string {
	return error === null || error === undefined ? "failed" : error.code.replaceAll("_", " ");
}
