import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFile, stat, writeFile } from "node:fs/promises";
import { connect as connectPlain, createServer, type Server } from "node:net";
import path from "node:path";
import { connect } from "node:tls";
import { pathToFileURL } from "node:url";
import t from "tap";
import { type LoadingOptions, openLoading } from "../../src/loading/loading.ts";
import { portOf } from "../../src/loading/port.ts";
import { TestCore, until } from "../harness/core.ts";
import { ask, Desk, ownFolder, SILENT } from "./desk.ts";

const DAY_MS = 24 * 3600 * 1000;
const MODULE = path.resolve(import.meta.dirname, "../../src/loading/loading.ts");
const IMPATIENT = { waitMs: 300 };

async function occupied(t: { teardown(action: () => unknown): unknown }, port: number): Promise<Server> {
	const server = createServer((socket) => socket.destroy());
	server.listen(port, "127.0.0.1");
	await once(server, "listening");
	t.teardown(() => void server.close());
	return server;
}

/** The certificate that a new connection meets. */
async function met(url: string, ca: string): Promise<X509Certificate> {
	const { hostname, port } = new URL(url);
	const socket = connect({ host: hostname, port: Number(port), ca });
	await once(socket, "secureConnect");
	const certificate = socket.getPeerX509Certificate();
	socket.destroy();
	if (certificate === undefined) throw new Error("it has no certificate");
	return certificate;
}

t.test("a restart keeps the address, the authority and what was issued", async (t) => {
	const core = await TestCore.open(t);
	await core.create("app", "one");
	const app = await core.at("app", 1, "Running");
	const options: LoadingOptions = {
		folder: path.join(await ownFolder(t), "loading"),
		hosts: ["127.0.0.1"],
		log: SILENT,
	};
	const first = await openLoading(options);
	t.teardown(() => first.close());
	const pass = first.pass(app, 1);
	const early = await ask(pass.ca, pass.url, { token: pass.token });
	t.equal(early.status, 503, "a server that comes up asks to be patient");
	t.equal(early.headers["retry-after"], "1");
	first.serve(core.queries);
	t.equal((await ask(pass.ca, pass.url, { token: pass.token })).body.toString(), "program: one");
	for (const file of ["ca.pem", "ca-key.pem", "secret", "port"])
		t.equal((await stat(path.join(options.folder, file))).mode & 0o777, 0o600, file);
	const before = await met(first.url, first.ca);
	await first.close();
	await first.close();

	const second = await openLoading(options);
	t.teardown(() => second.close());
	second.serve(core.queries);
	t.same(second.pass(app, 1), pass);
	t.equal((await ask(pass.ca, pass.url, { token: pass.token })).body.toString(), "program: one");
	t.not((await met(second.url, pass.ca)).serialNumber, before.serialNumber, "with a certificate of its own");
});

t.test("a crash in the middle of a first start costs nothing", async (t) => {
	const script = (folder: string) =>
		`const { openLoading } = await import(${JSON.stringify(pathToFileURL(MODULE).href)});` +
		`const log = { child: () => log, info() {}, warn() {}, error() {}, debug() {}, trace() {}, fatal() {}, level: "info" };` +
		`const loading = await openLoading({ folder: ${JSON.stringify(folder)}, hosts: ["127.0.0.1"], log }); await loading.close();`;
	const run = (folder: string, failpoints: string) =>
		new Promise<{ signal: unknown; stderr: string }>((resolve) => {
			const env = { ...process.env, RUNTIME_FAILPOINTS: failpoints };
			execFile(process.execPath, ["--input-type=module", "-e", script(folder)], { env }, (error, _stdout, stderr) =>
				resolve({ signal: error === null ? null : (error.signal ?? error.code), stderr }),
			);
		});
	for (const [index, name] of ["ca-key.pem", "ca.pem", "secret", "port"].entries()) {
		const folder = path.join(await ownFolder(t), "loading");
		const killed = await run(folder, `loading.before_rename:${index + 1}=kill`);
		t.equal(killed.signal, "SIGKILL", `before ${name}: ${killed.stderr}`);
		t.ok((await stat(path.join(folder, `${name}.tmp`))).isFile());
		await t.rejects(stat(path.join(folder, name)), { code: "ENOENT" });
		const loading = await openLoading({ folder, hosts: ["127.0.0.1"], log: SILENT });
		t.ok((await met(loading.url, loading.ca)).checkIssued(new X509Certificate(loading.ca)));
		await loading.close();
	}
	const unharmed = await run(path.join(await ownFolder(t), "loading"), "loading.before_rename:5=kill");
	t.equal(unharmed.signal, null, `there are no more: ${unharmed.stderr}`);
});

