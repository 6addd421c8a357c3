import { clip, printable, seconds, width } from "../format.ts";
import type { Paint } from "./paint.ts";
import type { Output, Phase, Screen, Target } from "./screen.ts";

export type TtyOptions = { readonly paint: Paint; readonly quiet: boolean };

const FRAMES = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_MS = 100;
const WINDOW = 6;
const DETAIL = 25;

type Open = { readonly phase: Phase; detail: string; readonly since: number };
/** Plain text and how it is coloured, so that it can be measured and cut before it is painted. */
type Line = { readonly text: string; readonly paint: (text: string) => string };

/**
 * Finished lines scroll away; below them a block of a spinner line, the last six lines of the build log and a hint is
 * drawn again and again. No drawn line reaches the last column, so that no terminal wraps it, and after a resize the
 * rows that the old block takes are counted anew.
 */
export class TtyScreen implements Screen {
	readonly #output: Output;
	readonly #paint: Paint;
	readonly #quiet: boolean;
	#open: Open | undefined;
	#window: string[] = [];
	#hint: string | undefined;
	#drawn: number[] = [];
	#frame = 0;
	#timer: NodeJS.Timeout | undefined;
	#hidden = false;
	readonly #restore = (): void => this.#showCursor();

	constructor(output: Output, options: TtyOptions) {
		this.#output = output;
		this.#paint = options.paint;
		this.#quiet = options.quiet;
	}

	target({ service, server, namespace, account }: Target): void {
		this.say(`${service} → ${server} · ${namespace} · ${account}`);
	}

	say(line: string): void {
		this.#above(`${line}\n`);
	}

	warn(line: string): void {
		this.#above(`${this.#paint.yellow("!")} ${line}\n`);
	}

	begin(phase: Phase, detail: string, startedAt = Date.now()): void {
		this.#open = { phase, detail, since: startedAt };
		this.#window = [];
		if (this.#timer === undefined) {
			this.#timer = setInterval(() => {
				this.#frame += 1;
				this.#draw();
			}, FRAME_MS);
			process.once("exit", this.#restore);
		}
		this.#draw();
	}

	update(detail: string): void {
		if (this.#open !== undefined) this.#open.detail = detail;
	}

	done(detail: string, ms: number): void {
		this.#finish(this.#paint.green("✔"), detail, ms);
	}

	fail(detail: string, ms: number): void {
		this.#finish(this.#paint.red("✘"), detail, ms);
	}

	log(line: string): void {
		if (this.#quiet) return;
		this.#window.push(printable(line));
		if (this.#window.length > WINDOW) this.#window.shift();
	}

	keys(hint: string | undefined): void {
		this.#hint = hint;
	}

	close(): void {
		if (this.#timer !== undefined) clearInterval(this.#timer);
		this.#timer = undefined;
		this.#open = undefined;
		this.#above("");
		this.#showCursor();
		process.off("exit", this.#restore);
	}

	#finish(mark: string, detail: string, ms: number): void {
		const open = this.#open;
		if (open === undefined) return;
		this.#open = undefined;
		this.#window = [];
		this.#above(`${mark} ${this.#columns(open.phase, detail, ms)}\n`);
	}

	#columns(phase: Phase, detail: string, ms: number): string {
		const gap = " ".repeat(Math.max(1, DETAIL - width(detail)));
		return `${phase.padEnd(6)}  ${detail}${gap}${seconds(ms)}`;
	}

	/** Writes what stays, above the block. */
	#above(text: string): void {
		this.#output.write(this.#erase() + text);
		this.#draw();
	}

	#erase(): string {
		const columns = this.#output.columns || 80;
		let rows = 0;
		for (const taken of this.#drawn) rows += Math.max(1, Math.ceil(taken / columns));
		this.#drawn = [];
		return rows === 0 ? "" : `\x1b[${rows}A\r\x1b[J`;
	}

	#draw(): void {
		if (this.#open === undefined) return;
		const columns = Math.max(10, (this.#output.columns || 80) - 1);
		const rows = Math.max(1, (this.#output.rows || 24) - 1);
		const lines = this.#block(this.#open).slice(0, rows);
		const texts = lines.map(({ text }) => clip(text, columns));
		const hide = this.#hidden ? "" : "\x1b[?25l";
		this.#hidden = true;
		const erase = this.#erase();
		this.#drawn = texts.map(width);
		this.#output.write(`${hide}${erase}${lines.map(({ paint }, index) => `${paint(texts[index] ?? "")}\n`).join("")}`);
	}

	#block({ phase, detail, since }: Open): Line[] {
		const { dim, cyan } = this.#paint;
		const spinner = FRAMES[this.#frame % FRAMES.length] ?? "";
		const lines: Line[] = [{ text: `${spinner} ${this.#columns(phase, detail, Date.now() - since)}`, paint: cyan }];
		for (const line of this.#window) lines.push({ text: `    ${line}`, paint: dim });
		if (this.#hint !== undefined) lines.push({ text: `  ${this.#hint}`, paint: dim });
		return lines;
	}

	#showCursor(): void {
		if (this.#hidden) this.#output.write("\x1b[?25h");
		this.#hidden = false;
	}
}
