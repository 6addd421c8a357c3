import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";
import { promisify } from "node:util";
import { cancelled } from "../../errors.ts";
import { BuildError, type Call } from "../builder.ts";

/** Python, and what the person who runs the server configured of its pip. */
export type Python = {
	/** Absolute path of the interpreter itself, whatever leads to it. */
	readonly executable: string;
	/** It, its library and its headers: what it has to read. */
	readonly files: readonly string[];
	/** pip's settings for `pip install`, as they are written; one from the environment counts before one from a file. */
	readonly settings: Readonly<Record<string, string>>;
};

type Env = Readonly<Record<string, string | undefined>>;

const ASK_LIMIT_MS = 60_000;
const MAX_ANSWER = 1024 ** 2;
const INSTALL = "install Python 3 with venv and pip";
/** Where the headers of the system's own libraries are. */
const HEADERS = "/usr/include";
const QUESTION = `
import ast, json, os, subprocess, sys, sysconfig
said = subprocess.run([sys.executable, "-I", "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True)
settings = []
for line in said.stdout.splitlines():
    name, equals, value = line.partition("=")
    if equals:
        try:
            settings.append([name, str(ast.literal_eval(value))])
        except (SyntaxError, ValueError):
            pass
base = getattr(sys, "_base_executable", None) or sys.executable
places = [sys.executable, base, os.path.realpath(base), os.path.join(sys.prefix, "pyvenv.cfg")]
for name, place in sysconfig.get_paths().items():
    if name not in ("scripts", "data"):
        places.append(place)
shared = [sysconfig.get_config_var(name) for name in ("LIBDIR", "INSTSONAME")]
if all(shared):
    places.append(os.path.join(*shared))
print(json.dumps({"executable": sys.executable, "places": places, "settings": settings}))
`;

/** Finds Python and asks it once, in a folder where nothing is a project's. Rejects with BuildError `unavailable`. */
export async function findPython(command: string, serverEnv: Env, call: Call): Promise<Python> {
	const cwd = await mkdtemp(join(tmpdir(), "python-"));
	const { PATH = "" } = serverEnv;
	try {
		const options = { cwd, env: { ...serverEnv, PATH }, timeout: ASK_LIMIT_MS, signal: call.signal };
		const { stdout } = await promisify(execFile)(await located(command, PATH), ["-I", "-c", QUESTION], {
			...options,
			maxBuffer: MAX_ANSWER,
		});
		return facts(JSON.parse(stdout));
	} catch (cause) {
		if (call.signal.aborted) throw cancelled(call.signal);
		throw new BuildError("unavailable", `${command} is not installed on the server, or does not work: ${INSTALL}`, {
			cause,
		});
	} finally {
		await rm(cwd, { recursive: true, force: true });
	}
}

/** A name is looked up here: a launcher of our own process would look in its own PATH. */
async function located(command: string, path: string): Promise<string> {
	if (isAbsolute(command)) return command;
	const found = path
		.split(delimiter)
		.filter(isAbsolute)
		.map((folder) => join(folder, command))
		.find((file) => existsSync(file));
	if (found === undefined) throw new Error(`there is no ${command} on the PATH`);
	return found;
}

function facts(said: { executable: unknown; places: unknown; settings: unknown }): Python {
	const { executable } = said;
	if (typeof executable !== "string" || !isAbsolute(executable)) throw new Error("it does not say where it is");
	const places = texts(said.places).filter((place) => isAbsolute(place) && existsSync(place));
	return {
		executable,
		files: [...new Set([...places, ...(existsSync(HEADERS) ? [HEADERS] : [])])],
		settings: settingsOf(Array.isArray(said.settings) ? said.settings.map(texts) : []),
	};
}

/** Of each setting the one that counts: pip reads `global`, then what is for the command, then the environment. */
function settingsOf(listed: readonly (readonly string[])[]): Record<string, string> {
	const settings: Record<string, string> = {};
	for (const section of ["global.", "install.", ":env:."])
		for (const [name = "", value = ""] of listed)
			if (name.startsWith(section) && value !== "") settings[name.slice(section.length)] = value;
	return settings;
}

function texts(value: unknown): string[] {
	return Array.isArray(value) ? value.filter((text) => typeof text === "string") : [];
}
