import { readFile } from "node:fs/promises";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import { kindOf } from "../node/package.ts";
import { authorityOf } from "../sandbox/proxy.ts";
import type { Ended, Sandbox } from "../sandbox/sandbox.ts";
import { IndexGateway } from "./index-gateway.ts";
import { type PageSetting, type PipNetwork, pipNetwork } from "./pip-network.ts";
import type { Python } from "./python.ts";

export type PythonPlan = {
	readonly python: Python;
	readonly sandbox: Sandbox;
	/** Where main.py and requirements.txt are. */
	readonly cwd: string;
	readonly env: Readonly<Record<string, string>>;
	/** All of the source, and a HOME. */
	readonly writes: readonly string[];
};

export type InstallPlan = PythonPlan & {
	/** The virtual environment's interpreter. */
	readonly target: string;
	/** The namespace's own. */
	readonly cache: string;
	readonly serverEnv: Readonly<Record<string, string | undefined>>;
};

type Seen = {
	readonly env?: Readonly<Record<string, string>>;
	readonly reads?: readonly string[];
	readonly writes?: readonly string[];
	readonly hosts?: readonly URL[];
	/** What is said of a host that was refused. */
	readonly allowed?: string;
	readonly shown?: (line: string) => string;
};

const AWAY = /ProxyError|NewConnectionError|ConnectTimeoutError|ReadTimeoutError|SSLError|NameResolutionError/;

/**
 * Python in the sandbox, `-I`: a module in the source named as one of Python's own is not taken for it. `name` is what people
 * are told. A bad end is BuildError `build_failed` with the last line it said.
 */
export async function runPython(
	plan: PythonPlan,
	name: string,
	args: readonly string[],
	call: Call & { readonly log: BuildLog },
	seen: Seen = {},
): Promise<void> {
	const { python, sandbox } = plan;
	let last = "";
	let fault = "";
	let inner = "";
	let away = false;
	call.log(name);
	const ended = await sandbox.run(
		{
			...{ file: python.executable, args: ["-I", ...args], cwd: plan.cwd, env: { ...plan.env, ...seen.env } },
			reads: [...python.files, ...(seen.reads ?? [])],
			writes: [...plan.writes, ...(seen.writes ?? [])],
			hosts: seen.hosts ?? [],
			log: (line) => {
				const words = seen.shown?.(line) ?? line;
				// What a package's own code said last, in pip's frame.
				if (words.trim() === "[end of output]") inner = ` (${last})`;
				if (words.trim() !== "") last = words.trim();
				if (/^(ERROR|error): /.test(last)) fault = last;
				away ||= AWAY.test(words);
				call.log(words);
			},
		},
		call,
	);
	if (ended.ended !== undefined) throw new BuildError("build_failed", `${name} was ended: ${ended.ended}`);
	if (ended.exitCode !== 0) throw explained(name, ((fault || last) + inner).slice(0, 600), ended, away, seen.allowed);
}

function explained(name: string, words: string, { exitCode, refused = [] }: Ended, away: boolean, allowed = "") {
	const said = `${name} ended with ${exitCode}: ${words}`;
	if (refused.length > 0)
		return new BuildError("unavailable", `${said} (it was refused ${refused.join(", ")}${allowed})`, {
			...{ exitCode, retryable: false },
		});
	return new BuildError(away ? "unavailable" : "build_failed", said, { exitCode });
}

/** `pip install -r requirements.txt`, from where pip's own configuration on the machine that builds says. */
export async function pipInstall(plan: InstallPlan, call: Call & { readonly log: BuildLog }): Promise<void> {
	const { python, serverEnv, target } = plan;
	const network = pipNetwork(python.settings, serverEnv);
	const secret = network.pages.filter(({ url }) => url.username !== "" || url.password !== "");
	await using gateway = secret.length === 0 ? undefined : await openGateway(network, python, serverEnv, secret);
	const pages = network.pages.map((page) => {
		const index = secret.indexOf(page);
		return { setting: page.setting, text: gateway === undefined || index < 0 ? page.url.href : gateway.urlOf(index) };
	});
	const placesOf = (setting: PageSetting) =>
		pages.flatMap((page) => (page.setting === setting ? page.text : [])).join(" ");
	const settings = {
		PIP_INDEX_URL: placesOf("index-url"),
		PIP_EXTRA_INDEX_URL: placesOf("extra-index-url"),
		PIP_FIND_LINKS: [placesOf("find-links"), ...network.folders].join(" ").trim(),
	};
	const own = network.pages.map(({ url }) => new URL(url.origin));
	const hosts = new Map([...network.files, ...own].map((url) => [authorityOf(url), url]));
	if (gateway !== undefined) hosts.set(authorityOf(gateway.origin), gateway.origin);
	const names = [...new Set([...own, ...network.files].map(authorityOf))].join(", ");
	await runPython(
		plan,
		"pip install -r requirements.txt",
		["-m", "pip", `--python=${target}`, "install", "--quiet", "--no-input", "-r", "requirements.txt"],
		call,
		{
			env: {
				...network.env,
				...(plan.sandbox.name === "none" ? proxies(serverEnv) : {}),
				...Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== "")),
				...{ PIP_CONFIG_FILE: "/dev/null", PIP_CACHE_DIR: plan.cache, PIP_DISABLE_PIP_VERSION_CHECK: "1" },
			},
			reads: [...network.folders, ...network.certificates],
			writes: [plan.cache],
			hosts: [...hosts.values()],
			allowed: `; packages come from ${names || "no host"}, as pip is configured on the machine that builds: where an index there leads to files on another host, its operator adds https://HOST/ to pip's find-links`,
			...(gateway === undefined ? {} : { shown: (line: string) => gateway.shown(line) }),
		},
	);
}

/** A sandbox has its own. */
function proxies(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
	const named = Object.entries(env).flatMap(([name, value]) =>
		value !== undefined && /^https?_proxy$/i.test(name) ? [[name, value] as const] : [],
	);
	return { ...Object.fromEntries(named), no_proxy: `${env.no_proxy ?? env.NO_PROXY ?? ""},127.0.0.1` };
}

async function openGateway(
	network: PipNetwork,
	python: Python,
	env: Readonly<Record<string, string | undefined>>,
	pages: PipNetwork["pages"],
): Promise<IndexGateway> {
	const { bundle } = network;
	const isFile = bundle !== undefined && path.isAbsolute(bundle) && (await kindOf(bundle)) === "file";
	return IndexGateway.open({
		pages: pages.map(({ url }) => url),
		ca: isFile ? await readFile(bundle, "utf8") : undefined,
		trusted: (python.settings["trusted-host"] ?? "").split(/\s+/).filter((host) => host !== ""),
		env,
	});
}
