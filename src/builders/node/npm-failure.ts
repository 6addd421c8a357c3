import { BuildError } from "../builder.ts";
import type { Ended } from "../sandbox/sandbox.ts";
import { invalid } from "./package.ts";

const AWAY =
	/^(E5\d\d|E429|ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EPIPE|ERR_SOCKET_TIMEOUT|ERR_STREAM\w*|FETCH_ERROR|EIDLETIMEOUT|ERR_SSL\w*|ERR_TLS\w*|UNABLE_TO\w+|SELF_SIGNED\w+|DEPTH_ZERO\w+|CERT_\w+)$/;
const AGAIN = "run `npm install` and upload the lockfile that it writes";

/** The error for an npm that failed, by its code and in words. `lines` are what it wrote. */
export function explainNpm(lines: readonly string[], lockfile: string, ended: Ended): BuildError {
	const { exitCode, refused = [] } = ended;
	const said = lines.flatMap((line) => /^npm (?:error|ERR!) ?(.*)$/.exec(line)?.[1] ?? []);
	const code = said.map((line) => /^code (\S+)/.exec(line)?.[1]).find((found) => found !== undefined) ?? "";
	const words = said.filter(
		(line) => !/^(code|errno|syscall|A complete log|path|dest)\b/.test(line) && line.trim() !== "",
	);
	const first = (words[0] ?? lines.findLast((line) => line.trim() !== "") ?? "it said nothing").trim().slice(0, 400);
	const failed = (message: string) =>
		new BuildError("build_failed", message, {
			diagnostics: [{ file: lockfile, line: 0, column: 0, message }],
			exitCode,
		});
	if (refused.length > 0)
		return new BuildError(
			"unavailable",
			`npm was refused ${refused.join(", ")}, as packages come from the registries of npm's own configuration on the machine that builds alone (\`registry\`, \`@scope:registry\`): ${first}`,
			{ exitCode, retryable: false },
		);
	if (AWAY.test(code))
		return new BuildError("unavailable", `the packages could not be fetched (${code}): ${first}`, { exitCode });
	switch (code) {
		case "EUSAGE": {
			const which = words.find((line) => /^(Missing|Invalid):/.test(line.trim()))?.trim();
			return failed(`${lockfile} does not fit package.json${which === undefined ? "" : ` (${which})`}: ${AGAIN}`);
		}
		case "E404":
			return failed(`a package of ${lockfile} is not in the registry: ${first.replace(/^404 */, "")}`);
		case "ETARGET":
			return failed(`a version that ${lockfile} names is not in the registry: ${first}`);
		case "EINTEGRITY":
			return failed(`a package is not the one that ${lockfile} names: ${first}`);
		case "EBADPLATFORM":
			return failed(`a package is not for this system: ${first}`);
		case "E401":
		case "E403":
		case "ENEEDAUTH":
			return new BuildError("unavailable", `the registry did not let npm in (${code}): ${first}`, {
				exitCode,
				retryable: false,
			});
		case "EJSONPARSE":
			return invalid(lockfile, `npm could not read the project: ${first}`);
		default:
			return failed(`npm ended with ${exitCode}${code === "" ? "" : ` (${code})`}: ${first}`);
	}
}
