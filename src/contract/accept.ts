/** Whether an `Accept` header (RFC 9110, 12.5.1) allows any of these media types. No header allows all. */
export function accepts(header: string | undefined, types: readonly string[]): boolean {
	return preferred(header, types) !== undefined;
}

/** The first of the types that the header likes best, or undefined where it takes none. */
export function preferred(header: string | undefined, types: readonly string[]): string | undefined {
	if (header === undefined || header.trim() === "") return types[0];
	const ranges = header.split(",").map(parse);
	let best: { type: string; quality: number } | undefined;
	for (const type of types) {
		const quality = qualityOf(type, ranges);
		if (quality > (best?.quality ?? 0)) best = { type, quality };
	}
	return best?.type;
}

type Range = { readonly type: string; readonly quality: number };

function parse(part: string): Range {
	const [type = "", ...parameters] = part.split(";").map((piece) => piece.trim().toLowerCase());
	const weight = parameters.find((parameter) => parameter.startsWith("q="));
	const quality = weight === undefined ? 1 : Number.parseFloat(weight.slice(2));
	return { type, quality: Number.isNaN(quality) ? 0 : quality };
}

/** The most specific range that fits decides. */
function qualityOf(type: string, ranges: readonly Range[]): number {
	const [major] = type.split("/");
	for (const candidate of [type, `${major}/*`, "*/*"]) {
		const range = ranges.find((other) => other.type === candidate);
		if (range !== undefined) return range.quality;
	}
	return 0;
}
