import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, dirname, isAbsolute, join } from "node:path";
import { promisify } from "node:util";
import { cancelled, messageOf } from "../../errors.ts";
import { BuildError, type Call } from "../builder.ts";

export type GoToolchain = {
	/** Absolute path of the `go` command. */
	readonly file: string;
	/** `go1.26.8` */
	readonly version: string;
	/** GOROOT: absolute path of the toolchain's folder. */
	readonly root: string;
	/** Settings that the person who runs the server made with `go env -w` or in the environment; Go's own defaults else. */
	readonly settings: Readonly<Record<string, string>>;
};

/** Where modules come from, and who is trusted: never said by a source, always by the server's configuration. */
export const MODULE_SETTINGS = [
	"GOPROXY",
	"GOPRIVATE",
	"GONOPROXY",
	"GONOSUMDB",
	"GOSUMDB",
	"GOINSECURE",
	"GOVCS",
] as const;

const ASK_LIMIT_MS = 30_000;
const INSTALL = "Install Go from https://go.dev/dl and start the server with it on its PATH.";

/** Finds Go and asks it once for its version and module settings. Rejects with BuildError `unavailable`. */
export async function findGo(
	command: string,
	serverEnv: Readonly<Record<string, string | undefined>>,
	call: Call,
): Promise<GoToolchain> {
	const file = await locate(command, serverEnv.PATH ?? "");
	if (file === undefined)
		throw new BuildError(
			"unavailable",
			`there is no Go on the machine that builds (looked for \`${command}\`). ${INSTALL}`,
		);
	try {
		const { stdout } = await promisify(execFile)(file, ["env", "-json", "GOVERSION", "GOROOT", ...MODULE_SETTINGS], {
			// A go.mod or go.work near the server's working folder must have no say.
			cwd: dirname(file),
			env: { ...serverEnv, GOWORK: "off", GOTOOLCHAIN: "local", GOFLAGS: "" },
			timeout: ASK_LIMIT_MS,
			signal: call.signal,
		});
		const answer: unknown = JSON.parse(stdout);
		const settings: Record<string, string> = {};
		if (typeof answer === "object" && answer !== null)
			for (const [name, value] of Object.entries(answer)) if (typeof value === "string") settings[name] = value;
		const { GOVERSION: version = "", GOROOT: root = "", ...modules } = settings;
		return { file, version, root, settings: modules };
	} catch (error) {
		if (call.signal.aborted) throw cancelled(call.signal);
		throw new BuildError(
			"unavailable",
			`Go does not work on the machine that builds: ${messageOf(error)}. ${INSTALL}`,
			{
				cause: error,
			},
		);
	}
}

async function locate(command: string, path: string): Promise<string | undefined> {
	const candidates = isAbsolute(command)
		? [command]
		: path
				.split(delimiter)
				.filter(isAbsolute)
				.map((folder) => join(folder, command));
	for (const candidate of candidates) {
		const usable = await access(candidate, constants.X_OK).then(
			() => true,
			() => false,
		);
		if (usable) return candidate;
	}
	return undefined;
}

/** The error for a module that needs a newer Go than there is. */
export function goTooOld(version: string, needed: string, where: string): BuildError {
	return new BuildError(
		"unavailable",
		`${where} needs Go ${needed} and the machine that builds has ${version}. Install Go ${needed} or newer there, or lower the \`go\` line.`,
		{ retryable: true },
	);
}
