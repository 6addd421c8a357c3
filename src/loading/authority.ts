import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, X509Certificate } from "node:crypto";
import path from "node:path";
import { AppError } from "../errors.ts";
import { failpoint } from "../failpoint.ts";
import { authorityCertificate, keyId, serverCertificate } from "./certificates.ts";
import { readKept, writeKept } from "./kept-file.ts";

const DAY_MS = 24 * 3600 * 1000;
const AUTHORITY_MS = 3650 * DAY_MS;
/** Less than this left, and an authority's certificate is renewed: always more than that of what it issues. */
const AUTHORITY_MARGIN_MS = 730 * DAY_MS;
const SERVER_MS = 365 * DAY_MS;
const SERVER_MARGIN_MS = 120 * DAY_MS;
/** Clocks of other machines may be behind. */
const BEHIND_MS = 3600 * 1000;

/** A server's certificate and key, PEM. */
export type Identity = {
	readonly cert: string;
	readonly key: string;
	/** Whether it is time for another one. */
	readonly isDue: () => boolean;
};

/**
 * Who vouches for the address at which containers get their builds. Its key is the authority: containers that run trust it,
 * so that it is made once and never replaced. Its certificate says nothing but which key that is and until when, and may be
 * written again with the same key at any time; whoever trusts an earlier one goes on trusting what the key signs.
 */
export class Authority {
	readonly #file: string;
	readonly #name: string;
	readonly #key: KeyObject;
	readonly #publicKey: KeyObject;
	readonly #now: () => Date;
	#certificate: string;

	private constructor(file: string, key: KeyObject, certificate: string, now: () => Date) {
		this.#file = file;
		this.#key = key;
		this.#publicKey = createPublicKey(key);
		this.#name = nameOf(this.#publicKey);
		this.#certificate = certificate;
		this.#now = now;
	}

	/** That of a folder, made where there is none. Rejects with `internal` where one was there and its key is lost. */
	static async open(folder: string, now: () => Date = () => new Date()): Promise<Authority> {
		const keyFile = path.join(folder, "ca-key.pem");
		const file = path.join(folder, "ca.pem");
		const certificate = await readKept(file);
		const kept = await readKept(keyFile);
		if (kept === undefined && certificate !== undefined) throw lost(folder, `${keyFile} is missing`);
		const key = kept === undefined ? await makeKey(keyFile) : readKey(folder, keyFile, kept);
		const authority = new Authority(file, key, certificate ?? "", now);
		const parsed = certificate === undefined ? undefined : parse(certificate);
		if (parsed !== undefined && !authority.#made(parsed)) throw lost(folder, `${file} is not of the key in ${keyFile}`);
		await authority.#renewWhereDue();
		return authority;
	}

	/** The certificate, PEM: what a container is given to trust. */
	get certificate(): string {
		return this.#certificate;
	}

	/** A new identity for a server at these DNS names and IP addresses. Rejects with `invalid_argument` where one is neither. */
	async issue(hosts: readonly string[]): Promise<Identity> {
		await this.#renewWhereDue();
		const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
		const validity = this.#validity(SERVER_MS);
		const issuer = { name: this.#name, key: this.#key, publicKey: this.#publicKey };
		const [from, until] = [validity.from.getTime(), validity.to.getTime() - SERVER_MARGIN_MS];
		return {
			cert: await serverCertificate(hosts, publicKey, issuer, validity),
			key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
			isDue: () => this.#now().getTime() < from || this.#now().getTime() > until,
		};
	}

	async #renewWhereDue(): Promise<void> {
		const parsed = parse(this.#certificate);
		const now = this.#now().getTime();
		if (
			parsed !== undefined &&
			Date.parse(parsed.validFrom) <= now &&
			Date.parse(parsed.validTo) - AUTHORITY_MARGIN_MS > now
		)
			return;
		const renewed = await authorityCertificate(this.#name, this.#key, this.#publicKey, this.#validity(AUTHORITY_MS));
		await writeKept(this.#file, renewed);
		this.#certificate = renewed;
	}

	#made(certificate: X509Certificate): boolean {
		return certificate.ca && certificate.subject === `CN=${this.#name}` && certificate.checkPrivateKey(this.#key);
	}

	#validity(ms: number): { from: Date; to: Date } {
		const now = this.#now().getTime();
		return { from: new Date(now - BEHIND_MS), to: new Date(now + ms) };
	}
}

/** Its own for each key, so that certificates of two servers cannot be taken for each other's. */
function nameOf(publicKey: KeyObject): string {
	return `Runtime Builds ${keyId(publicKey).slice(0, 16)}`;
}

async function makeKey(file: string): Promise<KeyObject> {
	const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
	await writeKept(file, privateKey.export({ type: "pkcs8", format: "pem" }).toString());
	failpoint("loading.between_key_and_certificate");
	return privateKey;
}

function readKey(folder: string, file: string, text: string): KeyObject {
	try {
		const key = createPrivateKey(text);
		if (key.asymmetricKeyDetails?.namedCurve === "prime256v1") return key;
	} catch (cause) {
		throw lost(folder, `${file} does not hold a private key`, cause);
	}
	throw lost(folder, `${file} does not hold a P-256 key`);
}

/** What cannot be parsed is no certificate: with the key at hand it is written again. */
function parse(pem: string): X509Certificate | undefined {
	try {
		return new X509Certificate(pem);
	} catch {
		return undefined;
	}
}

function lost(folder: string, what: string, cause?: unknown): AppError {
	return new AppError("internal", `the authority that containers trust is damaged: ${what}`, {
		cause,
		hint: `Put ca.pem and ca-key.pem in ${folder} back from a backup; or remove both, and restart every service once the server runs.`,
	});
}
