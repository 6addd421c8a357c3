import type { Api } from "./api.ts";
import { CONTRACT_VERSION } from "./commands.gen.ts";
import { CliError, hints } from "./errors.ts";
import { nearest, serviceWords } from "./format.ts";
import type { Screen } from "./screen/screen.ts";
import type { Session } from "./shapes.ts";

/** A word where client and server speak contracts that need not fit: other majors, or below 1.0 other minors. */
export function contractNotice(session: Session, screen: Pick<Screen, "warn">): void {
	const theirs = session.server.contract;
	if (epoch(theirs) === epoch(CONTRACT_VERSION)) return;
	screen.warn(`The server speaks contract ${theirs}, this client ${CONTRACT_VERSION}: bring them to the same version`);
}

function epoch(version: string): string {
	const [major = "", minor = ""] = version.split(".");
	return major === "0" ? `0.${minor}` : major;
}

/** Where a refusal is about a revision: how to see which ones there are. */
export function withRevisions(error: unknown, api: Api, name: string, version: string): unknown {
	if (!(error instanceof CliError) || (error.problem?.field !== "revision" && error.code !== "not_found")) return error;
	const { message, exit, code, problem } = error;
	const line = `See:  runtime revisions ${serviceWords(name, version)}${api.connection.flags}`;
	return new CliError(message, {
		exit,
		code,
		lines: [...error.lines, line],
		cause: error,
		...(problem && { problem }),
	});
}

/** The error for a service that is not there, with those that may have been meant. */
export async function missingService(api: Api, name: string, version: string, what?: string): Promise<CliError> {
	const names = new Set<string>();
	const versions = new Set<string>();
	for await (const service of api.services({ limit: 1000 })) {
		names.add(service.name);
		if (service.name === name) versions.add(service.version);
		if (names.size > 5000) break;
	}
	const lines: [string, string][] = [];
	if (versions.size > 0) lines.push(["Its versions", [...versions].slice(0, 5).join(", ")]);
	else {
		const close = nearest(name, names);
		if (close.length > 0) lines.push(["Did you mean", close.join(", ")]);
	}
	if (what !== undefined && lines.length === 0) lines.push(["New", "runtime run ."]);
	lines.push(["See", "runtime status"]);
	const title = `There is no service ${serviceWords(name, version)}`;
	return new CliError(`${title}${what === undefined ? "" : `; ${what}`}`, { code: "not_found", lines: hints(lines) });
}
