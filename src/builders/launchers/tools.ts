import { access, constants, mkdtemp, rm } from "node:fs/promises";
import path from "node:path";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import { runCommand } from "../command.ts";

export type Tools = {
	/** Where programs are looked for. */
	readonly path: string;
	/** Below it each run gets a HOME of its own. */
	readonly workFolder: string;
	/** Passed to the tools: where packages come from. */
	readonly env: Readonly<Record<string, string>>;
};

/** The absolute path of a program, or BuildError `unavailable` that says what to install. */
export async function findTool(name: string, tools: Tools, install: string): Promise<string> {
	for (const folder of tools.path.split(path.delimiter)) {
		const file = path.join(folder, name);
		try {
			await access(file, constants.X_OK);
			return file;
		} catch {
			// Not in this folder; the next one may have it.
		}
	}
	throw new BuildError("unavailable", `${name} is not installed on the server: ${install}`);
}

/** Runs a tool in a folder; a bad end is BuildError `build_failed` with the last line it said. */
export async function runTool(
	name: string,
	args: readonly string[],
	options: { readonly cwd: string; readonly tools: Tools; readonly install: string },
	call: Call & { readonly log: BuildLog },
): Promise<void> {
	const { tools } = options;
	const file = await findTool(name, tools, options.install);
	const home = await mkdtemp(path.join(tools.workFolder, "home-"));
	let last = "";
	try {
		call.log(`${name} ${args.join(" ")}`);
		const { exitCode } = await runCommand(
			{
				...{ file, args, cwd: options.cwd },
				env: { PATH: tools.path, HOME: home, LANG: "C.UTF-8", CI: "true", ...tools.env },
				log: (line) => {
					if (line.trim() !== "") last = line.trim();
					call.log(line);
				},
			},
			call,
		);
		if (exitCode !== 0)
			throw new BuildError("build_failed", `${name} ${args[0] ?? ""} ended with ${exitCode}: ${last}`, { exitCode });
	} finally {
		await rm(home, { recursive: true, force: true });
	}
}

/** By name, and none that holds credentials of the operator's or points to a file that does. */
const PASSED =
	/^(npm_config_registry|npm_config_cafile|pip_index_url|pip_cert|ssl_cert_file|ssl_cert_dir|node_extra_ca_certs|https?_proxy|no_proxy)$/i;

/** Of the server's environment, what says where packages come from. */
export function packageSettings(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
	return Object.fromEntries(
		Object.entries(env).flatMap(([name, value]) => (value !== undefined && PASSED.test(name) ? [[name, value]] : [])),
	);
}
