import { readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { hints } from "./errors.ts";
import { count, printable } from "./format.ts";
import type { Paint } from "./screen/paint.ts";
import type { Service, ServiceError } from "./shapes.ts";

const MOST_DIAGNOSTICS = 20;

export type FailureReport = {
	readonly error: ServiceError;
	/** Undefined where nothing of it is kept. */
	readonly revision: number | undefined;
	readonly service: Service | undefined;
	/** Folder that the diagnostics' files are relative to; undefined where the source is not here. */
	readonly root: string | undefined;
	readonly cwd: string;
	/** The command that tries again, or undefined. */
	readonly again: string | undefined;
	/** The service as an argument of another command. */
	readonly words: string;
	/** The build's log, where it was not shown. */
	readonly log: readonly string[];
	readonly paint: Paint;
};

/** What a person reads below a phase that failed. */
export function failureLines(report: FailureReport): string[] {
	const { error, paint } = report;
	const lines: string[] = [];
	const inBuild = isOfBuild(error);
	if (error.diagnostics.length > 0) lines.push(...diagnosticLines(report));
	else {
		// The log may end with the very words of the error.
		const repeated = report.log.at(-1) === error.message;
		lines.push(...(repeated ? report.log.slice(0, -1) : report.log).map(printable));
		lines.push(paint.bold(printable(error.message)));
	}
	const last = error.lastLines ?? [];
	if (!inBuild && last.length > 0) {
		lines.push("Its last lines:");
		for (const line of last) lines.push(paint.dim(`  ${printable(line)}`));
	}
	lines.push(outcomeLine(report, inBuild));
	const next: [string, string][] = [];
	if (report.again !== undefined) next.push([error.retryable ? "Again" : "Fix, then", report.again]);
	if (report.revision === undefined) return [...lines, ...hints(next).map((line) => `  ${line}`)];
	if (inBuild) next.push(["Full log", `runtime logs ${report.words} --build`]);
	else next.push(["Logs", `runtime logs ${report.words}`]);
	return [...lines, ...hints(next).map((line) => `  ${line}`)];
}

export function isOfBuild({ phase }: ServiceError): boolean {
	return phase === "build" || phase === "source" || phase === "pending" || phase === "build_store";
}

function outcomeLine({ error, revision, service }: FailureReport, inBuild: boolean): string {
	if (revision === undefined) return "Nothing was created.";
	const live =
		service !== undefined && service.revision !== revision && service.status === "Running"
			? service.revision
			: undefined;
	const keeps = live === undefined ? "." : `; revision ${live} keeps running.`;
	if (error.code === "superseded") {
		const by = service === undefined ? "" : ` by revision ${service.target?.revision ?? service.revision}`;
		return `Revision ${revision} was superseded${by}.`;
	}
	if (error.code === "cancelled") return `Revision ${revision} was cancelled${keeps}`;
	return `Revision ${revision} failed to ${inBuild ? "build" : "start"}${keeps}`;
}

function diagnosticLines({ error, root, cwd, paint }: FailureReport): string[] {
	const lines: string[] = [];
	for (const { file, line, column, message } of error.diagnostics.slice(0, MOST_DIAGNOSTICS)) {
		const position = line > 0 ? `:${line}${column > 0 ? `:${column}` : ""}` : "";
		lines.push(`${paint.bold(`${printable(nearPath(file, root, cwd))}${position}`)}: ${printable(message)}`);
		const source = line > 0 && root !== undefined ? lineOf(join(root, file), root, line) : undefined;
		if (source !== undefined)
			lines.push(`  ${line} ${paint.dim("│")} ${printable(source.replaceAll("\t", "    ")).trim()}`);
	}
	const more = error.diagnostics.length - MOST_DIAGNOSTICS;
	if (more > 0) lines.push(`… and ${count(more, "more error")}`);
	return lines;
}

/** As it would be opened from here, where that is shorter than a way up and down again. */
function nearPath(file: string, root: string | undefined, cwd: string): string {
	if (root === undefined) return file;
	const way = relative(cwd, join(root, file));
	return way.startsWith("..") ? file : way;
}

/** A line of a local file; never of one outside of the source, whatever the server says. */
function lineOf(path: string, root: string, line: number): string | undefined {
	if (!path.startsWith(root + sep)) return undefined;
	try {
		return readFileSync(path, "utf8").split("\n")[line - 1]?.slice(0, 200);
	} catch {
		return undefined;
	}
}
