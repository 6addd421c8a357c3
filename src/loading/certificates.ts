// The library's dependencies register themselves by it: it must be there before they are.
import "reflect-metadata";
import { createHash, type KeyObject } from "node:crypto";
import { isIP } from "node:net";
import {
	AuthorityKeyIdentifierExtension,
	BasicConstraintsExtension,
	ExtendedKeyUsage,
	ExtendedKeyUsageExtension,
	type Extension,
	KeyUsageFlags,
	KeyUsagesExtension,
	SubjectAlternativeNameExtension,
	SubjectKeyIdentifierExtension,
	X509CertificateGenerator,
} from "@peculiar/x509";
import ipaddr from "ipaddr.js";
import { AppError } from "../errors.ts";

export type Validity = { readonly from: Date; readonly to: Date };

const P256 = { name: "ECDSA", namedCurve: "P-256" } as const;
const SIGNING = { name: "ECDSA", hash: "SHA-256" } as const;

/** The certificate of an authority: P-256, self-signed, for server certificates alone. PEM. */
export function authorityCertificate(
	name: string,
	key: KeyObject,
	publicKey: KeyObject,
	validity: Validity,
): Promise<string> {
	return certificate(key, publicKey, { issuer: name, subject: name, validity }, [
		new BasicConstraintsExtension(true, 0, true),
		new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
		new SubjectKeyIdentifierExtension(keyId(publicKey)),
	]);
}

/**
 * A server's certificate for these DNS names and IP addresses. PEM. Rejects with `invalid_argument` where a host is
 * neither.
 */
export async function serverCertificate(
	hosts: readonly string[],
	publicKey: KeyObject,
	issuer: { readonly name: string; readonly key: KeyObject; readonly publicKey: KeyObject },
	validity: Validity,
): Promise<string> {
	const names = { issuer: issuer.name, subject: "Runtime Builds loading", validity };
	return certificate(issuer.key, publicKey, names, [
		new BasicConstraintsExtension(false, undefined, true),
		new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
		new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
		new SubjectAlternativeNameExtension(hosts.map(alternativeName)),
		new AuthorityKeyIdentifierExtension(keyId(issuer.publicKey)),
	]);
}

/** 20 bytes, hexadecimal, that stand for a public key (RFC 7093, method 1 over the whole key). */
export function keyId(publicKey: KeyObject): string {
	return createHash("sha256").update(publicKeyInfo(publicKey)).digest("hex").slice(0, 40);
}

async function certificate(
	signer: KeyObject,
	publicKey: KeyObject,
	{ issuer, subject, validity }: { readonly issuer: string; readonly subject: string; readonly validity: Validity },
	extensions: Extension[],
): Promise<string> {
	const made = await X509CertificateGenerator.create({
		...{ issuer: [{ CN: [issuer] }], subject: [{ CN: [subject] }] },
		...{ notBefore: validity.from, notAfter: validity.to },
		publicKey: publicKeyInfo(publicKey),
		signingKey: signer.toCryptoKey(P256, false, ["sign"]),
		signingAlgorithm: SIGNING,
		extensions,
	});
	return `${made.toString("pem")}\n`;
}

const DNS_NAME = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/i;

function alternativeName(host: string): { readonly type: "ip" | "dns"; readonly value: string } {
	// In hexadecimal groups alone, without a zone: the library takes no other form of IPv6 for what it is.
	if (isIP(host) !== 0) return { type: "ip", value: ipaddr.fromByteArray(ipaddr.parse(host).toByteArray()).toString() };
	if (!DNS_NAME.test(host))
		throw new AppError("invalid_argument", `"${host}" is neither a DNS name nor an IP address`, { field: "hosts" });
	return { type: "dns", value: host.toLowerCase() };
}

function publicKeyInfo(publicKey: KeyObject): Buffer {
	return publicKey.export({ type: "spki", format: "der" });
}
