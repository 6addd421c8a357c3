import { AppError } from "../errors.ts";
import type { Database, Operation } from "../leveldb/database.ts";
import { Readings } from "../leveldb/readings.ts";
import { Turns } from "../turns.ts";
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
/** Characters of the records kept for the next list: some 10,000 services. */
const LISTED_KEPT = 14 * 1024 * 1024;
/** Services read at a time where nobody says how many are wanted. */
const READ_AT_ONCE = 100;

// `!` sorts before every character that names, versions and ids may hold, so key order is the order of the parts.
const serviceKey = ({ namespace, name, version }: ServiceName) => `service!${namespace}!${name}!${version}`;
const idKey = (id: string) => `id!${id}`;
const numbered = (kind: string, id: string, number: number) => `${kind}!${id}!${String(number).padStart(12, "0")}`;
const sourceRecordKey = (namespace: string, id: string) => `source!${namespace}!${id}`;
const referencePrefix = (namespace: string, sourceId: string) => `reference!${namespace}!${sourceId}`;
const rememberedKey = (namespace: string, key: string) => `idempotency!${namespace}!${encodeURIComponent(key)}`;
/** The first key after all that start with `prefix` and `!`. */
const after = (prefix: string) => `${prefix}"`;

type StoredSource = SourceRecord & { readonly collected?: boolean };

/**
 * The records in LevelDB. The database is this process's alone, so that check and write need only be one at a time for
 * each service here; the write itself is one synced batch.
 */
export class LevelServiceStore implements ServiceStore {
	readonly #database: Database;
	/** Services, and the sources that they refer to. */
	readonly #turns = new Turns();
	readonly #listed = new Readings<ServiceRecord>((value) => JSON.parse(value), LISTED_KEPT);

	/** Takes the database over: disposing the store closes it. */
	constructor(database: Database) {
		this.#database = database;
	}

	async get(name: ServiceName): Promise<ServiceRecord | undefined> {
		return this.#read<ServiceRecord>(serviceKey(name));
	}

	async getById(id: string): Promise<ServiceRecord | undefined> {
		const key = await this.#database.get(idKey(id));
		return key === undefined ? undefined : this.#read<ServiceRecord>(key);
	}

	async *list(
		namespace: string,
		filter: ServiceFilter,
		from: ServiceName | null,
		atOnce = READ_AT_ONCE,
	): AsyncIterable<ServiceRecord> {
		const prefix = filter.name === undefined ? `service!${namespace}` : `service!${namespace}!${filter.name}`;
		const start = from === null ? `${prefix}!` : serviceKey(from);
		const bounds = { gt: start, lt: after(prefix) };
		for await (const services of this.#database.readings(bounds, this.#listed, atOnce))
			for (const service of services)
				if (filter.version === undefined || service.version === filter.version) yield service;
	}

	async *all(): AsyncIterable<ServiceRecord> {
		for await (const [, value] of this.#database.range({ gt: "service!", lt: after("service") }))
			yield JSON.parse(value);
	}

	async commit(commit: Commit): Promise<void> {
		const { service, requireSource } = commit;
		const write = () => this.#turns.inTurn(serviceKey(service), () => this.#write(commit));
		// Whoever takes a reference and whoever collects the source take turns.
		if (requireSource === undefined) return write();
		return this.#turns.inTurn(sourceRecordKey(service.namespace, requireSource), write);
	}

	async #write(commit: Commit): Promise<void> {
		const { service, requireSource, remember } = commit;
		const key = serviceKey(service);
		const before = await this.#check(key, service, commit.expected);
		if (requireSource !== undefined && (await this.getSource(service.namespace, requireSource)) === undefined)
			throw new AppError("not_found", `there is no source://${requireSource} in namespace ${service.namespace}`, {
				field: "source",
				hint: "Upload it again with POST /sources, and use the key of that answer.",
			});
		const operations: Operation[] = [{ put: key, value: JSON.stringify(service) }];
		if (commit.expected === null) operations.push({ put: idKey(service.id), value: key });
		for (const revision of commit.revisions)
			operations.push({ put: numbered("revision", service.id, revision.revision), value: JSON.stringify(revision) });
		for (const event of commit.events) {
			operations.push({ put: numbered("event", service.id, event.seq), value: JSON.stringify(event) });
			if (event.seq > EVENTS_KEPT) operations.push({ delete: numbered("event", service.id, event.seq - EVENTS_KEPT) });
		}
		if (service.newest > REVISIONS_KEPT)
			operations.push({ delete: numbered("revision", service.id, service.newest - REVISIONS_KEPT) });
		if (remember !== undefined) {
			const { hash } = remember;
			const done: Remembered = { hash, serviceId: service.id, revision: service.newest, time: service.updatedAt };
			operations.push({ put: rememberedKey(service.namespace, remember.key), value: JSON.stringify(done) });
		}
		// What makes room, or stops what runs, must be possible on a full disk.
		const urgent = service.desired !== "running";
		await this.#database.commit([...operations, ...references(before, service)], { urgent });
	}

	async remove(service: ServiceRecord): Promise<void> {
		const key = serviceKey(service);
		await this.#turns.inTurn(key, async () => {
			const before = await this.#check(key, service, service.stamp);
			const operations: Operation[] = [{ delete: key }, { delete: idKey(service.id) }];
			for (const kind of ["revision", "event"]) {
				const prefix = `${kind}!${service.id}`;
				for await (const [name] of this.#database.range({ gt: `${prefix}!`, lt: after(prefix) }))
					operations.push({ delete: name });
			}
			await this.#database.commit([...operations, ...references(before, undefined)], { urgent: true });
		});
	}

