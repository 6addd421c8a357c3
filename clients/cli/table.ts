import { clip, width } from "./format.ts";

/** Columns of equal width, two spaces between; never wider than the terminal. */
export function columns(rows: readonly (readonly string[])[], most: number | undefined): string[] {
	const widths: number[] = [];
	for (const row of rows) {
		for (const [index, cell] of row.entries()) widths[index] = Math.max(widths[index] ?? 0, width(cell));
	}
	return rows.map((row) => {
		const line = row
			.map((cell, index) => cell + " ".repeat(Math.max(0, (widths[index] ?? 0) - width(cell))))
			.join("  ");
		return most === undefined ? line.trimEnd() : clip(line.trimEnd(), most);
	});
}

/** A table for a person with a header, or tab-separated rows for a program. */
export function table(
	header: readonly string[],
	rows: readonly (readonly string[])[],
	output: { isTTY?: boolean; columns?: number },
): string[] {
	if (!output.isTTY) return rows.map((row) => row.map((cell) => cell.replace(/[\t\n]/g, " ")).join("\t"));
	// A terminal that nobody has told its size has no columns at all.
	return columns([header, ...rows], output.columns || undefined);
}
