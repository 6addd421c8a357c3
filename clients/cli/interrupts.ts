import { readFileSync } from "node:fs";
import type { ReadStream } from "node:tty";

/** `interrupt`: Ctrl-C. `detach`: the key d. `hangup`: SIGTERM or SIGHUP. */
export type Interrupt = "interrupt" | "detach" | "hangup";

/**
 * Signals and keys, one handler at a time. Keys are read in raw mode, where Ctrl-C is a byte and no signal; both mean the
 * same. `close` leaves the terminal as it was.
 */
export class Interrupts {
	/** Called for each; replaced as the work goes on. */
	handle: (interrupt: Interrupt) => void = () => undefined;
	readonly #stdin: ReadStream | undefined;
	readonly #signals: readonly (readonly [NodeJS.Signals, () => void])[];
	readonly #onData = (data: Buffer): void => this.#keys(data);
	readonly #onExit = (): void => this.#raw(false);
	readonly #onContinue = (): void => this.#raw(true);

	constructor(stdin: NodeJS.ReadStream, keys: boolean) {
		this.#signals = [
			["SIGINT", () => this.handle("interrupt")],
			["SIGTERM", () => this.handle("hangup")],
			["SIGHUP", () => this.handle("hangup")],
		];
		for (const [signal, listener] of this.#signals) process.on(signal, listener);
		if (!keys || !stdin.isTTY || inBackground()) return;
		this.#stdin = stdin;
		this.#raw(true);
		stdin.on("data", this.#onData);
		stdin.on("error", this.#onExit);
		process.on("exit", this.#onExit);
		process.on("SIGCONT", this.#onContinue);
	}

	/** True where the key d is read. */
	get readsKeys(): boolean {
		return this.#stdin !== undefined;
	}

	/** Leaves the terminal to `work` meanwhile: keys are its own. */
	async paused<T>(work: () => Promise<T>): Promise<T> {
		const stdin = this.#stdin;
		stdin?.off("data", this.#onData);
		try {
			return await work();
		} finally {
			if (stdin !== undefined) {
				this.#raw(true);
				stdin.on("data", this.#onData).resume();
			}
		}
	}

	close(): void {
		for (const [signal, listener] of this.#signals) process.off(signal, listener);
		process.off("exit", this.#onExit).off("SIGCONT", this.#onContinue);
		this.#raw(false);
		this.#stdin?.off("data", this.#onData).off("error", this.#onExit).pause();
	}

	#raw(on: boolean): void {
		if (this.#stdin?.isTTY && !this.#stdin.destroyed) this.#stdin.setRawMode(on);
	}

	#keys(data: Buffer): void {
		// An arrow key starts with ESC and may hold a "d": only plain keys count.
		if (data[0] === 0x1b) return;
		for (const byte of data) {
			if (byte === 0x03) this.handle("interrupt");
			else if (byte === 0x64 || byte === 0x44) this.handle("detach");
			else if (byte === 0x1a) {
				this.#raw(false);
				process.kill(process.pid, "SIGTSTP");
			}
		}
	}
}

/** A job behind `&` that touches the terminal's mode would be stopped. */
function inBackground(): boolean {
	if (process.platform !== "linux") return false;
	try {
		const fields = readFileSync("/proc/self/stat", "latin1")
			.replace(/^.*\) /s, "")
			.split(" ");
		return fields[2] !== fields[5];
	} catch {
		return false;
	}
}
