import { AppError } from "../../errors.ts";
import type { Call } from "../store.ts";
import type { Bucket } from "./bucket.ts";
import type { Entries } from "./entries.ts";
import { decodeKey, encodeKey } from "./names.ts";

/**
 * Removes what puts and deletes have left that were cut off: data objects that no entry names, unfinished uploads, probes. Only
 * what is older than the leftover age on the endpoint's clock, since other servers are at work too, and nothing of `unfinished`
 * (data objects' names). Resolves with how many it removed.
 *
 * Names of data objects hold their keys, and both lists come in one order: side by side they show which entries are worth a look,
 * at two requests for a thousand blobs and without holding them. The entry itself decides.
 */
export async function sweep(
	bucket: Bucket,
	entries: Entries,
	unfinished: ReadonlySet<string>,
	call: Call,
): Promise<number> {
	const { prefix, leftoverAge } = bucket.settings;
	let removed = 0;
	for await (const { name, modified } of bucket.list(`${prefix}probe/`, call)) {
		if (modified.getTime() > limit(bucket, leftoverAge)) continue;
		await bucket.remove(name, call);
		removed++;
	}
	for await (const upload of bucket.uploads(`${prefix}data/`, call)) {
		if (unfinished.has(upload.name) || upload.initiated.getTime() > limit(bucket, leftoverAge)) continue;
		await bucket.abortUpload(upload, call);
		removed++;
	}
	for await (const { name, key, object, modified } of suspects(bucket, entries, call)) {
		if (unfinished.has(name) || modified.getTime() > limit(bucket, leftoverAge)) continue;
		if ((await entries.find(key, call))?.object === object) continue;
		await bucket.remove(name, call);
		removed++;
	}
	return removed;
}

/** What was made later is not touched. */
function limit(bucket: Bucket, leftoverAge: number): number {
	const time = bucket.time();
	if (time !== undefined) return time - leftoverAge;
	throw new AppError("unavailable", "the S3 endpoint does not tell its time, so nobody can say what is old");
}

type Data = { readonly name: string; readonly key: string; readonly object: string; readonly modified: Date };

/** Data objects of keys that have no entry, or that have other data objects as well. */
async function* suspects(bucket: Bucket, entries: Entries, call: Call): AsyncGenerator<Data, void, undefined> {
	const keys = entries.keys("", call);
	try {
		let entry = await keys.next();
		let first: Data | undefined;
		let isFirstOut = false;
		for await (const data of dataObjects(bucket, call)) {
			if (data.key === first?.key) {
				if (!isFirstOut) yield first;
				isFirstOut = true;
				yield data;
				continue;
			}
			first = data;
			while (entry.done !== true && encodeKey(entry.value) < encodeKey(data.key)) entry = await keys.next();
			isFirstOut = entry.done === true || entry.value !== data.key;
			if (isFirstOut) yield data;
		}
	} finally {
		await keys.return();
	}
}

async function* dataObjects(bucket: Bucket, call: Call): AsyncGenerator<Data, void, undefined> {
	const root = `${bucket.settings.prefix}data/`;
	for await (const { name, modified } of bucket.list(root, call)) {
		const slash = name.lastIndexOf("/");
		const key = decodeKey(name.slice(root.length, slash));
		if (key !== undefined) yield { name, key, object: name.slice(slash + 1), modified };
	}
}
