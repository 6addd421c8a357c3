/** What a command's page says beyond its options; only help loads it. */
export type Manual = {
	/** Paragraphs, an empty line between; for a command of the contract its own description is used by default. */
	readonly about?: string;
	readonly examples: readonly string[];
	/** Exit codes besides 0 to 4. */
	readonly exits?: readonly number[];
	readonly variables?: readonly (readonly [name: string, what: string])[];
};

export const COMMON_VARIABLES: readonly (readonly [string, string])[] = [
	["RUNTIME_URL", "the server; else the data folder's server.json, else http://127.0.0.1:8080"],
	["RUNTIME_TOKEN", "the token; else the data folder's admin-token, for the server that the folder names"],
	["RUNTIME_NAMESPACE", "the namespace; the token's own by default"],
	["RUNTIME_DATA_DIR", "the data folder of a server on this machine; $XDG_DATA_HOME/runtime-builds by default"],
	["RUNTIME_INSECURE", "1 sends a token over plain http to another machine"],
	["NO_COLOR, TERM=dumb", "no colours; no moving of the cursor"],
];

const SOURCE = `A folder is uploaded with the whole repository around it (the nearest .git, else the nearest go.mod or
package.json), less what .gitignore and .runtimeignore name; never / or your home folder. host/owner/repository/folder@ref
or an https URL is a git repository that the server fetches by itself: it is asked first whether repository, folder and
ref exist. source://… is what \`runtime source upload\` printed.

A runtime.json in the folder may say name, namespace, entrypoint, builder, env, secrets (names), args, health and limits;
flags go before variables, and those before the file. A secret's value comes from the environment variable of that name,
else what the service has is kept, else it is asked for on a terminal. The word default takes away what the file or the
service says: --memory default, --builder default.

Ctrl-C cancels while it uploads and builds (again: quits at once) and detaches while it starts; d detaches. A lost
connection is no failure: it reconnects and asks for the verdict.`;

const DEPLOYMENT = { exits: [8, 130] } as const;

export const MANUAL: Readonly<Record<string, Manual>> = {
	run: {
		...DEPLOYMENT,
		about: `Makes a new service and waits until it runs; prints its URL. Refuses a service that exists.\n\n${SOURCE}`,
		examples: [
			"runtime run .",
			"runtime run ./cmd/api --name api --env LEVEL=debug -- -addr '$HOST:$PORT'",
			"runtime run github.com/golang/example/hello@master",
			"url=$(runtime run . -q)",
		],
	},
	update: {
		...DEPLOYMENT,
		about: `Makes a new revision of a service and waits until it runs; the revision before it serves until then, and goes on where the new one fails. With a service's name instead of a source the build is kept.\n\n${SOURCE}`,
		examples: [
			"runtime update .",
			"runtime update hello --env LEVEL=debug --unset-env OLD",
			"runtime update hello --    (no args any more)",
			"runtime update hello --memory 256 --cpu default",
		],
	},
	deploy: {
		...DEPLOYMENT,
		about: `Makes the service, or a new revision of it where it exists: for CI.\n\n${SOURCE}`,
		examples: [
			"runtime deploy . --version $BRANCH",
			"key=$(runtime source upload .); runtime deploy --source $key --name api --entrypoint cmd/api",
		],
	},
	wait: {
		about: "Attaches to a revision on its way: the same screen and the same exit code as the command that made it.",
		examples: ["runtime wait hello", "runtime wait hello v2 --revision 7 --timeout 60"],
		exits: [8, 130],
	},
	status: {
		about:
			"Lists services with what serves, what is on its way and what failed. In a pipe the columns are separated by tabs, without a header, and a seventh one says why something failed.",
		examples: ["runtime status", "runtime status hello --watch", "runtime status --json --fields name,url"],
		exits: [130],
	},
	logs: {
		about:
			"Prints a service's output with time and revision. -f goes on over updates and lost connections, and says when a revision took over. --build prints how it was built.",
		examples: ["runtime logs hello -f", "runtime logs hello --since 10m", "runtime logs hello --build --revision 3"],
		exits: [130],
	},
	events: {
		about: "Prints every move of every revision of a service, with its time, in order.",
		examples: ["runtime events hello -f", "runtime events hello --json"],
		exits: [130],
	},
	open: {
		about: "Opens a running service's URL in a browser; off a terminal, or where there is no browser, prints it.",
		examples: ["runtime open hello", "curl $(runtime open hello)"],
		variables: [["BROWSER", "the command that opens a URL; xdg-open or open by default"]],
	},
	"source upload": {
		about: `Uploads a folder as run would, and prints the key, source://…, for \`runtime deploy --source\`. The server keeps what no service uses for at least 24 hours.`,
		examples: ["key=$(runtime source upload .)", "runtime deploy --source $key --name api"],
		exits: [130],
	},
	"build download": {
		about:
			"Downloads the executable of the live revision, or of --revision, and checks it against the server's digest before the file is there.",
		examples: ["runtime build download hello", "runtime build download hello latest --revision 2 -o hello-r2"],
		exits: [130],
	},
	completion: {
		about:
			"Prints a script for your shell. It completes commands, options and the names of the services that the server has now; where the server cannot be asked it keeps silent.",
		examples: [
			'eval "$(runtime completion bash)"    (in ~/.bashrc)',
			'eval "$(runtime completion zsh)"     (in ~/.zshrc, after compinit)',
			"runtime completion fish > ~/.config/fish/completions/runtime.fish",
		],
	},
	services: { examples: ["runtime services --status Error --json"] },
	show: {
		about: "Prints what is true about a service.",
		examples: ["runtime show hello", "runtime show hello --json --fields url,build"],
	},
	kill: {
		about: "Ends a service and removes it with its builds and logs; waits until it is gone. `stop` keeps everything.",
		examples: ["runtime kill hello", "runtime kill hello v2 --no-wait"],
		exits: [8],
	},
	revisions: {
		about: "Lists what there was, with its build and what went wrong.",
		examples: ["runtime revisions hello"],
	},
	rollback: { examples: ["runtime rollback hello 3", "runtime rollback hello 3 v2 --no-wait"], exits: [8, 130] },
	cancel: { examples: ["runtime cancel hello", "runtime cancel hello --revision 4"] },
	restart: {
		about: "Starts the live revision again, without a new revision and without one failed request.",
		examples: ["runtime restart hello"],
	},
	stop: { examples: ["runtime stop hello"], exits: [8] },
	start: {
		about: "Starts a service that was stopped, and waits until it runs; prints its URL.",
		examples: ["runtime start hello"],
		exits: [8],
	},
	whoami: { examples: ["runtime whoami --server https://rt.example.com"] },
};
