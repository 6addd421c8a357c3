import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { isAppError } from "../errors.ts";
import { type RevisionRecord, revisionOf } from "./model.ts";
import type { ServiceStore } from "./store.ts";

/** What a sweep beside a server's work leaves alone: bytes come before their record. */
export type Spared = {
	/** ISO 8601. Blobs of this time and later: another server may be between the two. */
	readonly from: string;
	/** Whether this server is between the two with an upload; once it is not, it never is again with this blob. */
	readonly isUnderWay: (namespace: string, key: string) => boolean;
};

/**
 * Removes the blobs that have no record: an upload that was stored but not recorded, a build whose revision does not have it.
 * Without `spared` only while nobody is between the two: before the server takes work. Answers how many there were.
 */
export async function sweep(
	blobs: Blobs,
	store: ServiceStore,
	call: Call,
	spared: Spared | null = null,
): Promise<number> {
	let removed = 0;
	for await (const { namespace, key } of blobs.everywhere(call)) {
		// Asked before the records are read: what is not under way by now has its record by now, or never will.
		if (spared?.isUnderWay(namespace, key)) continue;
		if (await isReferred(store, namespace, key, spared !== null)) continue;
		if (spared !== null && !(await isOlder(blobs, namespace, key, spared.from, call))) continue;
		await blobs.in(namespace).delete(key, call);
		removed++;
	}
	return removed;
}

async function isReferred(store: ServiceStore, namespace: string, key: string, atWork: boolean): Promise<boolean> {
	const [kind, id = "", number = ""] = key.split("/");
	if (kind === "source") return (await store.getSource(namespace, id)) !== undefined;
	if (kind !== "build") return true;
	const service = await store.getById(id);
	if (service === undefined || service.namespace !== namespace) return false;
	const revision = revisionOf(service, Number(number));
	// It leaves this state with its build, or for ever.
	if (atWork && (revision?.status === "Pending" || revision?.status === "Building")) return true;
	const has = (revision: RevisionRecord | undefined) =>
		revision?.build?.revision === Number(number) && revision.build.collected !== true;
	if (has(revision ?? (await store.revision(id, Number(number))))) return true;
	// Its own record may be older than any that is kept, and later revisions have the build still.
	for await (const revision of store.revisions(id, null)) if (has(revision)) return true;
	return false;
}

/** False for one that is gone meanwhile. */
async function isOlder(blobs: Blobs, namespace: string, key: string, time: string, call: Call): Promise<boolean> {
	try {
		return (await blobs.in(namespace).stat(key, call)).createdAt < time;
	} catch (error) {
		if (isAppError(error, "not_found")) return false;
		throw error;
	}
}
