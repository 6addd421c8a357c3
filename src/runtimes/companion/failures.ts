import { constants } from "node:os";
import type { RuntimeFailure, RuntimeFailureCode } from "../runtime.ts";

const IN_USE = /address (is )?already in use|EADDRINUSE|port \d+ is (already )?in use|only one usage of each socket/i;
const CLOCK_TIME = /\b\d{1,2}:\d{2}:\d{2}(\.\d+)?/g;
const ADVICE = "pass -addr '$HOST:$PORT' or read $PORT";

export function failure(
	code: RuntimeFailureCode,
	message: string,
	exitCode: number | null = null,
	lastLines: readonly string[] = [],
): RuntimeFailure {
	return { code, message, exitCode, lastLines };
}

/** `exited with code 3`, `was killed by SIGKILL`. A code of 128+n is how a shell tells of signal n. */
export function howItEnded(exitCode: number | null): string {
	if (exitCode === null) return "was killed";
	const signal = Object.entries(constants.signals).find(([, number]) => exitCode > 128 && number === exitCode - 128);
	return signal === undefined ? `exited with code ${exitCode}` : `was killed by ${signal[0]}`;
}

/** Why a start that ended before it was ready failed. */
export function failedStart(
	exit: { readonly exitCode: number | null; readonly lastLines: readonly string[] },
	port: number,
	starts: number,
): RuntimeFailure {
	const { exitCode, lastLines } = exit;
	const lines = lastLines.filter((candidate) => IN_USE.test(candidate));
	const line = lines.findLast((candidate) => addressIn(candidate) !== null) ?? lines.at(-1);
	const times = starts > 1 ? ` (${starts} starts)` : "";
	if (line === undefined || exitCode === 0)
		return failure("exited", `the program ${howItEnded(exitCode)} before it was ready${times}`, exitCode, lastLines);
	const address = addressIn(line);
	const wanted = address === null ? "the address that it wanted" : address;
	const own = address?.endsWith(`:${port}`) === true;
	return failure(
		"not_listening",
		own
			? `the program could not take $PORT: ${address} is already in use, and it ${howItEnded(exitCode)}${times}`
			: `the program could not take ${wanted}: already in use, and it ${howItEnded(exitCode)}${times}; it must listen on $PORT (${port}) — ${ADVICE}`,
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
