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
	/** In ascending order of name and version, from after `after`; streams. */
	list(namespace: string, filter: ServiceFilter, after: ServiceName | null): AsyncIterable<ServiceRecord>;
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
	getSource(namespace: string, id: string): Promise<SourceRecord | undefined>;
}
