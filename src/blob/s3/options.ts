import { AppError } from "../../errors.ts";

export type S3Credentials = {
	readonly accessKeyId: string;
	readonly secretAccessKey: string;
	readonly sessionToken?: string;
};

/** Where the bucket is, and how to ask for it. Times are in milliseconds, sizes in bytes. */
export type S3Options = {
	readonly bucket: string;
	/** URL of the endpoint. Default Amazon's own for the region. */
	readonly endpoint?: string;
	/** Default `us-east-1`, which most other endpoints take as well. */
	readonly region?: string;
	/** What all names start with, so that a bucket can be shared; a slash at its end is added. Default none. */
	readonly prefix?: string;
	/** The bucket in the path instead of the host name. Default true where `endpoint` is given. */
	readonly forcePathStyle?: boolean;
	/** Default the SDK's own chain: environment, files, the machine's role. */
	readonly credentials?: S3Credentials;
	/** `when_required` for endpoints that do not know the SDK's CRC32. Default `when_supported`. */
	readonly checksums?: "when_supported" | "when_required";
	/** Of a part of an upload: at least 5 MiB; a blob has at most 10,000. Default 8 MiB. */
	readonly partSize?: number;
	/** Parts of one upload that are under way at once. Default 2. */
	readonly parallelParts?: number;
	/** Default 5 s. */
	readonly connectTimeout?: number;
	/** How long a connection may carry nothing. Default 30 s. */
	readonly idleTimeout?: number;
	/** For one request until its answer begins, the sending of a part included. Default 5 min. */
	readonly requestTimeout?: number;
	/** The same for requests that carry little. Default 15 s. */
	readonly smallRequestTimeout?: number;
	/** How often a request is tried. Default 4. */
	readonly attempts?: number;
	/** How often in a row a download that brought nothing is taken up again. Default 5. */
	readonly resumes?: number;
	/** Default 256. */
	readonly maxSockets?: number;
	/** What an upload has left is removed when it is that old, on the endpoint's clock. No put may take half as long. Default 24 h. */
	readonly leftoverAge?: number;
	/** How fast the scrub reads, bytes a second. Default 32 MiB. */
	readonly scrubRate?: number;
	/** Default the wall clock. */
	readonly now?: () => Date;
	/** Makes names of objects: unique everywhere, `[a-z0-9-]`. Default a random UUID. */
	readonly unique?: () => string;
};

const MIB = 1024 * 1024;
export const MIN_PART = 5 * MIB;
const PREFIX = /^([A-Za-z0-9_-][A-Za-z0-9._-]*(\/|$))*$/;
/** A name has at most 1,024 bytes, and a key with what is added to it up to 560. */
const MAX_PREFIX = 400;

/** The options with all defaults. Throws `invalid_argument` for what cannot be. */
export function settled(options: S3Options) {
	const { prefix = "", endpoint } = options;
	if (!PREFIX.test(prefix) || prefix.length > MAX_PREFIX)
		throw new AppError("invalid_argument", `"${prefix.slice(0, 80)}" can be no prefix of names in a bucket`, {
			field: "s3Prefix",
			hint: `use segments of A-Z a-z 0-9 . _ - that do not start with a dot, separated by /, at most ${MAX_PREFIX} characters`,
		});
	if (endpoint !== undefined) checkEndpoint(endpoint);
	const partSize = options.partSize ?? 8 * MIB;
	if (partSize < MIN_PART) throw new AppError("invalid_argument", "a part of an upload has at least 5 MiB");
	return {
		bucket: options.bucket,
		endpoint,
		credentials: options.credentials,
		partSize,
		region: options.region ?? "us-east-1",
		prefix: prefix === "" || prefix.endsWith("/") ? prefix : `${prefix}/`,
		forcePathStyle: options.forcePathStyle ?? endpoint !== undefined,
		checksums: options.checksums ?? "when_supported",
		parallelParts: options.parallelParts ?? 2,
		connectTimeout: options.connectTimeout ?? 5_000,
		idleTimeout: options.idleTimeout ?? 30_000,
		requestTimeout: options.requestTimeout ?? 5 * 60_000,
		smallRequestTimeout: options.smallRequestTimeout ?? 15_000,
		attempts: options.attempts ?? 4,
		resumes: options.resumes ?? 5,
		maxSockets: options.maxSockets ?? 256,
		leftoverAge: options.leftoverAge ?? 24 * 3_600_000,
		scrubRate: options.scrubRate ?? 32 * MIB,
	};
}

export type Settled = ReturnType<typeof settled>;

function checkEndpoint(endpoint: string): void {
	const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
	const plain = url !== undefined && url.username + url.password + url.search + url.hash === "";
	if (plain && (url.protocol === "https:" || url.protocol === "http:")) return;
	// Not repeated: there may be a password in it.
	throw new AppError(
		"invalid_argument",
		"the S3 endpoint must be an http or https URL without user, query or fragment",
		{
			field: "s3Endpoint",
		},
	);
}
