import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { cancelled } from "../../errors.ts";
import { BuildError, type Call } from "../builder.ts";

/** Bytes. A kernel takes 128 KiB in one argument. */
const MOST = 64 * 1024;
const ASK_LIMIT_MS = 10_000;
/** For each a shell is started. Behind more of them a comment stays, and swallows what follows. */
const MOST_HASHES = 100;
const MOST_SHOWN = 200;

/**
 * A line of shell as a command; what follows it goes on to the line's last command, as npm has it. Where the line does not
 * end in a simple command (`if …; fi`, `a &`) there is none for it to go to, and it is `$1`, `$2`, … to the whole line. A
 * comment at the end is no part of the command. `before` is run first. BuildError `source_invalid` for what is no shell;
 * `where` says whose line it is.
 */
export async function shell(line: string, where: string, call: Call, before = ""): Promise<readonly string[]> {
	if (Buffer.byteLength(line) > MOST || line.includes("\0"))
		throw new BuildError("source_invalid", `${where} is longer than ${MOST} bytes or holds a NUL`);
	const wrong = await complaint(line, call);
	if (wrong !== undefined)
		throw new BuildError("source_invalid", `${where} is no line of shell (${wrong}): ${line.slice(0, MOST_SHOWN)}`);
	return ["/bin/sh", "-c", before + (await withArguments(line, call)), "sh"];
}

async function withArguments(line: string, call: Call): Promise<string> {
	const text = (await withoutComment(line, call)).trimEnd();
	// It would stand before what follows.
	if (/(?<!\\)(\\\\)*\\$/.test(text)) return line;
	// `;` may follow a command and nothing else; more words may follow a simple one and nothing else.
	const follows = (await complaint(`${text} ;`, call)) === undefined;
	// A here-document's end has a line to itself: with more on it all that follows is the document's.
	const isOpen = follows && (await complaint(`${text} ;\n)`, call)) !== undefined;
	const isSimple = (await complaint(`${text} "$@"`, call)) === undefined;
	return isOpen && isSimple ? `${text} "$@"` : line;
}

/** In a comment anything may be added: what is no shell elsewhere tells where one begins. */
async function withoutComment(line: string, call: Call): Promise<string> {
	const swallows = async (text: string) => (await complaint(`${text} )`, call)) === undefined;
	if (!(await swallows(line))) return line;
	const last = line.lastIndexOf("\n") + 1;
	for (const { index } of [...line.slice(last).matchAll(/(?<=^|[\s;&|()])#/g)].slice(0, MOST_HASHES)) {
		const before = line.slice(0, last + index);
		if (await swallows(`${before}#`)) return before;
	}
	return line;
}

/** What a shell says of a text that it reads and does not run; undefined where it is fine. */
async function complaint(text: string, call: Call): Promise<string | undefined> {
	try {
		await promisify(execFile)("/bin/sh", ["-n", "-c", text], {
			...{ env: { LANG: "C.UTF-8" }, timeout: ASK_LIMIT_MS, signal: call.signal },
		});
		return undefined;
	} catch (error) {
		if (call.signal.aborted) throw cancelled(call.signal);
		if (!(error instanceof Error)) throw error;
		const said = "stderr" in error ? String(error.stderr).trim() : "";
		return said.replace(/^.*?: (?=Syntax|syntax)/s, "").split("\n")[0] || "it does not read it";
	}
}
