import type { Logger } from "pino";
import { LevelBlobStore } from "./blob/level.ts";
import type { BlobStore, Call } from "./blob/store.ts";
import { type Config, flagOf, variableOf } from "./config.ts";
import { AppError, isAppError, messageOf } from "./errors.ts";
import type { Chore } from "./manager/upkeep.ts";
import { patiently } from "./patience.ts";

/** A blob store that looks after itself. */
export type KeptBlobs = BlobStore & {
	/** Reads everything again, slowly, and says of each blob whether it is whole. */
	scrub(call: Call): AsyncIterable<{ readonly key: string; readonly ok: boolean }>;
};

export type OpenedBlobs = {
	readonly store: KeptBlobs;
	/** What it needs done now and then, besides the scrub. */
	readonly chores: readonly Chore[];
};

/** How long it may take to find out whose the bucket is. */
const CLAIM_MS = 60_000;
/** How often what cut-off uploads left in the bucket is removed. */
const SWEEP_MS = 24 * 3_600_000;

/**
 * Sources and builds: in `folder`, or in a bucket, which then belongs to these records (`recordsId`): blobs without a record are
 * removed at a start, and another installation's have none here.
 */
export async function openBlobs(config: Config, folder: string, recordsId: string, log: Logger): Promise<OpenedBlobs> {
	if (config.s3Bucket === null)
		return { store: await LevelBlobStore.open(folder, { database: { acceptLoss: config.acceptLoss } }), chores: [] };
	// Loaded where it is wanted alone: the SDK takes long to start.
	const { S3BlobStore } = await import("./blob/s3/store.ts");
	const credentials = credentialsOf(process.env);
	const options = {
		...{ bucket: config.s3Bucket, region: config.s3Region, prefix: config.s3Prefix, checksums: config.s3Checksums },
		...(config.s3Endpoint === null ? {} : { endpoint: config.s3Endpoint }),
		...(config.s3PathStyle === "auto" ? {} : { forcePathStyle: config.s3PathStyle === "1" }),
		...(credentials === undefined ? {} : { credentials }),
	};
	const store = await patiently("S3", () => S3BlobStore.open(options), log).catch((error: unknown) => {
		throw inFlags(error);
	});
	try {
		const owner = await store.claim(recordsId, { signal: AbortSignal.timeout(CLAIM_MS) });
		if (owner !== recordsId)
			throw new AppError(
				"invalid_argument",
				`the bucket ${config.s3Bucket} holds the blobs of other records than these`,
				{
					field: "s3Prefix",
					hint: "Give each installation a prefix of its own with --s3-prefix. If those records are gone for good, remove the object `owner` below the prefix.",
				},
			);
	} catch (error) {
		await store[Symbol.asyncDispose]();
		throw error;
	}
	if (store.warning !== undefined) log.warn(store.warning);
	store.swept.catch((error: unknown) =>
		log.warn({ why: messageOf(error) }, "leftovers in the bucket were not removed"),
	);
	const run = async (signal: AbortSignal) => void (await store.sweep({ signal }));
	return { store, chores: [{ name: "bucket", everyMs: SWEEP_MS, run }] };
}

/** The store names settings as the configuration does; whoever starts a server knows their flags and variables. */
function inFlags(error: unknown): unknown {
	if (!isAppError(error)) return error;
	const { code, field, hint } = error;
	const named = (text: string) =>
		text.replaceAll(/\bs3[A-Z]\w*/g, (name) =>
			name === "s3Credentials" ? `${variableOf("s3AccessKeyId")} and ${variableOf("s3SecretAccessKey")}` : flagOf(name),
		);
	const more = { ...(field === undefined ? {} : { field }), ...(hint === undefined ? {} : { hint: named(hint) }) };
	return new AppError(code, named(error.message), { cause: error, ...more });
}

/** Never by flags: those can be seen by everybody. Undefined: the SDK looks in its usual places. */
function credentialsOf(env: Readonly<Record<string, string | undefined>>) {
	const { RUNTIME_S3_ACCESS_KEY_ID: accessKeyId, RUNTIME_S3_SECRET_ACCESS_KEY: secretAccessKey } = env;
	const { RUNTIME_S3_SESSION_TOKEN: sessionToken } = env;
	if (accessKeyId === undefined && secretAccessKey === undefined) return undefined;
	if (accessKeyId === undefined || secretAccessKey === undefined)
		throw new AppError(
			"invalid_argument",
			`${variableOf("s3AccessKeyId")} and ${variableOf("s3SecretAccessKey")} go together`,
			{ field: "s3Credentials" },
		);
	return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) };
}
