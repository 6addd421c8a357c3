import { AppError } from "../errors.ts";
import type { Postgres, Row } from "../postgres/pool.ts";
import {
	type RevisionRecord,
	type ServiceEvent,
	type ServiceName,
	type ServiceRecord,
	type SourceRecord,
	sourceIdsOf,
} from "./model.ts";
import type { Commit, Remembered, ServiceFilter, ServiceStore } from "./store.ts";

/** Events and revisions kept for each service; older ones are dropped with the commit that adds newer ones. */
const EVENTS_KEPT = 1000;
const REVISIONS_KEPT = 1000;
/** Rows fetched at once, and after how many bytes of them no other begins: what is listed is never in memory whole. */
const PAGE = { rows: 500, bytes: 4 * 1024 * 1024 };
/** What the columns hold. Nothing has a larger number, and whoever asks for one finds nothing. */
const MOST = { revision: 2 ** 31 - 1, event: Number.MAX_SAFE_INTEGER };

type Recorded<T> = { readonly record: T };
type Asked<R> = [
	select: string,
	order: string,
	values: readonly unknown[],
	start: readonly unknown[],
	next: (row: R) => readonly unknown[],
	likely?: number,
];

/**
 * The records in PostgreSQL, for any number of servers. Every change is one statement, so that it takes one round trip, and
 * PostgreSQL alone decides who is first: the check of the stamp is in the statement that writes.
 */
export class PostgresServiceStore implements ServiceStore {
	readonly #postgres: Postgres;

	/** Takes the connections over: disposing the store closes them. */
	constructor(postgres: Postgres) {
		this.#postgres = postgres;
	}

