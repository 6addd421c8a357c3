import { AppError } from "../errors.ts";
import type { KeptSource, RevisionError, RevisionRecord, ServiceEvent, ServiceRecord, Status, Wish } from "./model.ts";
import { revisionOf, sourceId } from "./model.ts";
import { isUploaded } from "./remote-sources.ts";
import type { Commit } from "./store.ts";
import { isActive, isLegal } from "./transitions.ts";

/**
 * A change of one service in the making. Pure: collects moves, checks each against the table, and gives the commit.
 */
export class Draft {
	#service: ServiceRecord;
	readonly #expected: number | null;
	readonly #now: string;
	readonly #keepSources: number;
	readonly #changed = new Map<number, RevisionRecord>();
	readonly #events: ServiceEvent[] = [];
	#requireSource: string | undefined;
	#remember: Commit["remember"];
	#touched = false;

	private constructor(service: ServiceRecord, expected: number | null, now: string, keepSources: number) {
		this.#service = service;
		this.#expected = expected;
		this.#now = now;
		this.#keepSources = keepSources;
	}

	/** A change of a service as it was read. `keepSources`: of how many revisions that ran in place the sources are kept. */
	static of(service: ServiceRecord, now: string, keepSources = 0): Draft {
		return new Draft(service, service.stamp, now, keepSources);
	}

	/** A service that does not exist yet; its first revision is added next. */
	static create(
		identity: Pick<ServiceRecord, "id" | "namespace" | "name" | "version" | "metadata">,
		now: string,
	): Draft {
		return new Draft(
			{
				...identity,
				stamp: 0,
				seq: 0,
				desired: "running",
				live: null,
				newest: 0,
				url: null,
				revisions: [],
				createdAt: now,
				updatedAt: now,
			},
			null,
			now,
			0,
		);
	}

	get service(): ServiceRecord {
		return this.#service;
	}

	/** Whether there is anything to commit. */
	get touched(): boolean {
		return this.#touched;
	}

	set(change: Partial<Pick<ServiceRecord, "desired" | "live" | "url" | "metadata" | "hidden">>): this {
		this.#service = { ...this.#service, ...change };
		this.#touched = true;
		return this;
	}

	/** Where the source is an uploaded one, the commit fails unless it exists then. */
	require(source: string): this {
		if (isUploaded(source)) this.#requireSource = sourceId(source);
		return this;
	}

	/** Remembers under an idempotency key what this commit makes. */
	remember(once: Commit["remember"]): this {
		this.#remember = once;
		return this;
	}

	/** Changes the record of a revision, at hand or not, without a move. */
	amend(record: RevisionRecord): this {
		this.#put(record);
		return this;
	}

	/** Adds the next revision as Pending; answers its number. */
	add(wish: Wish, build: RevisionRecord["build"]): number {
		const revision = this.#service.newest + 1;
		const record: RevisionRecord = {
			...wish,
			revision,
			status: "Pending",
			generation: 1,
			lastGeneration: 1,
			build,
			launch: null,
			error: null,
			createdAt: this.#now,
			updatedAt: this.#now,
		};
		this.#service = { ...this.#service, newest: revision, revisions: [...this.#service.revisions, record] };
		this.#changed.set(revision, record);
		this.#event(revision, null, "Pending");
		return revision;
	}

	/** Moves a revision. The error belongs to the new state; without one it is cleared. */
	move(
		revision: number,
		to: Status,
		error: RevisionError | null = null,
		change: Partial<Pick<RevisionRecord, "build" | "launch" | "generation" | "lastGeneration">> = {},
	): this {
		const record = revisionOf(this.#service, revision);
		if (record === undefined) throw new AppError("internal", `revision ${revision} is not at hand`);
		if (!isLegal(record.status, to, record.error?.code ?? null))
			throw new AppError("internal", `revision ${revision} cannot go from ${record.status} to ${to}`);
		this.#put({ ...record, ...change, status: to, error, updatedAt: this.#now });
		this.#event(revision, record.status, to, error);
		return this;
	}

	/** Gives the whole change. */
	commit(): Commit {
		const kept = this.#service.revisions.filter(
			(record) =>
				isActive(record.status) || record.revision === this.#service.live || record.revision === this.#service.newest,
		);
		const sources = keptSources(this.#service, this.#keepSources);
		this.#service = {
			...this.#service,
			...(sources.length === 0 ? {} : { sources }),
			revisions: kept,
			stamp: (this.#expected ?? 0) + 1,
			updatedAt: this.#now,
		};
		return {
			service: this.#service,
			expected: this.#expected,
			revisions: [...this.#changed.values()],
			events: this.#events,
			...(this.#requireSource === undefined ? {} : { requireSource: this.#requireSource }),
			...(this.#remember === undefined ? {} : { remember: this.#remember }),
		};
	}

	#put(record: RevisionRecord): void {
		this.#changed.set(record.revision, record);
		this.#service = {
			...this.#service,
			revisions: this.#service.revisions.map((other) => (other.revision === record.revision ? record : other)),
		};
		this.#touched = true;
	}

	#event(revision: number, from: Status | null, to: Status, error: RevisionError | null = null): void {
		const seq = this.#service.seq + 1;
		this.#service = { ...this.#service, seq };
		this.#events.push({ seq, time: this.#now, revision, from, to, ...(error === null ? {} : { error }) });
		this.#touched = true;
	}
}

/** The newest sources, one for each, of revisions that were run in place. */
function keptSources({ revisions, sources = [] }: ServiceRecord, most: number): readonly KeptSource[] {
	const run = revisions.filter(({ launch, source }) => launch !== null && isUploaded(source));
	const all = [...sources, ...run.map(({ revision, source }) => ({ revision, source }))];
	all.sort((a, b) => b.revision - a.revision);
	return all.filter(({ source }, index) => all.findIndex((other) => other.source === source) === index).slice(0, most);
}
