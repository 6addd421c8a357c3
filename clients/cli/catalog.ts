import { OPERATIONS } from "./commands.gen.ts";
import type { Context, Input } from "./context.ts";

export type OptionSpec = {
	/** In commander's notation. */
	readonly flags: string;
	readonly help: string;
	/** May be given more than once. */
	readonly repeat?: boolean;
};

export type CommandSpec = {
	/** One word, or two: `build download`. */
	readonly name: string;
	readonly summary: string;
	readonly args: readonly { readonly name: string; readonly required: boolean; readonly help: string }[];
	readonly options: readonly OptionSpec[];
	/** Takes `-- args…` for the service's program. */
	readonly passes?: boolean;
	readonly hidden?: boolean;
	/** What it does, where the manual says nothing. */
	readonly about?: string;
	readonly load: () => Promise<(context: Context, input: Input) => Promise<number>>;
};

export const GLOBAL_OPTIONS: readonly OptionSpec[] = [
	{ flags: "--server <url>", help: "the server (RUNTIME_URL)" },
	{ flags: "--namespace <name>", help: "the namespace (RUNTIME_NAMESPACE)" },
	{ flags: "--insecure", help: "send a token over plain http to another machine (RUNTIME_INSECURE=1)" },
	{ flags: "--json", help: "print one JSON object on stdout, of errors too" },
	{ flags: "--fields <names>", help: "only these fields of the JSON, as a,b,c" },
	{ flags: "-q, --quiet", help: "no build log off a terminal" },
	{ flags: "-v, --verbose", help: "say more, error codes too" },
	{ flags: "-h, --help", help: "this page" },
];

/** Not one of ours: the launcher starts it. */
export const SERVER = { name: "server", summary: "Start a server on this machine" };

export function synopsis(spec: CommandSpec, prefix = `runtime ${spec.name}`): string {
	return [prefix, ...spec.args.map(({ name, required }) => (required ? `<${name}>` : `[${name}]`))].join(" ");
}

const NAME = { name: "name", required: true, help: "the service's name" };
const VERSION = { name: "version", required: false, help: "its version; latest by default" };
const REVISION: OptionSpec = { flags: "--revision <n>", help: "this revision" };
const FOLLOW: OptionSpec = { flags: "-f, --follow", help: "go on with what comes" };

const NO_WAIT: OptionSpec = { flags: "--no-wait", help: "return when the server has accepted it" };

const SETTINGS: readonly OptionSpec[] = [
	{ flags: "--name <name>", help: "the service's name; the folder's by default" },
	{ flags: "--version <version>", help: "the service's version; latest by default" },
	{ flags: "--entrypoint <folder>", help: "the program's folder, from the source's" },
	{ flags: "--builder <name>", help: "who builds it: go or node; default: whom the source's files say" },
	{ flags: "--env <K=V>", help: "an environment variable; K alone takes it from here", repeat: true },
	// Not --env-file: Node itself would read that file, wherever on the command line it is named.
	{ flags: "--env-from <file>", help: "variables of a file; - is stdin", repeat: true },
	{ flags: "--metadata <K=V>", help: "free text that is kept with the service", repeat: true },
	{ flags: "--health <type>", help: "when it is ready: port, http or none" },
	{ flags: "--health-path <path>", help: "what --health http asks for; / by default" },
	{ flags: "--health-timeout <seconds>", help: "how long it may take to be ready; 60 by default" },
	{ flags: "--restart <policy>", help: "always, on-failure or never" },
	{ flags: "--instances <n>", help: "how many run side by side" },
	{
		flags: "--memory <MiB>",
		help: "the most memory of each instance; default: what the server gives (containers only)",
	},
	{ flags: "--cpu <cores>", help: "the most cores of each instance, 0.5 say, or default (containers only)" },
	{ flags: "--processes <n>", help: "the most processes and threads of each instance, or default (containers only)" },
	{ flags: "--source <key>", help: "what was uploaded before, source://…, instead of an upload" },
	NO_WAIT,
	{ flags: "--dry-run", help: "list what would be uploaded, with sizes; nothing is sent" },
];
const UNSET: OptionSpec = { flags: "--unset-env <K>", help: "remove an environment variable", repeat: true };
const SOURCE = {
	name: "source",
	required: false,
	help: "a folder (the current one by default), a git repository, or the key of an upload",
};

