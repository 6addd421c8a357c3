import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";

const LAUNCHER = path.resolve(import.meta.dirname, "../../clients/cli/bin.mjs");

export type CliResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs the CLI as a person does in a pipe. */
export async function cli(
	args: readonly string[],
	options: { readonly cwd: string; readonly env: Readonly<Record<string, string>> },
): Promise<CliResult> {
	const { RUNTIME_URL: _url, RUNTIME_TOKEN: _token, ...inherited } = process.env;
	const child = spawn(process.execPath, [LAUNCHER, ...args], {
		cwd: options.cwd,
		env: { ...inherited, ...options.env },
		stdio: ["ignore", "pipe", "pipe"],
	});
	let stdout = "";
	let stderr = "";
	child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
		stdout += chunk;
	});
	child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
		stderr += chunk;
	});
	const [code] = await once(child, "close");
	return { code: typeof code === "number" ? code : null, stdout, stderr };
}
