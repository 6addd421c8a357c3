import { printable, seconds } from "../format.ts";
import type { Output, Phase, Screen, Target } from "./screen.ts";

export type PlainOptions = { readonly quiet: boolean };

/** Below this an upload is over before a step of it is worth a line. */
const STEPS_FROM = 4_000_000;

/** Lines for a pipe, a CI log, or a terminal that cannot move its cursor. */
export class PlainScreen implements Screen {
	readonly #output: Output;
	readonly #quiet: boolean;
	#phase: Phase | undefined;
	#step = 0;

	constructor(output: Output, options: PlainOptions) {
		this.#output = output;
		this.#quiet = options.quiet;
	}

	target({ service, server, namespace, account }: Target): void {
		this.#write(`${service} -> ${server}, ${namespace}, ${account}`);
	}

	say(line: string): void {
		this.#write(line);
	}

	warn(line: string): void {
		this.#write(`warning: ${line}`);
	}

	begin(phase: Phase): void {
		this.#phase = phase;
		this.#step = 0;
	}

	update(detail: string, fraction?: number, total = 0): void {
		if (this.#phase !== "Upload" || fraction === undefined || total < STEPS_FROM) return;
		const step = Math.floor(fraction * 4);
		if (step <= this.#step || step >= 4) return;
		this.#step = step;
		this.#write(`upload ${step * 25}% ${detail.replace(/ of .*/, "")}`);
	}

	done(detail: string, ms: number): void {
		if (this.#phase === "Upload")
			this.#write(detail.startsWith("nothing") ? detail : `upload 100% ${detail.replace(/^.*, /, "")}`);
		else if (this.#phase === "Build" && detail.startsWith("cached")) this.#write(`build cached ${seconds(ms)}`);
		else if (this.#phase !== undefined) this.#write(`${this.#phase.toLowerCase()} done ${seconds(ms)}`);
		this.#phase = undefined;
	}

	fail(_detail: string, ms: number): void {
		if (this.#phase !== undefined) this.#write(`${this.#phase.toLowerCase()} failed ${seconds(ms)}`);
		this.#phase = undefined;
	}

	log(line: string): void {
		if (!this.#quiet) this.#write(`build | ${printable(line)}`);
	}

	keys(): void {
		// Off a terminal there are no keys.
	}

	close(): void {
		this.#phase = undefined;
	}

	#write(line: string): void {
		this.#output.write(`${line}\n`);
	}
}
