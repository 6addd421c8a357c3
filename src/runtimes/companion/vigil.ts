import { isAppError } from "../../errors.ts";
import type { Health } from "../runtime.ts";
import type { Clock } from "./clock.ts";
import type { Engine } from "./engine.ts";
import { healthAnswer } from "./readiness.ts";
import type { InstanceRecord } from "./state-file.ts";

/** So many bad looks in a row count. */
const IN_A_ROW = 2;

/** An instance that was ready. */
export type Watch = {
	/** As it is now. */
	record(): InstanceRecord;
	readonly health: Health;
	/** The address at which it itself listens now, null where it does not. */
	host(): Promise<string | null>;
	/** It is no longer ready. */
	lapsed(why: string): void;
	/** It is ready again. */
	recovered(host: string): void;
};

export type VigilOptions = {
	readonly engine: Pick<Engine, "listening">;
	readonly clock: Clock;
	/** Milliseconds from one look at the listeners to the next, and from one GET of a health path to the next. */
	readonly settings: () => { readonly checkMs: number; readonly askMs: number };
	readonly report: (message: string, error: unknown) => void;
};

type State = { down: boolean; missed: number; refused: number; askedAt: number; asking: boolean };

/** Sees whether what is ready still is: one look of the engine for all, and a GET now and then where health is `http`. */
export class Vigil {
	readonly #options: VigilOptions;
	readonly #watches = new Map<Watch, State>();
	#stop: AbortController | null = null;

	constructor(options: VigilOptions) {
		this.#options = options;
	}

	/** `down`: it is known not to be ready. Returns what ends the watch; nothing is called after that. */
	add(watch: Watch, down: boolean): () => void {
		if (watch.health.type === "none") return () => undefined;
		this.#watches.set(watch, { down, missed: 0, refused: 0, askedAt: this.#options.clock.now(), asking: false });
		if (this.#stop === null) {
			this.#stop = new AbortController();
			this.#run(this.#stop.signal).catch((error) => this.#options.report("the vigil ended", error));
		}
		return () => {
			this.#watches.delete(watch);
			if (this.#watches.size > 0) return;
			this.#stop?.abort();
			this.#stop = null;
		};
	}

	async #run(signal: AbortSignal): Promise<void> {
		const { clock, settings, report } = this.#options;
		for (;;) {
			await clock.sleep(settings().checkMs, signal);
			if (signal.aborted) return;
			await this.#look(signal).catch((error) => {
				if (!isAppError(error, "unavailable")) report("the listeners could not be looked at", error);
			});
		}
	}

	async #look(signal: AbortSignal): Promise<void> {
		const { clock, settings, engine, report } = this.#options;
		const watches = [...this.#watches].map(([watch, state]) => ({ watch, state, record: watch.record() }));
		const listening = await engine.listening(watches.map(({ record }) => record));
		for (const { watch, state, record } of watches) {
			// A look can take its time: who was taken out meanwhile is told nothing.
			if (!this.#watches.has(watch)) continue;
			if (!listening.has(record.instance)) {
				if (++state.missed >= IN_A_ROW)
					this.#lapse(watch, state, `the program no longer listens on $PORT (${record.port})`);
				continue;
			}
			state.missed = 0;
			const due = watch.health.type === "http" && clock.now() - state.askedAt >= settings().askMs;
			if (state.asking || !(state.down || due)) continue;
			state.asking = true;
			this.#ask(watch, state, signal)
				.catch((error) => {
					// Nothing is known while the engine cannot be reached.
					if (!isAppError(error, "unavailable")) report("a health check failed", error);
				})
				.finally(() => {
					state.asking = false;
					state.askedAt = clock.now();
				});
		}
	}

	async #ask(watch: Watch, state: State, signal: AbortSignal): Promise<void> {
		const { health } = watch;
		const { port } = watch.record();
		const host = await watch.host();
		if (host === null) return;
		const answer = health.type === "http" ? await healthAnswer(host, port, health.path, signal) : null;
		if (signal.aborted || !this.#watches.has(watch)) return;
		if (answer !== null) {
			if (++state.refused >= IN_A_ROW) this.#lapse(watch, state, `$PORT (${port}) is no longer healthy: ${answer}`);
			return;
		}
		state.refused = 0;
		if (!state.down) return;
		state.down = false;
		watch.recovered(host);
	}

	#lapse(watch: Watch, state: State, why: string): void {
		if (state.down) return;
		state.down = true;
		watch.lapsed(why);
	}
}
