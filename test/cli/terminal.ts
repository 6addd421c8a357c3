/** What a terminal of that width finally shows: enough of one for our own output. */
export function finalScreen(output: string, columns: number): { lines: string[]; cursorHidden: boolean } {
	const lines: string[][] = [[]];
	let row = 0;
	let column = 0;
	let cursorHidden = false;
	const esc = String.fromCharCode(27);
	const pattern = new RegExp(`${esc}\\[(\\??)([\\d;]*)([A-Za-z])|${esc}[()][A-Z0-9]|\\r|\\n|[^${esc}\\r\\n]`, "gu");
	for (const match of output.matchAll(pattern)) {
		const [all, question, number = "", letter] = match;
		const count = Number(number || "1");
		if (all === "\r") column = 0;
		else if (all === "\n") {
			row += 1;
			lines[row] ??= [];
		} else if (question === "?") {
			if (number === "25") cursorHidden = letter === "l";
		} else if (letter === "A") row = Math.max(0, row - count);
		else if (letter === "J") {
			lines.length = row + 1;
			lines[row] = (lines[row] ?? []).slice(0, column);
		} else if (all.length === 1 || letter === undefined) {
			if (column >= columns) {
				row += 1;
				column = 0;
				lines[row] ??= [];
			}
			const line = lines[row] ?? [];
			line[column] = all;
			lines[row] = line;
			column += 1;
		}
	}
	return {
		lines: lines.map((line) =>
			Array.from(line, (cell) => cell ?? " ")
				.join("")
				.trimEnd(),
		),
		cursorHidden,
	};
}
