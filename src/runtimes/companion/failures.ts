import { constants } from "node:os";
import type { RuntimeFailure, RuntimeFailureCode } from "../runtime.ts";
import type { Exit } from "./engine.ts";

const IN_USE = /address (is )?already in use|EADDRINUSE|port \d+ is (already )?in use|only one usage of each socket/i;
const CLOCK_TIME = /\b\d{1,2}:\d{2}:\d{2}(\.\d+)?/g;
/** How the loader in a container ends that could not reach the server in time (images/README.md). */
const NOT_LOADED = 95;
const LOADER_SAYS = "runtime-loader: ";
/** What it says while it has not come to the program yet. */
const STILL_LOADING = /^runtime-loader: (.+); (?:trying again|going on)$/;
const ADVICE = "pass -addr '$HOST:$PORT' or read $PORT";

export function failure(
	code: RuntimeFailureCode,
	message: string,
	exitCode: number | null = null,
	lastLines: readonly string[] = [],
): RuntimeFailure {
	return { code, message, exitCode, lastLines };
}

/** `exited with code 3`, `was killed by SIGKILL`, or what the engine says. A code of 128+n is how a shell tells of signal n. */
export function howItEnded({ exitCode, words }: Pick<Exit, "exitCode" | "words">): string {
	if (words !== undefined) return words;
	if (exitCode === null) return "was killed";
	const signal = Object.entries(constants.signals).find(([, number]) => exitCode > 128 && number === exitCode - 128);
	return signal === undefined ? `exited with code ${exitCode}` : `was killed by ${signal[0]}`;
}

/** The loader's words where it gave up on the build, so that the program never ran; else null. */
export function whyNotLoaded(exitCode: number | null, lastLines: readonly string[]): string | null {
	const line = exitCode === NOT_LOADED ? lastLines.at(-1) : undefined;
	return line?.startsWith(LOADER_SAYS) === true ? line.slice(LOADER_SAYS.length) : null;
}

/** The end of a program that had been ready, or of what was started in its place. */
export function failedLater(exit: Pick<Exit, "exitCode" | "words">, lastLines: readonly string[]): RuntimeFailure {
	const notLoaded = whyNotLoaded(exit.exitCode, lastLines);
	if (notLoaded !== null) return failure("internal", notLoaded, exit.exitCode, lastLines);
	return failure("exited", `the program ${howItEnded(exit)}`, exit.exitCode, lastLines);
}

/** Why a start that ended before it was ready failed. */
export function failedStart(
	exit: Pick<Exit, "exitCode" | "words"> & { readonly lastLines: readonly string[] },
	port: number,
	starts: number,
): RuntimeFailure {
	const { exitCode, lastLines } = exit;
	const lines = lastLines.filter((candidate) => IN_USE.test(candidate));
	const line = lines.findLast((candidate) => addressIn(candidate) !== null) ?? lines.at(-1);
	const times = starts > 1 ? ` (${starts} starts)` : "";
	const notLoaded = whyNotLoaded(exitCode, lastLines);
	if (notLoaded !== null) return failure("internal", `${notLoaded}${times}`, exitCode, lastLines);
	if (line === undefined || exitCode === 0)
		return failure("exited", `the program ${howItEnded(exit)} before it was ready${times}`, exitCode, lastLines);
	const address = addressIn(line);
	const wanted = address === null ? "the address that it wanted" : address;
	const own = address?.endsWith(`:${port}`) === true;
	return failure(
		"not_listening",
		own
			? `the program could not take $PORT: ${address} is already in use, and it ${howItEnded(exit)}${times}`
			: `the program could not take ${wanted}: already in use, and it ${howItEnded(exit)}${times}; it must listen on $PORT (${port}) — ${ADVICE}`,
		exitCode,
		lastLines,
	);
}

/** Whether what it said is that another has the port that it was given. */
export function lostItsPort(lastLines: readonly string[], port: number): boolean {
	return lastLines.some((line) => IN_USE.test(line) && addressIn(line)?.endsWith(`:${port}`) === true);
}

function addressIn(line: string): string | null {
	const text = line.replace(CLOCK_TIME, "");
	const address = /(?:^|[\s'"(])((?:\[[0-9a-f:.]*\]|[\w.*-]*|::[0-9a-f.]*):\d{1,5})(?=$|[\s'":;,)])/i.exec(text)?.[1];
	if (address !== undefined) return address;
	const port = /\bport[ =:]+(\d{1,5})\b/i.exec(text)?.[1];
	return port === undefined ? null : `:${port}`;
}

/** Nothing on its port in time. `elsewhere` is what it does listen on, `answer` what a health request got. */
export function notListening(
	port: number,
	seconds: number,
	elsewhere: readonly { readonly host: string; readonly port: number }[],
	answer: string | null,
	lastLines: readonly string[],
): RuntimeFailure {
	if (answer !== null)
		return failure("not_listening", `$PORT (${port}) was not healthy within ${seconds} s: ${answer}`, null, lastLines);
	const loading = STILL_LOADING.exec(lastLines.at(-1) ?? "")?.[1];
	if (loading !== undefined)
		return failure("internal", `the build could not be loaded within ${seconds} s: ${loading}`, null, lastLines);
	const places = [...new Set(elsewhere.map((at) => `${at.host.includes(":") ? `[${at.host}]` : at.host}:${at.port}`))];
	const found = places.length === 0 ? "" : `; it listens on ${places.slice(0, 5).join(", ")} instead`;
	const worker = places.length === 0 ? ", or say health none for a program that does not listen" : "";
	return failure(
		"not_listening",
		`nothing listened on $PORT (${port}) within ${seconds} s${found} — ${ADVICE}${worker}`,
		null,
		lastLines,
	);
}
