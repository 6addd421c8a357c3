import { AppError, type ErrorCode, isAppError, systemCode } from "../../errors.ts";
import type { Settled } from "./options.ts";

/**
 * Why a request failed: its name and status, and nothing that the endpoint wrote: that may repeat what was sent to it, access key
 * and session token included.
 */
export class S3Reason extends Error {
	override readonly name = "S3Reason";
	/** The code of S3 or of the system: `SlowDown`, `ECONNREFUSED`. */
	readonly reason: string;
	/** HTTP status, if there was an answer. */
	readonly status: number | undefined;

	constructor(operation: string, reason: string, status: number | undefined) {
		super(`${operation}: ${reason}${status === undefined ? "" : ` (${status})`}`);
		this.reason = reason;
		this.status = status;
	}
}

const CODES: Readonly<Record<string, ErrorCode>> = {
	NoSuchKey: "not_found",
	NotFound: "not_found",
	NoSuchUpload: "not_found",
	PreconditionFailed: "precondition_failed",
	ConditionalRequestConflict: "conflict",
	InvalidRange: "range",
	QuotaExceeded: "no_space",
	EntityTooLarge: "no_space",
	InsufficientStorage: "no_space",
	XMinioStorageFull: "no_space",
};
const STATUSES: Readonly<Record<number, ErrorCode>> = { 412: "precondition_failed", 416: "range", 507: "no_space" };

/** The error that a failed request becomes. Codes beyond those of a blob store are for this folder. */
export function failureOf(operation: string, error: unknown): AppError {
	if (isAppError(error)) return error;
	const cause = reasonOf(operation, error);
	const code = CODES[cause.reason] ?? STATUSES[cause.status ?? 0] ?? "unavailable";
	const message =
		code === "no_space" ? "the S3 bucket takes no more" : `the S3 endpoint did not answer as it should (${operation})`;
	return new AppError(code, message, { cause });
}

/** Whether the endpoint said that it did not do it. Otherwise it may have done it, or may still do it. */
export function isRefusal(error: unknown): boolean {
	if (!isAppError(error) || !(error.cause instanceof S3Reason)) return false;
	const { status = 0 } = error.cause;
	return error.code === "no_space" || (status >= 400 && status < 500 && ![408, 409, 412, 429].includes(status));
}

function reasonOf(operation: string, error: unknown): S3Reason {
	if (typeof error !== "object" || error === null) return new S3Reason(operation, "unknown", undefined);
	const metadata = "$metadata" in error ? error.$metadata : undefined;
	const status =
		typeof metadata === "object" &&
		metadata !== null &&
		"httpStatusCode" in metadata &&
		typeof metadata.httpStatusCode === "number"
			? metadata.httpStatusCode
			: undefined;
	const name = "name" in error && typeof error.name === "string" ? error.name : "unknown";
	// Names come from the answer.
	const reason = systemCode(error) ?? name;
	return new S3Reason(operation, /^[\w.-]{1,80}$/.test(reason) ? reason : "unknown", status);
}

type Blame = { readonly field: string; readonly message: string; readonly hint: string };

/** For whoever starts a server: which setting is wrong, where the failure tells. */
export function blame(error: unknown, settings: Settled): unknown {
	if (!isAppError(error) || !(error.cause instanceof S3Reason)) return error;
	const { reason, status } = error.cause;
	const found = blameFor(reason, status, settings);
	const code = status === undefined && found?.field === "s3Endpoint" ? "unavailable" : "invalid_argument";
	if (found === undefined)
		return new AppError(
			error.code === "no_space" ? "no_space" : "unavailable",
			`the S3 bucket cannot be used: ${reason}`,
			{
				cause: error.cause,
				field: "s3Endpoint",
				hint: "older servers refuse the checksums that are sent by default: try s3Checksums when_required",
			},
		);
	return new AppError(code, found.message, { cause: error.cause, field: found.field, hint: found.hint });
}

function blameFor(reason: string, status: number | undefined, settings: Settled): Blame | undefined {
	const { bucket, region, forcePathStyle } = settings;
	const endpoint = settings.endpoint ?? "of the region";
	switch (reason) {
		case "NoSuchBucket":
		case "InvalidBucketName":
			return {
				field: "s3Bucket",
				message: `there is no bucket "${bucket}" at the S3 endpoint ${endpoint}`,
				hint: "create it first; if it exists, look at s3PathStyle, s3Endpoint and s3Region",
			};
		case "InvalidAccessKeyId":
		case "XAdminUserNotFound":
		case "SignatureDoesNotMatch":
		case "InvalidToken":
		case "ExpiredToken":
		case "InvalidSecurity":
			return {
				field: "s3Credentials",
				message: `the S3 endpoint ${endpoint} does not accept the access key or its secret (${reason})`,
				hint: "look at the key id and the secret, and that both are for this endpoint",
			};
		case "CredentialsProviderError":
			return {
				field: "s3Credentials",
				message: "there are no S3 credentials",
				hint: "set key id and secret in the environment or in a file of the AWS SDK",
			};
		case "AccessDenied":
		case "AllAccessDisabled":
		case "AccountProblem":
			return {
				field: "s3Credentials",
				message: `the S3 credentials may not use the bucket "${bucket}"`,
				hint: "they must be allowed to list the bucket and its uploads, and to get, put and delete objects in it",
			};
		case "RequestTimeTooSkewed":
		case "RequestExpired":
			return {
				field: "s3Credentials",
				message: `the clocks of this machine and of the S3 endpoint ${endpoint} differ too much`,
				hint: "set this machine's clock",
			};
		case "AuthorizationHeaderMalformed":
		case "PermanentRedirect":
		case "TemporaryRedirect":
		case "IllegalLocationConstraintException":
			return wrongRegion(bucket, region);
		case "ENOTFOUND":
		case "EAI_AGAIN":
			return {
				field: "s3Endpoint",
				message: `the host of the S3 endpoint ${endpoint} is not found`,
				hint: forcePathStyle
					? "look at s3Endpoint"
					: "without s3PathStyle the bucket is a part of the host name: try it",
			};
		case "EPROTO":
			return {
				field: "s3Endpoint",
				message: `the S3 endpoint ${endpoint} does not speak TLS`,
				hint: "does its URL begin with http:?",
			};
	}
	if (/CERT|SIGNED|ALTNAME/.test(reason))
		return {
			field: "s3Endpoint",
			message: `the certificate of the S3 endpoint ${endpoint} is not trusted (${reason})`,
			hint: "name the file with its authority in NODE_EXTRA_CA_CERTS",
		};
	if (status === 301 || status === 307) return wrongRegion(bucket, region);
	if (status === undefined)
		return {
			field: "s3Endpoint",
			message: `the S3 endpoint ${endpoint} cannot be reached (${reason})`,
			hint: "is it running, and is its address right?",
		};
	return undefined;
}

function wrongRegion(bucket: string, region: string): Blame {
	return {
		field: "s3Region",
		message: `"${region}" is not the region of the S3 bucket "${bucket}"`,
		hint: "set s3Region to the bucket's region, and s3Endpoint to that region's",
	};
}