const BY_HAND: readonly CommandSpec[] = [
	{
		name: "run",
		summary: "Upload a folder, build it and run it as a new service",
		args: [SOURCE],
		options: SETTINGS,
		passes: true,
		load: async () => (await import("./commands/run.ts")).run,
	},
	{
		name: "update",
		summary: "Build and run a service anew; what is not said is kept",
		args: [{ ...SOURCE, help: "as for run, or the name of a service (whose build is kept)" }],
		options: [...SETTINGS, UNSET],
		passes: true,
		load: async () => (await import("./commands/run.ts")).update,
	},
	{
		name: "deploy",
		summary: "Run a service or update it, whichever it needs; for CI",
		args: [SOURCE],
		options: [...SETTINGS, UNSET],
		passes: true,
		load: async () => (await import("./commands/run.ts")).deploy,
	},
	{
		name: "source upload",
		summary: "Upload a folder and print its key; for CI",
		args: [{ ...SOURCE, name: "folder", help: "the current one by default" }],
		options: [{ flags: "--dry-run", help: "list what would be uploaded, with sizes; nothing is sent" }],
		load: async () => (await import("./commands/source.ts")).uploadSource,
	},
	{
		name: "wait",
		summary: "Follow a revision until it runs or has failed",
		args: [NAME, VERSION],
		options: [
			{ ...REVISION, help: "this one; the newest by default" },
			{ flags: "--timeout <seconds>", help: "give up then, with exit code 8" },
		],
		load: async () => (await import("./commands/wait.ts")).wait,
	},
	{
		name: "status",
		summary: "List services",
		args: [
			{ ...NAME, required: false },
			{ ...VERSION, help: "only this version" },
		],
		options: [{ flags: "--watch", help: "look again each second" }],
		load: async () => (await import("./commands/status.ts")).status,
	},
	{
		name: "logs",
		summary: "Read what a service prints",
		args: [NAME, VERSION],
		options: [
			{ flags: "-n, --lines <count>", help: "the last so many lines; 100 by default" },
			FOLLOW,
			{ flags: "--since <time>", help: "from then on: 10m, 2h, or a time" },
			{ flags: "--build", help: "how it was built" },
			{ ...REVISION, help: "only of this revision" },
		],
		load: async () => (await import("./commands/logs.ts")).logs,
	},
	{
		name: "events",
		summary: "Read a service's moves from state to state",
		args: [NAME, VERSION],
		options: [FOLLOW],
		load: async () => (await import("./commands/logs.ts")).events,
	},
	{
		name: "open",
		summary: "Open a service's URL",
		args: [NAME, VERSION],
		options: [],
		load: async () => (await import("./commands/open.ts")).open,
	},
	{
		name: "build download",
		summary: "Download a service's executable, checked",
		args: [NAME, VERSION],
		options: [{ flags: "-o, --output <file>", help: "where to; the service's name by default" }, REVISION],
		load: async () => (await import("./commands/build.ts")).download,
	},
];

const GENERATED: readonly CommandSpec[] = OPERATIONS.map((operation) => ({
	name: operation.command,
	summary: operation.summary,
	hidden: operation.hidden === true,
	args: operation.arguments.map(({ name, required, description }) => ({
		name,
		required,
		help: name === "version" ? VERSION.help : description,
	})),
	options: [
		...operation.options.map(({ flag, type, description }) => ({
			flags: `--${flag} <${type === "integer" ? "n" : "text"}>`,
			help: description,
		})),
		...(operation.wait === undefined ? [] : [NO_WAIT]),
	],
	about: operation.description,
	load: async () => {
		if (operation.wait === "verdict") {
			const { followed } = await import("./commands/followed.ts");
			return (context: Context, input: Input) => followed(operation, context, input);
		}
		const { generated } = await import("./commands/generated.ts");
		return (context: Context, input: Input) => generated(operation, context, input);
	},
}));

const LAST: readonly CommandSpec[] = [
	{
		name: "completion",
		summary: "Print a script that completes commands in your shell",
		args: [{ name: "shell", required: true, help: "bash, zsh or fish" }],
		options: [],
		load: async () => (await import("./commands/completion.ts")).completion,
	},
];

export const COMMANDS: readonly CommandSpec[] = [...BY_HAND, ...GENERATED, ...LAST];
