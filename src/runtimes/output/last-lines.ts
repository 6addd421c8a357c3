/** Lines of an instance, characters of a line, instances. */
const MOST = 20;
const LENGTH = 4_096;
const INSTANCES = 16;

/** What each of the newest instances said last: at most 20 lines, each cut to 4096 characters. */
export class LastLines {
	readonly #lines = new Map<string, string[]>();

	add(instance: string, lines: readonly string[]): void {
		const kept = this.#lines.get(instance) ?? [];
		kept.push(...lines.slice(-MOST).map((line) => line.slice(0, LENGTH)));
		if (kept.length > MOST) kept.splice(0, kept.length - MOST);
		// Set anew, so that the order of the map is that of the last use.
		this.#lines.delete(instance);
		this.#lines.set(instance, kept);
		if (this.#lines.size <= INSTANCES) return;
		for (const oldest of this.#lines.keys()) {
			this.#lines.delete(oldest);
			break;
		}
	}

	/** Oldest first. */
	of(instance: string, count: number): readonly string[] {
		return count <= 0 ? [] : (this.#lines.get(instance) ?? []).slice(-count);
	}

	clear(): void {
		this.#lines.clear();
	}
}
