import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { dataFolder, TestServer } from "../harness/server.ts";

const VERSION = "4.32.5";
/** Kept between runs, keyed by version: installing it takes longer than the fuzzing. */
const TOOL = path.join(tmpdir(), `runtime-builds-schemathesis-${VERSION}`);
const PROGRAM = path.join(TOOL, "bin", "schemathesis");
const EXAMPLES = process.env.FUZZ_EXAMPLES ?? "25";

type Ended = { readonly code: number; readonly output: string };

async function run(command: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
	const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
	let output = "";
	for (const stream of [child.stdout, child.stderr])
		stream.setEncoding("utf8").on("data", (chunk: string) => {
			output += chunk;
		});
	const [code] = await once(child, "close");
	return { code: typeof code === "number" ? code : 1, output };
}

async function install(): Promise<void> {
	if (existsSync(PROGRAM)) return;
	for (const [command, ...args] of [
		["python3", "-m", "venv", TOOL],
		[path.join(TOOL, "bin", "pip"), "install", "--quiet", `schemathesis==${VERSION}`],
	]) {
		const { code, output } = await run(command ?? "", args);
		if (code !== 0) throw new Error(`${command} failed: ${output}`);
	}
}

const asked = process.env.CI === "true" || process.env.FUZZ === "1";
const skip = asked || existsSync(PROGRAM) ? false : "set FUZZ=1 to install the fuzzer and run it";

t.test("the contract fuzzer finds nothing on the running server", { skip }, async (t) => {
	await install();
	const server = await TestServer.start({ dataDir: await dataFolder(t), args: ["--stop-services"] });
	t.teardown(() => server.stop());
	const { code, output } = await run(PROGRAM, [
		`--config-file=${path.join(import.meta.dirname, "schemathesis.toml")}`,
		"run",
		`${server.url}/openapi.yaml`,
		"--checks=all",
		`--max-examples=${EXAMPLES}`,
		"-H",
		`Authorization: Bearer ${server.token}`,
	]);
	t.comment(/\d+ generated.*/.exec(output)?.[0] ?? "no summary");
	t.equal(code, 0, code === 0 ? "nothing was found" : output.slice(-6000));
});
