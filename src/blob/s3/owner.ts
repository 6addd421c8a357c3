import { AppError, isAppError } from "../../errors.ts";
import type { Call } from "../store.ts";
import type { Bucket } from "./bucket.ts";

const FORM = /^[A-Za-z0-9-]{1,100}$/;

/** The one whom `<prefix>owner` names, which is `id` where there was none. Rejects with `internal` for what is no name. */
export async function claim(bucket: Bucket, id: string, call: Call): Promise<string> {
	const name = `${bucket.settings.prefix}owner`;
	const owner = await read(bucket, name, call);
	if (owner !== undefined) return owner;
	try {
		await bucket.put(name, id, call, { ifNoneMatch: "*" });
	} catch (error) {
		// Somebody was faster, or the first try of a request that was sent twice was ours.
		if (!isAppError(error, "precondition_failed") && !isAppError(error, "conflict")) throw error;
	}
	return (await read(bucket, name, call)) ?? id;
}

async function read(bucket: Bucket, name: string, call: Call): Promise<string | undefined> {
	try {
		const { content } = await bucket.read(name, call);
		if (FORM.test(content)) return content;
	} catch (error) {
		if (isAppError(error, "not_found")) return undefined;
		throw error;
	}
	throw new AppError("internal", `the object ${name} is not what should be under that name`);
}
