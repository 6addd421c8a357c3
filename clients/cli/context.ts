import type { Api } from "./api.ts";
import { type Connection, connect } from "./connection.ts";
import { CliError, EXIT, usage } from "./errors.ts";
import { type Paint, paintFor } from "./screen/paint.ts";
import type { Screen } from "./screen/screen.ts";
import { isRecord } from "./shapes.ts";

/** The values of options, checked when they are asked for. */
export class Options {
	readonly #values: Readonly<Record<string, unknown>>;

	constructor(values: Readonly<Record<string, unknown>>) {
		this.#values = values;
	}

	text(name: string): string | undefined {
		const value = this.#values[name];
		return typeof value === "string" ? value : undefined;
	}

	list(name: string): readonly string[] {
		const value = this.#values[name];
		return Array.isArray(value) ? value.map(String) : [];
	}

	flag(name: string): boolean {
		return this.#values[name] === true;
	}

	/** False where `--no-NAME` was given. */
	notNo(name: string): boolean {
		return this.#values[name] !== false;
	}

	integer(name: string, flag: string, least: number, most: number): number | undefined {
		const text = this.text(name);
		return text === undefined ? undefined : integer(text, flag, least, most);
	}
}

export function integer(text: string, what: string, least: number, most: number): number {
	const value = Number(text);
	if (!/^\d+$/.test(text) || value < least || value > most)
		throw usage(`${what}: "${text}" is no whole number from ${least} to ${most}`);
	return value;
}

/** What a command was given. */
export type Input = {
	readonly args: readonly string[];
	readonly options: Options;
	/** What stood behind `--`; undefined without one. */
	readonly rest: readonly string[] | undefined;
};

/** The world as a command sees it. */
export class Context {
	readonly options: Options;
	readonly env: NodeJS.ProcessEnv;
	readonly cwd: string;
	readonly stdout: NodeJS.WriteStream;
	readonly stderr: NodeJS.WriteStream;
	readonly json: boolean;
	readonly quiet: boolean;
	readonly verbose: boolean;
	/** For stderr. */
	readonly paint: Paint;
	/** The namespace that the project's `runtime.json` names; set before the server is asked. */
	projectNamespace: string | undefined;
	#api: Api | undefined;

	constructor(options: Options, process: NodeJS.Process) {
		this.options = options;
		this.env = process.env;
		this.cwd = process.cwd();
		this.stdout = process.stdout;
		this.stderr = process.stderr;
		this.json = options.flag("json") || options.text("fields") !== undefined;
		this.quiet = options.flag("quiet");
		this.verbose = options.flag("verbose");
		this.paint = paintFor(process.stderr.isTTY === true, process.env);
	}

	async connection(): Promise<Connection> {
		const { env, options } = this;
		return await connect({
			env,
			server: options.text("server"),
			namespace: options.text("namespace"),
			projectNamespace: this.projectNamespace,
			insecure: options.flag("insecure"),
		});
	}

	async api(): Promise<Api> {
		if (this.#api === undefined) {
			const connection = await this.connection();
			if (this.verbose)
				this.say(
					`(server ${connection.label} from ${connection.from}, token from ${connection.tokenFrom ?? "nowhere"})`,
				);
			// HTTP is a third of the time that a command takes to start: help and mistakes do without.
			const { Api } = await import("./api.ts");
			this.#api = await Api.create(connection);
		}
		return this.#api;
	}

	/** A line on stderr. */
	say(line: string): void {
		this.stderr.write(`${line}\n`);
	}

	/** A line of the result. */
	print(line: string): void {
		this.stdout.write(`${line}\n`);
	}

	/** The result as JSON; `--fields` picks. */
	printJson(value: unknown): void {
		const fields = this.options
			.text("fields")
			?.split(",")
			.map((field) => field.trim());
		const pick = (entry: unknown): unknown =>
			fields !== undefined && isRecord(entry)
				? Object.fromEntries(fields.map((field) => [field, entry[field] ?? null]))
				: entry;
		this.print(
			JSON.stringify(Array.isArray(value) ? value.map(pick) : pick(value), null, this.stdout.isTTY ? 2 : undefined),
		);
	}

	/** The error, on stderr and, with `--json`, on stdout; → the exit code. */
	report(error: unknown): number {
		const known = error instanceof CliError ? error : undefined;
		const message = known?.message ?? `Unexpected: ${error instanceof Error ? error.message : String(error)}`;
		this.say(`${this.paint.red("✘")} ${message}`);
		for (const line of known?.lines ?? []) this.say(`  ${line}`);
		const id = known?.problem?.requestId;
		if (this.verbose && known !== undefined)
			this.say(`  (code ${known.code}${id === undefined ? "" : `, request ${id}`})`);
		if (known === undefined && this.verbose && error instanceof Error) this.say(error.stack ?? "");
		if (this.json) this.print(JSON.stringify((known ?? new CliError(message, { code: "internal" })).toProblem()));
		return known?.exit ?? EXIT.failed;
	}

	/** The screen for what stderr is; only the one that is needed is loaded. */
	async screen(): Promise<Screen> {
		if (this.stderr.isTTY && this.env.TERM !== "dumb") {
			const { TtyScreen } = await import("./screen/tty.ts");
			return new TtyScreen(this.stderr, { paint: this.paint, quiet: this.quiet });
		}
		const { PlainScreen } = await import("./screen/plain.ts");
		return new PlainScreen(this.stderr, { quiet: this.quiet });
	}

	close(): void {
		this.#api?.close();
	}
}
