import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { AppError } from "../errors.ts";

/** Who a token belongs to. */
export type Account = {
	readonly name: string;
	/** The namespace of requests that name none. */
	readonly namespace: string;
	/** Whether it may act in every namespace. */
	readonly administrator: boolean;
};

export type TokenRecord = {
	readonly id: string;
	/** Lower-case hex SHA-256 of the whole token; the token itself is stored nowhere. */
	readonly hash: string;
	readonly account: Account;
	readonly createdAt: string;
};

/** Where the hashes of tokens are kept. Durable when a call resolves. */
export interface TokenStore {
	get(id: string): Promise<TokenRecord | undefined>;
	put(record: TokenRecord): Promise<void>;
	delete(id: string): Promise<void>;
	all(): AsyncIterable<TokenRecord>;
}

/** A new token `rb_<id>_<secret>`, and what to store of it. */
export function newToken(account: Account, now: Date): { readonly token: string; readonly record: TokenRecord } {
	const id = randomBytes(6).toString("hex");
	const token = `rb_${id}_${randomBytes(32).toString("base64url")}`;
	return { token, record: { id, hash: hashOf(token), account, createdAt: now.toISOString() } };
}

/** The id in a token, or undefined where it does not look like one. */
export function tokenId(token: string): string | undefined {
	return /^rb_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$/.exec(token)?.[1];
}

/** Whether the token is the one that was recorded; takes the same time whatever differs. */
export function matches(record: TokenRecord, token: string): boolean {
	return timingSafeEqual(Buffer.from(record.hash, "hex"), Buffer.from(hashOf(token), "hex"));
}

/** Finds out who sends an `Authorization` header. Rejects with `unauthenticated`. */
export async function authenticate(tokens: TokenStore, header: string | undefined): Promise<Account> {
	const token = /^Bearer +(\S+) *$/i.exec(header ?? "")?.[1];
	if (token === undefined)
		throw new AppError("unauthenticated", "this needs a token", { hint: "Send Authorization: Bearer TOKEN." });
	const id = tokenId(token);
	const record = id === undefined ? undefined : await tokens.get(id);
	if (record === undefined || !matches(record, token))
		throw new AppError("unauthenticated", "this token is not known here", {
			hint: "The administrator's is in the file admin-token of the server's data folder.",
		});
	return record.account;
}

function hashOf(token: string): string {
	return createHash("sha256").update(token).digest("hex");
}