	async get({ namespace, name, version }: ServiceName): Promise<ServiceRecord | undefined> {
		return this.#one("SELECT record FROM service WHERE (namespace, name, version) = ($1, $2, $3)", [
			...[namespace, name, version],
		]);
	}

	async getById(id: string): Promise<ServiceRecord | undefined> {
		return this.#one("SELECT record FROM service WHERE id = $1", [id]);
	}

	async *list(
		namespace: string,
		filter: ServiceFilter,
		from: ServiceName | null,
		likely: number = PAGE.rows,
	): AsyncIterable<ServiceRecord> {
		type Found = { readonly name: string; readonly version: string; readonly record: ServiceRecord };
		yield* this.#pages<Found, ServiceRecord>(
			`SELECT name, version, record FROM service WHERE namespace = $1 AND ($2::text IS NULL OR name = $2)
				AND ($3::text IS NULL OR version = $3) AND ($4::text IS NULL OR (name, version) > ($4, $5))`,
			"name, version",
			[namespace, filter.name ?? null, filter.version ?? null],
			[from?.name ?? null, from?.version ?? null],
			({ name, version }) => [name, version],
			likely,
		);
	}

	async *all(): AsyncIterable<ServiceRecord> {
		yield* this.#pages<{ readonly id: string; readonly record: ServiceRecord }, ServiceRecord>(
			"SELECT id, record FROM service WHERE $1::text IS NULL OR id > $1",
			"id",
			[],
			[null],
			({ id }) => [id],
		);
	}

	async commit(commit: Commit): Promise<void> {
		const { service, expected, revisions, events, requireSource, remember } = commit;
		const done: Remembered | null =
			remember === undefined
				? null
				: { hash: remember.hash, serviceId: service.id, revision: service.newest, time: service.updatedAt };
		const [answer] = await this.#postgres.query<{ changed: boolean; required: boolean }>(
			expected === null ? CREATE : CHANGE,
			[
				...[service.id, service.namespace, service.name, service.version, service.stamp, JSON.stringify(service)],
				...[expected ?? 0, requireSource ?? null, sourceIdsOf(service)],
				...[revisions.map(({ revision }) => revision), revisions.map((revision) => JSON.stringify(revision))],
				...[events.map(({ seq }) => seq), events.map((event) => JSON.stringify(event))],
				...[service.newest - REVISIONS_KEPT, service.seq - EVENTS_KEPT],
				...[remember?.key ?? null, done?.time ?? null, done === null ? null : JSON.stringify(done)],
			],
		);
		if (answer?.changed === true) return;
		if (answer?.required === false && (await this.#stands(service, expected)))
			throw new AppError("not_found", `there is no source://${requireSource} in namespace ${service.namespace}`, {
				field: "source",
				hint: "Upload it again with POST /sources, and use the key of that answer.",
			});
		throw changedMeanwhile(service);
	}

	async remove(service: ServiceRecord): Promise<void> {
		const { id, stamp } = service;
		const gone = await this.#postgres.query("DELETE FROM service WHERE id = $1 AND stamp = $2 RETURNING id", [
			...[id, stamp],
		]);
		if (gone.length === 0) throw changedMeanwhile(service);
	}

	async revision(id: string, revision: number): Promise<RevisionRecord | undefined> {
		return this.#one("SELECT record FROM revision WHERE service_id = $1 AND number = $2", [
			...[id, Math.min(revision, MOST.revision)],
		]);
	}

	async *revisions(id: string, before: number | null): AsyncIterable<RevisionRecord> {
		yield* this.#pages<{ readonly number: number; readonly record: RevisionRecord }, RevisionRecord>(
			"SELECT number, record FROM revision WHERE service_id = $1 AND ($2::integer IS NULL OR number < $2)",
			"number DESC",
			[id],
			[before === null ? null : Math.min(before, MOST.revision)],
			({ number }) => [number],
		);
	}

	async *events(id: string, after: number): AsyncIterable<ServiceEvent> {
		yield* this.#pages<Recorded<ServiceEvent>, ServiceEvent>(
			"SELECT seq, record FROM event WHERE service_id = $1 AND seq > $2",
			"seq",
			[id],
			[Math.min(after, MOST.event)],
			({ record }) => [record.seq],
		);
	}

	async putSource(source: SourceRecord): Promise<void> {
		await this.#postgres.query(
			`INSERT INTO source (namespace, id, record) VALUES ($1, $2, $3)
				ON CONFLICT (namespace, id) DO UPDATE SET record = excluded.record, collected = false`,
			[source.namespace, source.id, JSON.stringify(source)],
		);
	}

	async getSource(namespace: string, id: string): Promise<SourceRecord | undefined> {
		return this.#one("SELECT record FROM source WHERE namespace = $1 AND id = $2 AND NOT collected", [namespace, id]);
	}

	async *sources(): AsyncIterable<SourceRecord & { readonly collected: boolean }> {
		type Found = Recorded<SourceRecord> & { readonly collected: boolean };
		const found = this.#rows<Found>(
			"SELECT namespace, id, record, collected FROM source WHERE $1::text IS NULL OR (namespace, id) > ($1, $2)",
			"namespace, id",
			[],
			[null, null],
			({ record }) => [record.namespace, record.id],
		);
		for await (const { record, collected } of found) yield { ...record, collected };
	}

	async collectSource(namespace: string, id: string): Promise<boolean> {
		return this.#postgres.transaction(async (query) => {
			// The references are read in a statement of their own: only a later one sees what the lock was waiting for.
			const [found] = await query("SELECT 1 FROM source WHERE namespace = $1 AND id = $2 FOR UPDATE", [namespace, id]);
			if (found === undefined) return false;
			const [used] = await query("SELECT 1 FROM source_reference WHERE namespace = $1 AND source_id = $2 LIMIT 1", [
				...[namespace, id],
			]);
			if (used !== undefined) return false;
			await query("UPDATE source SET collected = true WHERE namespace = $1 AND id = $2", [namespace, id]);
			return true;
		});
	}

	async forgetSource(namespace: string, id: string): Promise<void> {
		await this.#postgres.query("DELETE FROM source WHERE namespace = $1 AND id = $2", [namespace, id]);
	}

	async recall(namespace: string, key: string): Promise<Remembered | undefined> {
		return this.#one("SELECT record FROM idempotency WHERE namespace = $1 AND key = $2", [namespace, key]);
	}

	async forgetKeys(time: string): Promise<void> {
		await this.#postgres.query("DELETE FROM idempotency WHERE time < $1", [time]);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#postgres[Symbol.asyncDispose]();
	}

	/** Whether the service is as it was expected. */
	async #stands(service: ServiceRecord, expected: number | null): Promise<boolean> {
		const found = await this.get(service);
		return (found?.stamp ?? null) === expected && (found === undefined || found.id === service.id);
	}

	async #one<T>(text: string, values: readonly unknown[]): Promise<T | undefined> {
		const [row] = await this.#postgres.query<Recorded<T>>(text, values);
		return row?.record;
	}

	async *#pages<R extends Recorded<T>, T>(...asked: Asked<R>): AsyncGenerator<T> {
		for await (const { record } of this.#rows<R>(...asked)) yield record;
	}

	/** Page by page, the first of `likely` rows: the place where the next one begins is behind the values. */
	async *#rows<R extends Row>(...asked: Asked<R>): AsyncGenerator<R> {
		const [select, order, values, start, next, likely = PAGE.rows] = asked;
		const text = pageOf(select, order, values.length + start.length + 1);
		let from = start;
		for (let most = Math.min(likely, PAGE.rows); ; most = Math.min(most * 2, PAGE.rows)) {
			const rows = await this.#postgres.query<R & { readonly total: string }>(text, [...values, ...from, most]);
			yield* rows;
			const last = rows.at(-1);
			if (last === undefined || (rows.length < most && Number(last.total) < PAGE.bytes)) return;
			from = next(last);
		}
	}
}

