import type { Blobs } from "../blob/blobs.ts";
import type { Call } from "../blob/store.ts";
import { type RevisionRecord, revisionOf } from "./model.ts";
import type { ServiceStore } from "./store.ts";

/**
 * Removes the blobs that a crash left without a record: an upload that was stored but not recorded, a build whose revision
 * does not have it. Records come after bytes, so this may run only while nobody is between the two: before the server takes
 * work. Answers how many there were.
 */
export async function sweep(blobs: Blobs, store: ServiceStore, call: Call): Promise<number> {
	let removed = 0;
	for await (const { namespace, key } of blobs.everywhere(call)) {
		if (await isReferred(store, namespace, key)) continue;
		await blobs.in(namespace).delete(key, call);
		removed++;
	}
	return removed;
}

async function isReferred(store: ServiceStore, namespace: string, key: string): Promise<boolean> {
	const [kind, id = "", number = ""] = key.split("/");
	if (kind === "source") return (await store.getSource(namespace, id)) !== undefined;
	if (kind !== "build") return true;
	const service = await store.getById(id);
	if (service === undefined || service.namespace !== namespace) return false;
	const has = (revision: RevisionRecord | undefined) =>
		revision?.build?.revision === Number(number) && revision.build.collected !== true;
	if (has(revisionOf(service, Number(number)) ?? (await store.revision(id, Number(number))))) return true;
	// Its own record may be older than any that is kept, and later revisions have the build still.
	for await (const revision of store.revisions(id, null)) if (has(revision)) return true;
	return false;
}
