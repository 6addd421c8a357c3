import { messageOf, systemCode } from "./errors.ts";

const REASONS: Readonly<Record<string, string>> = {
	ECONNREFUSED: "connection refused",
	ECONNRESET: "the connection was closed",
	EPIPE: "the connection was closed",
	ENOTFOUND: "no such host",
	EAI_AGAIN: "its name cannot be looked up now",
	ETIMEDOUT: "timed out",
	EHOSTUNREACH: "no route to the host",
	ENETUNREACH: "the network is unreachable",
	DEPTH_ZERO_SELF_SIGNED_CERT: "its certificate is self-signed (NODE_EXTRA_CA_CERTS=FILE trusts it)",
	SELF_SIGNED_CERT_IN_CHAIN: "its certificate's issuer is unknown (NODE_EXTRA_CA_CERTS=FILE trusts it)",
	UNABLE_TO_VERIFY_LEAF_SIGNATURE: "its certificate's issuer is unknown (NODE_EXTRA_CA_CERTS=FILE trusts it)",
};

/** Why a connection failed, in words. */
export function reasonOf(error: unknown): string {
	const code = systemCode(error);
	if (code?.startsWith("HPE_") || code === "EPROTO") return "it does not speak HTTP as asked (http or https?)";
	if (error instanceof DOMException && error.name === "TimeoutError") return "timed out";
	return (code !== undefined ? REASONS[code] : undefined) ?? (messageOf(error) || code || "failed");
}
