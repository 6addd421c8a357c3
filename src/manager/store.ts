import type { RevisionRecord, ServiceEvent, ServiceName, ServiceRecord, SourceRecord } from "./model.ts";

/** One change of one service: all of it becomes durable, or nothing. */
export type Commit = {
	/** The new state; its `stamp` is one more than `expected`. */
	readonly service: ServiceRecord;
	/** The `stamp` that this change was decided on; null where the service must not exist. */
	readonly expected: number | null;
	/** The revisions that changed. */
	readonly revisions: readonly RevisionRecord[];
	readonly events: readonly ServiceEvent[];
	/** The id of a source in the service's namespace that must exist; else it rejects with `not_found`, field `source`. */
	readonly requireSource?: string;
	/** Remembers under an idempotency key of the namespace which revision this commit made. */
	readonly remember?: { readonly key: string; readonly hash: string };
};

/** What was done under an idempotency key. */
export type Remembered = {
	/** Hash of the request; the same key with another request is a mistake of the client's. */
	readonly hash: string;
	readonly serviceId: string;
	readonly revision: number;
	readonly time: string;
};

export type ServiceFilter = { readonly name?: string; readonly version?: string };

/**
 * The records: services, their revisions and events, and which sources exist. Durable (on disk, or committed) when a call
 * resolves; a call that rejects with `unavailable` or `no_space` may or may not have happened. Adapters pass
 * test/conformance/service-store.ts.
 */
export interface ServiceStore extends AsyncDisposable {
	get(name: ServiceName): Promise<ServiceRecord | undefined>;
	getById(id: string): Promise<ServiceRecord | undefined>;
	/**
	 * In ascending order of name and version, from after `after`; streams. `likely` is how many the caller thinks to take. While
	 * a record is the same, a store may give the same object again: it is not to be changed.
	 */
	list(
		namespace: string,
		filter: ServiceFilter,
		after: ServiceName | null,
		likely?: number,
	): AsyncIterable<ServiceRecord>;
	/** Every service of every namespace; for recovery. */
	all(): AsyncIterable<ServiceRecord>;
	/** Rejects with `conflict` where the stored stamp is not the expected one. */
	commit(commit: Commit): Promise<void>;
	/** Removes the service with its revisions and events. Rejects with `conflict` as commit does. */
	remove(service: ServiceRecord): Promise<void>;
	revision(id: string, revision: number): Promise<RevisionRecord | undefined>;
	/** Descending, from below `before`. */
	revisions(id: string, before: number | null): AsyncIterable<RevisionRecord>;
	/** Events with a greater seq, ascending. Old ones are dropped past a limit. */
	events(id: string, after: number): AsyncIterable<ServiceEvent>;
	putSource(source: SourceRecord): Promise<void>;
	/** Undefined once it is marked as collected. */
	getSource(namespace: string, id: string): Promise<SourceRecord | undefined>;
	/** Every source of every namespace, those that are marked as collected too. */
	sources(): AsyncIterable<SourceRecord & { readonly collected: boolean }>;
	/**
	 * Marks a source as collected, unless a service refers to it: its live, its newest, a revision on its way, or one to go
	 * back to. From then on no commit can require it, so its bytes may be deleted. Answers whether it is marked.
	 */
	collectSource(namespace: string, id: string): Promise<boolean>;
	/** Forgets a collected source. */
	forgetSource(namespace: string, id: string): Promise<void>;
	/** What was done under an idempotency key, if it is still remembered. */
	recall(namespace: string, key: string): Promise<Remembered | undefined>;
	/** Forgets idempotency keys of before `time`, ISO 8601. */
	forgetKeys(time: string): Promise<void>;
}
