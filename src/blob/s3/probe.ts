import { randomUUID } from "node:crypto";
import { AppError, isAppError } from "../../errors.ts";
import type { Call } from "../store.ts";
import type { Bucket, Conditions } from "./bucket.ts";
import { S3Reason } from "./failures.ts";

export type Abilities = {
	/** `If-None-Match: *` is heeded. */
	readonly create: boolean;
	/** `If-Match` is heeded. */
	readonly replace: boolean;
};

/**
 * Tries what the store needs on an object of a random name, which is removed again. Rejects as a Bucket does, and with
 * `invalid_argument` if the endpoint does not give back what was stored.
 */
export async function probe(bucket: Bucket, call: Call): Promise<Abilities> {
	for await (const _any of bucket.list(`${bucket.settings.prefix}index/`, call)) break;
	for await (const _any of bucket.uploads(`${bucket.settings.prefix}data/`, call)) break;
	const name = `${bucket.settings.prefix}probe/${randomUUID()}`;
	try {
		const first = await attempt(bucket, name, call, { ifNoneMatch: "*" });
		if (first === "refused") await bucket.put(name, "probe", call);
		const { content } = await bucket.read(name, call);
		if (content !== "probe")
			throw new AppError("invalid_argument", "the S3 endpoint does not give back the bytes that were stored", {
				field: "s3Checksums",
				hint: "it does not know the checksums that are sent by default: try s3Checksums when_required",
			});
		const second = first === "done" && (await attempt(bucket, name, call, { ifNoneMatch: "*" }));
		const other = await attempt(bucket, name, call, { ifMatch: '"00000000000000000000000000000000"' });
		return { create: second === "precondition", replace: other === "precondition" };
	} finally {
		// What stays after a failure is the sweep's.
		await bucket.remove(name, call).catch(() => undefined);
	}
}

/** `refused`: the endpoint does not take a condition at all. */
async function attempt(
	bucket: Bucket,
	name: string,
	call: Call,
	conditions: Conditions,
): Promise<"done" | "precondition" | "refused"> {
	try {
		await bucket.put(name, "probe", call, conditions);
		return "done";
	} catch (error) {
		if (isAppError(error, "precondition_failed")) return "precondition";
		const reason = isAppError(error) && error.cause instanceof S3Reason ? error.cause : undefined;
		if (reason?.status === 501 || reason?.reason === "NotImplemented" || reason?.reason === "InvalidArgument")
			return "refused";
		throw error;
	}
}
