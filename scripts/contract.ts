/**
 * Makes what is generated from openapi.yaml: the types of the contract, and the CLI's commands. With `--check` it writes
 * nothing and fails where a committed file is not what the contract says.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const check = process.argv.includes("--check");
const folder = mkdtempSync(path.join(tmpdir(), "runtime-contract-"));
let drift = false;

function run(command: string, args: readonly string[]): void {
	const { status, stderr, stdout } = spawnSync(command, args, { encoding: "utf8" });
	if (status === 0) return;
	process.stderr.write(`${stdout}${stderr}`);
	drift = true;
}

try {
	const committed = "src/contract/types.gen.ts";
	const made = check ? path.join(folder, "types.gen.ts") : committed;
	run("openapi-typescript", ["openapi.yaml", "-o", made]);
	if (check && !drift && readFileSync(made, "utf8") !== readFileSync(committed, "utf8")) {
		process.stderr.write(`✘ ${committed} is not what openapi.yaml says: run npm run generate\n`);
		drift = true;
	}
	run(process.execPath, ["scripts/generate-cli.ts", ...(check ? ["--check"] : [])]);
} finally {
	rmSync(folder, { recursive: true, force: true });
}
process.exitCode = drift ? 1 : 0;
