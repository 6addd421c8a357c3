import { stripVTControlCharacters } from "node:util";

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** `512 B`, `22 kB`, `9.1 MB`: powers of 1000, one decimal from a megabyte on. */
export function size(bytes: number): string {
	let value = bytes;
	let unit = 0;
	while (value >= 999.5 && unit < UNITS.length - 1) {
		value /= 1000;
		unit += 1;
	}
	const digits = unit >= 2 && value < 99.5 ? 1 : 0;
	return `${value.toFixed(digits)} ${UNITS[unit] ?? ""}`;
}

/** `0.1s`, `62.0s`, `5m2s`. */
export function seconds(ms: number): string {
	const value = Math.max(0, ms) / 1000;
	if (value < 100) return `${value.toFixed(1)}s`;
	return `${Math.floor(value / 60)}m${Math.floor(value % 60)}s`;
}

/** Short and whole: `4s`, `2m`, `3h`, `5d`. */
export function span(ms: number): string {
	const value = Math.max(0, Math.floor(ms / 1000));
	if (value < 60) return `${value}s`;
	if (value < 3600) return `${Math.floor(value / 60)}m`;
	if (value < 86_400) return `${Math.floor(value / 3600)}h`;
	return `${Math.floor(value / 86_400)}d`;
}

export function ago(ms: number): string {
	return ms < 10_000 ? "now" : `${span(ms)} ago`;
}

/** Local time of day of an ISO time. */
export function clock(time: string): string {
	const date = new Date(time);
	return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

export function count(n: number, noun: string): string {
	return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/** `hello`, or `hello v2`: as an argument of a command. */
export function serviceWords(name: string, version: string): string {
	return version === "latest" ? name : `${name} ${version}`;
}

/** A word as a shell would need it. */
export function quote(word: string): string {
	return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Without escape sequences and control characters: what others wrote must not move our cursor. */
export function printable(text: string): string {
	return stripVTControlCharacters(text)
		.replaceAll("\t", "    ")
		.replace(/\p{Cc}/gu, "");
}

const WIDE =
	/[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}]/u;
const ZERO = /\p{Mark}|\u200d|\ufe0f/u;

/** Columns that a text takes on a terminal. */
export function width(text: string): number {
	let columns = 0;
	for (const character of stripVTControlCharacters(text)) {
		if (character < "\u0300") columns += 1;
		else if (!ZERO.test(character)) columns += WIDE.test(character) ? 2 : 1;
	}
	return columns;
}

/** Cut to so many columns, with `…` where something is missing. The text holds no escape sequences. */
export function clip(text: string, columns: number): string {
	if (width(text) <= columns) return text;
	let result = "";
	let used = 0;
	for (const character of text) {
		const next = width(character);
		if (used + next > columns - 1) break;
		result += character;
		used += next;
	}
	return `${result}…`;
}

/** The candidates that a person may have meant, nearest first, at most three. */
export function nearest(word: string, candidates: Iterable<string>): string[] {
	const limit = Math.max(1, Math.floor(word.length / 3) + 1);
	const scored: [number, string][] = [];
	for (const candidate of new Set(candidates)) {
		const score = candidate.startsWith(word) && word.length > 1 ? 0 : distance(word, candidate);
		if (score <= limit) scored.push([score, candidate]);
	}
	scored.sort(([a, x], [b, y]) => a - b || (x < y ? -1 : 1));
	return scored.slice(0, 3).map(([, candidate]) => candidate);
}

/** Damerau's distance with neighbours swapped counting once. */
function distance(a: string, b: string): number {
	let before: number[] = [];
	let last = Array.from({ length: b.length + 1 }, (_, index) => index);
	for (let i = 1; i <= a.length; i++) {
		const row = [i];
		for (let j = 1; j <= b.length; j++) {
			const cost = a[i - 1] === b[j - 1] ? 0 : 1;
			let best = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + cost);
			if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
				best = Math.min(best, (before[j - 2] ?? 0) + 1);
			row.push(best);
		}
		before = last;
		last = row;
	}
	return last[b.length] ?? 0;
}
