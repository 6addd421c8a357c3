import { existsSync } from "node:fs";
import { BuildError, type BuildLog, type Call } from "../builder.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { Npm } from "./npm.ts";
import { explainNpm } from "./npm-failure.ts";

export type InstallPlan = {
	readonly npm: Npm;
	/** The lockfile, as people are told of it; without one npm chooses versions by package.json. */
	readonly lock: { readonly file: string } | undefined;
	/** Where package.json is in the tree. */
	readonly folder: string;
	/** All of the source; npm may write to it. */
	readonly tree: string;
	/** The namespace's own. */
	readonly cache: string;
	readonly env: Readonly<Record<string, string>>;
	readonly writes: readonly string[];
	readonly scripts: boolean;
	/** Whether packages may come from repositories; a sandbox has no way to them. */
	readonly repositories?: boolean;
};

const MAX_KEPT_LINES = 500;

/**
 * `npm ci`, or `npm install` where there is no lockfile, without install scripts; only it sees registries and credentials.
 * Install scripts are run after it, where they were asked for, without network, cache and configuration. Rejects with
 * BuildError.
 */
export async function install(
	plan: InstallPlan,
	sandbox: Sandbox,
	call: Call & { readonly log: BuildLog },
): Promise<void> {
	const { npm, lock } = plan;
	const file = lock?.file ?? "package.json";
	if (plan.scripts && sandbox.name === "none")
		throw new BuildError(
			"unavailable",
			"install scripts were asked for (runtime.installScripts in package.json), and they are run in a sandbox only, which this server does not have: do without them, or ask the operator for bubblewrap",
			{ retryable: false },
		);
	const common = {
		file: process.execPath,
		cwd: plan.folder,
		reads: [process.execPath, npm.script, npm.folder].filter(existsSync),
	};
	const always = [`--prefix=${plan.folder}`, "--no-audit", "--no-fund", "--no-progress", "--color=false"];
	always.push("--no-update-notifier", "--logs-max=0", "--loglevel=warn", "--omit=dev", "--global=false");
	const run = async (
		args: readonly string[],
		seen: Pick<InstallPlan, "env" | "writes"> & { readonly network: boolean },
	) => {
		const lines: string[] = [];
		const ended = await sandbox.run(
			{
				...common,
				args: [npm.script, ...args, ...always],
				env: seen.env,
				log: (line) => {
					// Of the operator's configuration, which is nobody else's business.
					if (line.trim() === "" || /^npm warn Unknown \w+ config /.test(line)) return;
					const words = line.replaceAll(`${plan.tree}/`, "").replaceAll(plan.tree, ".");
					if (lines.length < MAX_KEPT_LINES) lines.push(words);
					call.log(words);
				},
				reads: seen.network ? [...common.reads, ...npm.files] : common.reads,
				writes: [plan.tree, ...seen.writes],
				hosts: seen.network ? npm.registries : [],
			},
			call,
		);
		if (ended.ended !== undefined) throw new BuildError("build_failed", `npm was ended: ${ended.ended}`);
		if (ended.exitCode !== 0) throw explainNpm(lines, file, ended);
	};
	const verb = lock === undefined ? ["install"] : ["ci", "--prefer-offline"];
	call.log(`npm ${verb[0]} --ignore-scripts --omit=dev (${file})`);
	const fetching = ["--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=5000"];
	const git = ["--git=/nonexistent", ...(npm.knows("allow-git") ? ["--allow-git=none"] : [])];
	if (plan.repositories === true) git.splice(0);
	await run(
		[
			...[...verb, "--ignore-scripts", "--replace-registry-host=npmjs", "--package-lock=true"],
			...[`--cache=${plan.cache}`, ...fetching, ...git, ...npm.flags],
		],
		{ network: true, env: { ...npm.env, ...plan.env }, writes: [plan.cache, ...plan.writes] },
	);
	if (!plan.scripts) return;
	call.log("npm rebuild: install scripts, without network");
	const allowed = npm.knows("dangerously-allow-all-scripts") ? ["--dangerously-allow-all-scripts"] : [];
	const none = ["--userconfig=/nonexistent/user", "--globalconfig=/nonexistent/global", "--cache=/tmp/npm"];
	await run(["rebuild", "--ignore-scripts=false", "--foreground-scripts", "--offline", ...allowed, ...none], {
		...{ network: false, env: plan.env, writes: plan.writes },
	});
}