t.test("the port is chosen among free ones, and kept", async (t) => {
	const folder = await ownFolder(t);
	const busy = portOf(await occupied(t, 0));
	// The first draw is taken, wherever it is.
	const draws = [0.3, 0.3, 0.7];
	const random = () => draws.shift() ?? Math.random();
	const taken = 12_000 + Math.floor(0.3 * 8000);
	const blocker = await occupied(t, taken).catch(() => undefined);
	const options = { folder, hosts: ["127.0.0.1"], log: SILENT, port: { random, ...IMPATIENT } };
	const loading = await openLoading(options);
	const port = Number(new URL(loading.url).port);
	t.not(port, taken);
	t.ok(port >= 12_000 && port < 20_000);
	t.equal((await readFile(path.join(folder, "port"), "utf8")).trim(), String(port));
	blocker?.close();
	await loading.close();

	const intruder = await occupied(t, port);
	await t.rejects(openLoading(options), {
		code: "unavailable",
		message: new RegExp(`127\\.0\\.0\\.1:${port}: the port is taken`),
		hint: /remove .*port/,
	});
	const waiting = openLoading({ ...options, port: { waitMs: 10_000 } });
	intruder.close();
	const back = await waiting;
	t.equal(new URL(back.url).port, String(port), "it is waited for, and never given up for another");
	await back.close();

	await writeFile(path.join(folder, "port"), "all");
	await t.rejects(openLoading(options), { code: "internal", message: /does not hold a port/ });
	await t.rejects(openLoading({ ...options, listen: { host: "127.0.0.1", port: busy } }), {
		...{ code: "unavailable", field: "loaderAddress", hint: /--loader-address/ },
	});
	await t.rejects(openLoading({ ...options, hosts: ["192.0.2.1"], listen: { host: "192.0.2.1", port: busy } }), {
		...{ code: "unavailable", message: /no address of this machine/ },
	});
	for (const nowhere of [{ hosts: [] }, { hosts: [], listen: { host: "0.0.0.0", port: 0 } }])
		await t.rejects(openLoading({ ...options, ...nowhere }), { code: "invalid_argument", field: "loaderAddress" });
	await t.rejects(openLoading({ ...options, hosts: ["no name"] }), { code: "invalid_argument", field: "hosts" });
});

t.test("by name, by address and by a URL of its own: TLS agrees", async (t) => {
	for (const hosts of [["127.0.0.1"], ["localhost", "127.0.0.1"]]) {
		const desk = await Desk.open(t, { hosts, listen: { host: "127.0.0.1", port: 0 } });
		const app = await desk.running("app", "one");
		t.equal(new URL(desk.loading.url).hostname, hosts[0]);
		t.equal((await desk.load(app, 1)).status, 200, hosts.join());
	}
	const desk = await Desk.open(t, { url: "https://builds.example:8443/base/" });
	const app = await desk.running("app", "one");
	t.equal(desk.loading.pass(app, 1).url, "https://builds.example:8443/base/builds/app/latest?revision=1");
	const socket = connect({
		...{ host: "127.0.0.1", port: await portIn(desk), ca: desk.loading.ca, servername: "builds.example" },
	});
	await once(socket, "secureConnect");
	t.ok(socket.authorized, "its certificate is for that name too");
	socket.destroy();
	const stranger = connect({
		...{ host: "127.0.0.1", port: await portIn(desk), ca: desk.loading.ca, servername: "other.example" },
	});
	const [error] = await once(stranger, "error");
	t.equal(error.code, "ERR_TLS_CERT_ALTNAME_INVALID");
	await t.rejects(ask(new X509Certificate(desk.loading.ca).toString(), `https://127.0.0.2:1/`), {
		code: "ECONNREFUSED",
	});
});

async function portIn(desk: Desk): Promise<number> {
	return Number(await readFile(path.join(desk.folder, "port"), "utf8"));
}

t.test("the certificate is renewed before its end while the server runs", async (t) => {
	let ahead = 0;
	const desk = await Desk.open(t, { now: () => new Date(Date.now() + ahead), renewalMs: 10 });
	const app = await desk.running("app", "one");
	const { url, ca } = desk.loading;
	const first = await met(url, ca);
	ahead = 200 * DAY_MS;
	t.equal((await desk.load(app, 1)).status, 200);
	t.equal((await met(url, ca)).serialNumber, first.serialNumber, "not earlier than it must");
	// From here a new one is not valid yet for the test's own clock: who asks only looks.
	ahead = 300 * DAY_MS;
	let now = first;
	await until(
		async () => {
			now = await seen(url);
			return now.serialNumber !== first.serialNumber;
		},
		() => "it has another certificate",
	);
	t.ok(Date.parse(now.validTo) > Date.parse(first.validTo) + 200 * DAY_MS);
	t.ok(now.checkIssued(new X509Certificate(ca)), "of the same authority");
	t.equal(desk.loading.ca, ca);
	ahead = 0;
	await until(
		async () => (await seen(url)).serialNumber !== now.serialNumber,
		() => "and again where the clock was put back",
	);
	t.equal((await desk.load(app, 1)).status, 200);
});

/** The certificate that whoever does not check meets. */
async function seen(url: string): Promise<X509Certificate> {
	const { hostname, port } = new URL(url);
	const socket = connect({ host: hostname, port: Number(port), rejectUnauthorized: false });
	await once(socket, "secureConnect");
	const certificate = socket.getPeerX509Certificate();
	socket.destroy();
	if (certificate === undefined) throw new Error("it has no certificate");
	return certificate;
}

t.test("closing waits for nobody who has not come to speak TLS", async (t) => {
	const desk = await Desk.open(t, { limits: { headersMs: 600_000 } });
	const { hostname, port } = new URL(desk.loading.url);
	const silent = connectPlain(Number(port), hostname);
	silent.on("error", () => silent.destroy());
	await once(silent, "connect");
	const closed = once(silent, "close");
	silent.resume();
	await desk.loading.close();
	await closed;
	t.ok(silent.destroyed);
});
