import { existsSync } from "node:fs";
import { join, relative, sep } from "node:path";
import type { Diagnostic } from "../builder.ts";

/** Folders that Go's output is relative to, all absolute. */
export type OutputPlaces = { readonly root: string; readonly module: string; readonly package: string };

export type GoFailure = {
	readonly kind: "build_failed" | "source_invalid" | "unavailable" | "go_too_old" | "no_program";
	readonly diagnostics: readonly Diagnostic[];
	/** For `go_too_old`: what is needed, such as `1.27`. */
	readonly needed?: string;
};

const MAX_DIAGNOSTICS = 100;
const MAX_MESSAGE = 4096;

/** `file.go:12:6: message`, `go.mod:6: message`. */
const POSITION = /^(?:vet: )?([^\s:][^:\n]*\.go|(?:[^\s:][^:\n]*\/)?go\.(?:mod|sum|work)):(\d+)(?::(\d+))?: (.*)$/s;
const TOO_OLD = /requires go >= ?(\S+)|requires Go (\d[\w.]*)/;
const NO_PROGRAM =
	/^no Go files in |build constraints exclude all Go files|^directory .* outside (main module|modules)/;
const UNREACHABLE =
	/dial (tcp|udp)|no such host|connection (refused|reset)|i\/o timeout|TLS handshake|x509:|Client\.Timeout|unexpected EOF|proxyconnect|\b(429|50[0-9]) [A-Z]\w+|Could not resolve host|unable to access|module lookup disabled by GOPROXY=off/;

/**
 * Reads what `go build` wrote, which is made for people: one complaint a line, continued by lines that start with a tab.
 * `lines` are as Go wrote them.
 */
export function readGoOutput(lines: readonly string[], places: OutputPlaces): GoFailure {
	const complaints = joinContinuations(lines).filter(
		(text) => !/^(# |go: (downloading|finding|extracting) |\[)/.test(text),
	);
	const diagnostics = complaints.slice(0, MAX_DIAGNOSTICS).map((text) => diagnose(text, places));
	const all = complaints.join("\n");
	const tooOld = TOO_OLD.exec(all);
	if (tooOld !== null) return { kind: "go_too_old", diagnostics, needed: tooOld[1] ?? tooOld[2] ?? "" };
	if (UNREACHABLE.test(all)) return { kind: "unavailable", diagnostics };
	if (complaints.some((text) => NO_PROGRAM.test(text.replace(/^package \S+: /, ""))))
		return { kind: "no_program", diagnostics };
	return { kind: "build_failed", diagnostics };
}

function joinContinuations(lines: readonly string[]): string[] {
	const joined: string[] = [];
	for (const line of lines) {
		if (line.trim() === "") continue;
		const last = joined.length - 1;
		// "go: errors parsing go.mod:" says on the next line what it is.
		const opens = /errors parsing \S*go\.mod:$/.test(joined[last] ?? "");
		// A checksum that differs is followed by a page of advice.
		const explains = /: checksum mismatch\n/.test(joined[last] ?? "") && !POSITION.test(line);
		if (opens) joined[last] = line;
		else if (explains || (line.startsWith("\t") && last >= 0)) joined[last] = `${joined[last]}\n${line}`;
		else joined.push(line);
	}
	return joined;
}

function diagnose(text: string, places: OutputPlaces): Diagnostic {
	const direct = POSITION.exec(text);
	if (direct !== null) return positioned(direct, places);
	// "package x\n\tmain.go:2:8: use of internal package y not allowed"
	const lines = text.split("\n").map((line) => line.trim());
	for (const line of lines.slice(1)) {
		const inner = POSITION.exec(line);
		if (inner !== null) return positioned(inner, places);
	}
	// "package x\n\timports x/a from main.go\n\timports x from a.go: import cycle not allowed"
	const importer = /^imports \S+ from ([^\s:]+\.go)/.exec(lines[1] ?? "")?.[1];
	const message = tidy(text.replace(/^go: /, ""), places);
	const file =
		importer === undefined
			? /\bgo\.mod\b/.test(text)
				? join(places.module, "go.mod")
				: ""
			: join(places.package, importer);
	return { file: file === "" ? "" : inRoot(file, places), line: 0, column: 0, message };
}

function positioned(match: RegExpExecArray, places: OutputPlaces): Diagnostic {
	const [, file = "", line = "0", column = "0", message = ""] = match;
	return {
		file: inSource(file, places),
		line: Number(line),
		column: Number(column),
		message: tidy(message, places),
	};
}

/** Go names files relative to the package's folder, go.mod sometimes relative to the module's. */
function inSource(file: string, places: OutputPlaces): string {
	const found = [places.package, places.module, places.root]
		.map((folder) => join(folder, file))
		.find((path) => existsSync(path));
	return found === undefined ? file : inRoot(found, places);
}

function inRoot(path: string, places: OutputPlaces): string {
	return relative(places.root, path).split(sep).join("/");
}

function tidy(message: string, places: OutputPlaces): string {
	const lines = message
		.split("\n")
		.map((line) => line.trim())
		.filter((line) => line !== "")
		.map((line) => {
			const match = POSITION.exec(line);
			if (match === null) return line;
			const [, file = "", row, column, words] = match;
			return [inSource(file, places), row, ...(column === undefined ? [] : [column])].join(":").concat(`: ${words}`);
		});
	let text = withoutPlaces(lines.join("\n"), places);
	if (text.includes("missing go.sum entry") && !text.includes("go mod tidy"))
		text += "\nrun `go mod tidy` and send go.sum along";
	if (text.includes("import lookup disabled by -mod=readonly"))
		text = text.replace(
			": import lookup disabled by -mod=readonly",
			": it is not in go.mod; run `go mod tidy` (or `go get` it) and send go.mod and go.sum along",
		);
	return text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text;
}

/** Nobody needs to see where the server keeps its files. */
export function withoutPlaces(text: string, places: OutputPlaces): string {
	return text.replaceAll(`${places.root}/`, "").replaceAll(places.root, ".");
}