/** PostgreSQL knows how long a value is without reading it, so that no page is longer than it may be and one record. */
function pageOf(select: string, order: string, limit: number): string {
	return `SELECT * FROM (
			SELECT *, sum(octet_length(record::text)) OVER (ORDER BY ${order} ROWS UNBOUNDED PRECEDING) AS total
			FROM (${select} ORDER BY ${order} LIMIT $${limit}) AS found
		) AS page WHERE total - octet_length(record::text) < ${PAGE.bytes} ORDER BY ${order}`;
}

function changedMeanwhile({ name, version }: ServiceName): AppError {
	return new AppError("conflict", `${name}:${version} was changed by somebody else meanwhile`);
}

/**
 * The parameters of both: 1 id, 2 namespace, 3 name, 4 version, 5 stamp, 6 record, 7 expected stamp, 8 required source,
 * 9 sources referred to, 10 and 11 revisions, 12 and 13 events, 14 and 15 the newest that are dropped, 16 to 18 what is remembered.
 */
const REQUIRED = `required AS (
		SELECT 1 FROM source WHERE namespace = $2 AND id = $8::text AND NOT collected FOR SHARE
	)`;
const MET = "($8::text IS NULL OR EXISTS (SELECT FROM required))";

/** What goes with the service's own row, where that was written. */
const WITH_IT = `revisions AS (
		INSERT INTO revision (service_id, number, record)
		SELECT changed.id, given.number, given.record
		FROM changed, unnest($10::integer[], $11::json[]) AS given (number, record)
		ON CONFLICT (service_id, number) DO UPDATE SET record = excluded.record
	), events AS (
		INSERT INTO event (service_id, seq, record)
		SELECT changed.id, given.seq, given.record FROM changed, unnest($12::bigint[], $13::json[]) AS given (seq, record)
	), old_revisions AS (
		DELETE FROM revision WHERE service_id IN (SELECT id FROM changed) AND number <= $14
	), old_events AS (
		DELETE FROM event WHERE service_id IN (SELECT id FROM changed) AND seq <= $15
	), dropped AS (
		DELETE FROM source_reference WHERE service_id IN (SELECT id FROM changed) AND source_id <> ALL ($9::text[])
	), referred AS (
		INSERT INTO source_reference (service_id, namespace, source_id)
		SELECT changed.id, $2, given.id FROM changed, unnest($9::text[]) AS given (id)
		ON CONFLICT DO NOTHING
	), remembered AS (
		INSERT INTO idempotency (namespace, key, time, record)
		SELECT $2, $16::text, $17::text, $18::json FROM changed WHERE $16::text IS NOT NULL
		ON CONFLICT (namespace, key) DO UPDATE SET time = excluded.time, record = excluded.record
	)
	SELECT EXISTS (SELECT FROM changed) AS changed, ${MET} AS required`;

const CREATE = `WITH ${REQUIRED}, changed AS (
		INSERT INTO service (id, namespace, name, version, stamp, record)
		SELECT $1, $2, $3, $4, $5, $6::json WHERE $7::bigint = 0 AND ${MET}
		ON CONFLICT DO NOTHING RETURNING id
	), ${WITH_IT}`;

const CHANGE = `WITH ${REQUIRED}, changed AS (
		UPDATE service SET stamp = $5, record = $6::json
		WHERE id = $1 AND (namespace, name, version) = ($2, $3, $4) AND stamp = $7::bigint AND ${MET}
		RETURNING id
	), ${WITH_IT}`;