	async revision(id: string, revision: number): Promise<RevisionRecord | undefined> {
		return this.#read<RevisionRecord>(numbered("revision", id, revision));
	}

	async *revisions(id: string, before: number | null): AsyncIterable<RevisionRecord> {
		const prefix = `revision!${id}`;
		const lt = before === null ? after(prefix) : numbered("revision", id, before);
		for await (const [, value] of this.#database.range({ gt: `${prefix}!`, lt, reverse: true }))
			yield JSON.parse(value);
	}

	async *events(id: string, seq: number): AsyncIterable<ServiceEvent> {
		const range = this.#database.range({ gt: numbered("event", id, seq), lt: after(`event!${id}`) });
		for await (const [, value] of range) yield JSON.parse(value);
	}

	async putSource(source: SourceRecord): Promise<void> {
		await this.#database.commit([{ put: sourceRecordKey(source.namespace, source.id), value: JSON.stringify(source) }]);
	}

	async getSource(namespace: string, id: string): Promise<SourceRecord | undefined> {
		const source = await this.#read<StoredSource>(sourceRecordKey(namespace, id));
		if (source === undefined || source.collected === true) return undefined;
		const { collected: _, ...record } = source;
		return record;
	}

	async *sources(): AsyncIterable<SourceRecord & { readonly collected: boolean }> {
		for await (const [, value] of this.#database.range({ gt: "source!", lt: after("source") })) {
			const source: StoredSource = JSON.parse(value);
			yield { ...source, collected: source.collected === true };
		}
	}

	async collectSource(namespace: string, id: string): Promise<boolean> {
		const key = sourceRecordKey(namespace, id);
		return this.#turns.inTurn(key, async () => {
			const source = await this.#read<StoredSource>(key);
			if (source === undefined) return false;
			const prefix = referencePrefix(namespace, id);
			for await (const _ of this.#database.range({ gt: `${prefix}!`, lt: after(prefix), limit: 1 })) return false;
			await this.#database.commit([{ put: key, value: JSON.stringify({ ...source, collected: true }) }]);
			return true;
		});
	}

	async forgetSource(namespace: string, id: string): Promise<void> {
		await this.#database.commit([{ delete: sourceRecordKey(namespace, id) }]);
	}

	async recall(namespace: string, key: string): Promise<Remembered | undefined> {
		return this.#read<Remembered>(rememberedKey(namespace, key));
	}

	async forgetKeys(time: string): Promise<void> {
		for await (const [key, value] of this.#database.range({ gt: "idempotency!", lt: after("idempotency") })) {
			const remembered: Remembered = JSON.parse(value);
			if (remembered.time < time) await this.#database.commit([{ delete: key }]);
		}
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.#database[Symbol.asyncDispose]();
	}

	/** Answers what is stored now. */
	async #check(key: string, service: ServiceRecord, expected: number | null): Promise<ServiceRecord | undefined> {
		const stored = await this.#read<ServiceRecord>(key);
		if ((stored?.stamp ?? null) === expected && (stored === undefined || stored.id === service.id)) return stored;
		throw new AppError("conflict", `${service.name}:${service.version} was changed by somebody else meanwhile`);
	}

	async #read<T>(key: string): Promise<T | undefined> {
		const value = await this.#database.get(key);
		return value === undefined ? undefined : JSON.parse(value);
	}
}

/** What a commit changes in the references from services to sources: they move with the record, in the same batch. */
function references(before: ServiceRecord | undefined, now: ServiceRecord | undefined): Operation[] {
	const old = new Set(before === undefined ? [] : sourceIdsOf(before));
	const kept = new Set(now === undefined ? [] : sourceIdsOf(now));
	const name = (service: ServiceRecord, id: string) => `${referencePrefix(service.namespace, id)}!${service.id}`;
	return [
		...[...old].filter((id) => !kept.has(id)).flatMap((id) => (before ? [{ delete: name(before, id) }] : [])),
		...[...kept].filter((id) => !old.has(id)).flatMap((id) => (now ? [{ put: name(now, id), value: "" }] : [])),
	];
}
