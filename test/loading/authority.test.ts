import { execFile } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { chmod, mkdir, readFile, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import path from "node:path";
import { connect } from "node:tls";
import { pathToFileURL } from "node:url";
import t from "tap";
import { Authority, type Identity } from "../../src/loading/authority.ts";
import { portOf } from "../../src/loading/port.ts";
import { ownFolder } from "./desk.ts";

const YEAR_MS = 365 * 24 * 3600 * 1000;
const MODULE = pathToFileURL(path.resolve(import.meta.dirname, "../../src/loading/authority.ts")).href;

const at = (ms: number) => () => new Date(Date.now() + ms);

/** What a TLS client that trusts `ca` says of a server with this identity: null, or the fault. */
async function verdict(ca: string, identity: Identity, host: { ip?: string; name?: string }): Promise<string | null> {
	const server = createServer({ cert: identity.cert, key: identity.key });
	await new Promise<void>((resolve) => server.listen(0, host.ip ?? "127.0.0.1", resolve));
	try {
		return await new Promise((resolve) => {
			const socket = connect({
				...{ ca, port: portOf(server), host: host.ip ?? "127.0.0.1" },
				...(host.name === undefined ? {} : { servername: host.name, checkServerIdentity: named(host.name) }),
			});
			socket.once("secureConnect", () => {
				socket.destroy();
				resolve(null);
			});
			socket.once("error", (error) => {
				socket.destroy();
				resolve("code" in error ? String(error.code) : error.message);
			});
		});
	} finally {
		await new Promise((resolve) => server.close(resolve));
	}
}

function named(name: string) {
	return (_host: string, peer: { raw: Buffer }) =>
		new X509Certificate(peer.raw).checkHost(name) === undefined
			? Object.assign(new Error("another name"), { code: "ERR_TLS_CERT_ALTNAME_INVALID" })
			: undefined;
}

t.test("addresses and names are verified by TLS, and nothing else is", async (t) => {
	const authority = await Authority.open(await ownFolder(t));
	const hosts = ["127.0.0.1", "::1", "host.docker.internal", "172.17.0.1"];
	const identity = await authority.issue(hosts);
	const { certificate: ca } = authority;
	t.equal(await verdict(ca, identity, { ip: "127.0.0.1" }), null);
	t.equal(await verdict(ca, identity, { ip: "127.0.0.2" }), "ERR_TLS_CERT_ALTNAME_INVALID");
	t.equal(await verdict(ca, identity, { name: "host.docker.internal" }), null);
	t.equal(await verdict(ca, identity, { name: "other.docker.internal" }), "ERR_TLS_CERT_ALTNAME_INVALID");
	const leaf = new X509Certificate(identity.cert);
	t.equal(leaf.checkIP("172.17.0.1"), "172.17.0.1");
	t.equal(leaf.checkIP("::1"), "::1");
	t.notOk(leaf.ca);
	t.ok(leaf.checkIssued(new X509Certificate(ca)));
	const stranger = await Authority.open(await ownFolder(t));
	t.not(await verdict(stranger.certificate, identity, { ip: "127.0.0.1" }), null, "another server's is not trusted");
	await t.rejects(authority.issue(["not a name"]), { code: "invalid_argument", field: "hosts" });
});

t.test(
	"a strict verifier finds nothing to object to, under an authority's renewed certificate and its old one",
	async (t) => {
		const folder = await ownFolder(t);
		const old = (await Authority.open(folder, at(-9 * YEAR_MS))).certificate;
		const authority = await Authority.open(folder);
		t.not(authority.certificate, old);
		const hosts = ["172.17.0.1", "::1", "fe80::1%lo", "::ffff:10.0.0.1", "Host.Docker.Internal"];
		await writeFile(path.join(folder, "leaf.pem"), (await authority.issue(hosts)).cert);
		await writeFile(path.join(folder, "old.pem"), old);
		const verify = (ca: string, ...named: string[]) =>
			new Promise<string>((resolve) => {
				const strict = ["verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver"];
				const args = [...strict, "-CAfile", ca, ...named, "leaf.pem"];
				execFile("openssl", args, { cwd: folder }, (error, stdout, stderr) => resolve(error ? stderr : stdout));
			});
		if (/ENOENT|^$/.test(await verify("ca.pem"))) return t.pass("there is no openssl", { skip: true });
		for (const ca of ["ca.pem", "old.pem"]) {
			for (const ip of ["172.17.0.1", "::1", "fe80::1", "::ffff:10.0.0.1"])
				t.equal(await verify(ca, "-verify_ip", ip), "leaf.pem: OK\n", ip);
			t.equal(await verify(ca, "-verify_hostname", "host.docker.internal"), "leaf.pem: OK\n");
			t.match(await verify(ca, "-verify_ip", "172.17.0.2"), /IP address mismatch/);
			t.match(await verify(ca, "-verify_hostname", "other.docker.internal"), /[Hh]ostname mismatch/);
		}
	},
);

t.test("it survives a restart, and only its user may read it", async (t) => {
	const folder = await ownFolder(t);
	const first = await Authority.open(folder);
	const identity = await first.issue(["127.0.0.1"]);
	for (const file of ["ca.pem", "ca-key.pem"]) t.equal((await stat(path.join(folder, file))).mode & 0o777, 0o600, file);
	await chmod(path.join(folder, "ca-key.pem"), 0o644);
	const second = await Authority.open(folder);
	t.equal(second.certificate, first.certificate);
	t.equal((await stat(path.join(folder, "ca-key.pem"))).mode & 0o777, 0o600, "and is made private again");
	t.equal(await verdict(second.certificate, identity, { ip: "127.0.0.1" }), null);
	t.equal(await verdict(first.certificate, await second.issue(["127.0.0.1"]), { ip: "127.0.0.1" }), null);
});

t.test("a crash between key and certificate costs nothing", async (t) => {
	const folder = await ownFolder(t);
	const script = `const { Authority } = await import(${JSON.stringify(MODULE)}); await Authority.open(${JSON.stringify(folder)});`;
	const signal = await new Promise((resolve) => {
		const env = { ...process.env, RUNTIME_FAILPOINTS: "loading.between_key_and_certificate:1=kill" };
		execFile(process.execPath, ["--input-type=module", "-e", script], { env }, (error) => resolve(error?.signal));
	});
	t.equal(signal, "SIGKILL");
	const key = await readFile(path.join(folder, "ca-key.pem"), "utf8");
	await t.rejects(stat(path.join(folder, "ca.pem")), { code: "ENOENT" });
	const authority = await Authority.open(folder);
	t.equal(await readFile(path.join(folder, "ca-key.pem"), "utf8"), key);
	t.ok(new X509Certificate(authority.certificate).checkPrivateKey(createPrivateKey(key)));
	t.equal(await verdict(authority.certificate, await authority.issue(["127.0.0.1"]), { ip: "127.0.0.1" }), null);
});

t.test("a certificate that is damaged or nears its end is written again with the same key", async (t) => {
	const folder = await ownFolder(t);
	const file = path.join(folder, "ca.pem");
	const old = await Authority.open(folder, at(-9 * YEAR_MS));
	const renewed = await Authority.open(folder);
	t.not(renewed.certificate, old.certificate);
	const identity = await renewed.issue(["127.0.0.1"]);
	t.equal(await verdict(renewed.certificate, identity, { ip: "127.0.0.1" }), null);
	t.equal(await verdict(old.certificate, identity, { ip: "127.0.0.1" }), null, "who trusts the old one, still does");
	t.equal((await Authority.open(folder)).certificate, renewed.certificate, "a valid one is left alone");

	for (const damage of ["", renewed.certificate.slice(0, 200), "-----BEGIN"]) {
		await writeFile(file, damage);
		const mended = await Authority.open(folder);
		t.equal(await verdict(renewed.certificate, await mended.issue(["127.0.0.1"]), { ip: "127.0.0.1" }), null);
	}
	await Authority.open(folder, at(-30 * YEAR_MS));
	t.equal((await Authority.open(folder)).certificate, await readFile(file, "utf8"));
	t.ok(Date.parse(new X509Certificate(await readFile(file)).validTo) > Date.now() + 9 * YEAR_MS, "an expired one too");
});

t.test("it is renewed while the server runs, and before what it issues would outlive it", async (t) => {
	let ahead = 0;
	const authority = await Authority.open(await ownFolder(t), () => new Date(Date.now() + ahead));
	const first = authority.certificate;
	ahead = 8.5 * YEAR_MS;
	const identity = await authority.issue(["127.0.0.1"]);
	t.not(authority.certificate, first);
	const [ca, leaf] = [new X509Certificate(authority.certificate), new X509Certificate(identity.cert)];
	t.ok(Date.parse(leaf.validTo) < Date.parse(ca.validTo));
	t.notOk(identity.isDue());
	ahead += YEAR_MS;
	t.ok(identity.isDue());
	ahead = 0;
	t.ok(identity.isDue(), "also where the clock was put back");
});

t.test("a key that is lost is an error in words, and the certificate is left alone", async (t) => {
	const folder = await ownFolder(t);
	const { certificate } = await Authority.open(folder);
	const keyFile = path.join(folder, "ca-key.pem");
	const key = await readFile(keyFile, "utf8");
	const other = await ownFolder(t);
	await Authority.open(other);
	const foreign = await readFile(path.join(other, "ca-key.pem"), "utf8");
	for (const damaged of [undefined, "", key.slice(0, 60), "nonsense", foreign]) {
		if (damaged === undefined) await rm(keyFile);
		else await writeFile(keyFile, damaged);
		await t.rejects(Authority.open(folder), { code: "internal", message: /ca-key\.pem/, hint: /backup/ });
		t.equal(await readFile(path.join(folder, "ca.pem"), "utf8"), certificate);
	}
	await rm(keyFile);
	await mkdir(keyFile);
	await t.rejects(Authority.open(folder), { code: "internal", message: /ca-key\.pem cannot be read/ });
	await rmdir(keyFile);
	await writeFile(keyFile, key);
	t.equal((await Authority.open(folder)).certificate, certificate);
	await rm(keyFile);
	await rm(path.join(folder, "ca.pem"));
	t.not((await Authority.open(folder)).certificate, certificate, "with both removed, another one is made");
});
