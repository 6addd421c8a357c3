import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export type Certificates = {
	/** File with the private authority's certificate, PEM. */
	readonly ca: string;
	readonly key: Buffer;
	readonly cert: Buffer;
};

/** A private authority and a server's certificate for these names and 127.0.0.1, made by openssl in `folder`. */
export async function makeCertificates(folder: string, names: readonly string[]): Promise<Certificates> {
	const at = (name: string) => join(folder, name);
	const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
	await run("openssl", [
		...["req", "-x509", ...key, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-subj", "/CN=Test authority"],
		...["-addext", "keyUsage=critical,keyCertSign"],
	]);
	const alternatives = [...names.map((name) => `DNS:${name}`), "IP:127.0.0.1", "IP:::1"].join(",");
	await run("openssl", [
		...["req", "-x509", ...key, "-keyout", at("server.key"), "-out", at("server.pem"), "-subj", "/CN=Test host"],
		...["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-addext", `subjectAltName=${alternatives}`],
		...["-addext", "basicConstraints=critical,CA:FALSE"],
	]);
	return { ca: at("ca.pem"), key: await readFile(at("server.key")), cert: await readFile(at("server.pem")) };
}
