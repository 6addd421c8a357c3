/** What one comparison found: milliseconds (bytes, where it is of those), one for each round. */
export type Comparison = {
	readonly id: string;
	readonly title: string;
	readonly ours: readonly number[];
	readonly peer: readonly number[];
	/** What the ratio says: `throughput` is the peer's time over ours, `time` ours over the peer's, and so `bytes`. */
	readonly kind: "throughput" | "time" | "bytes";
	/** The ratio of the medians. */
	readonly ratio: number;
	readonly target: string;
	readonly met: boolean;
	/** Other figures, by name. */
	readonly notes: Readonly<Record<string, string | number>>;
};

export type Skipped = { readonly id: string; readonly title: string; readonly skipped: string };
export type Outcome = Comparison | Skipped;

export type Bench = {
	readonly id: string;
	/** Measures in an empty folder of its own. */
	readonly run: (place: string) => Promise<readonly Outcome[]>;
};

export type Sides = { readonly ours: number[]; readonly peer: number[] };

/** Measures both sides in turn, so that whatever else the machine does falls on both. */
export async function alternate(
	rounds: number,
	ours: (round: number) => Promise<number>,
	peer: (round: number) => Promise<number>,
): Promise<Sides> {
	const sides: Sides = { ours: [], peer: [] };
	for (let round = 0; round < rounds; round++) {
		sides.ours.push(await ours(round));
		sides.peer.push(await peer(round));
	}
	return sides;
}

export function median(values: readonly number[]): number {
	const sorted = [...values].sort((a, b) => a - b);
	const middle = Math.floor(sorted.length / 2);
	const upper = sorted[middle] ?? Number.NaN;
	return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** A comparison by throughput: met from `least` on. */
export function throughput(
	{ id, title }: { readonly id: string; readonly title: string },
	sides: Sides,
	least: number,
	notes: Comparison["notes"] = {},
): Comparison {
	const ratio = median(sides.peer) / median(sides.ours);
	return { id, title, ...sides, kind: "throughput", ratio, target: `≥ ${least}`, met: ratio >= least, notes };
}

/** A comparison by time, with the bound that the caller worked out. */
export function duration(
	{ id, title }: { readonly id: string; readonly title: string },
	sides: Sides,
	bound: { readonly target: string; readonly most: number },
	notes: Comparison["notes"] = {},
): Comparison {
	const { target, most } = bound;
	const ratio = median(sides.ours) / median(sides.peer);
	return { id, title, ...sides, kind: "time", ratio, target, met: median(sides.ours) <= most, notes };
}

/** A comparison by bytes: met up to `most` times those of the peer. */
export function amount(
	{ id, title }: { readonly id: string; readonly title: string },
	sides: Sides,
	most: number,
	notes: Comparison["notes"] = {},
): Comparison {
	const ratio = median(sides.ours) / median(sides.peer);
	return { id, title, ...sides, kind: "bytes", ratio, target: `≤ ${most} ×`, met: ratio <= most, notes };
}

/** How long an action takes, in milliseconds. */
export async function timed(action: () => Promise<unknown>): Promise<number> {
	const started = performance.now();
	await action();
	return performance.now() - started;
}
