import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, mkdir, readFile } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import { createSecureServer } from "node:http2";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import t, { type Test } from "tap";
import { createGoBuilder } from "../../../src/builders/go/go.ts";
import { goNetwork } from "../../../src/builders/go/network.ts";
import type { Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { proxyFor } from "../../../src/builders/sandbox/upstream.ts";
import { type Files, failureOf, HOST_TARGET, treeOf } from "../../conformance/builder.ts";
import { makeCertificates } from "../../hosts/certificates.ts";
import { MOD, main } from "../go-samples.ts";
import { bubblewrap, CACHE, folderFor, inEach, never, open, shell, skip } from "./sandboxes.ts";

const CANARY = "canary-91aa";

async function serving(t: Test, listener: RequestListener): Promise<URL> {
	const server = createServer(listener).listen(0, "127.0.0.1");
	await once(server, "listening");
	t.teardown(() => {
		server.closeAllConnections();
		server.close();
	});
	const address = server.address();
	if (address === null || typeof address === "string") throw new Error("no port");
	return new URL(`http://127.0.0.1:${address.port}`);
}

/** Sends raw requests to the proxy from inside and prints the first line of each answer. */
const asks = (requests: readonly string[]) => `
	const { connect } = require("node:net");
	const ask = (text) => new Promise((done) => {
		let said = "";
		const socket = connect(3128, "127.0.0.1", () => socket.write(text));
		const end = () => { console.log(text.split("\\r\\n")[0] + " -> " + said.split("\\r\\n")[0]); socket.destroy(); done(); };
		socket.on("data", (d) => { said += d; end(); }).on("error", (e) => { said = e.code; end(); });
	});
	(async () => { for (const text of ${JSON.stringify(requests)}) await ask(text); })();`;

function inside(sandbox: Sandbox, program: string, hosts: readonly URL[]) {
	return shell(sandbox, "", {
		...{ file: process.execPath, args: ["-e", program], reads: [process.execPath], hosts },
	});
}

inEach("only the exact pairs of host and port can be reached, however an address is spelled", async (t, sandboxOf) => {
	const allowed = await serving(t, (_, response) => response.end("fine"));
	const other = await serving(t, (_, response) => response.end(CANARY));
	const sandbox = await sandboxOf(t);
	const head = (line: string) => `${line} HTTP/1.1\r\nHost: ${allowed.host}\r\n\r\n`;
	const refused = [
		`CONNECT ${other.host}`,
		`CONNECT localhost:${allowed.port}`,
		`CONNECT 2130706433:${allowed.port}`,
		`CONNECT 0x7f.1:${allowed.port}`,
		`CONNECT [::ffff:127.0.0.1]:${allowed.port}`,
		`CONNECT 127.0.0.1.:${allowed.port}`,
		`CONNECT 127.0.0.1:0${allowed.port}`,
		`CONNECT 127.0.0.1`,
		`CONNECT 169.254.169.254:80`,
		`CONNECT x@${allowed.host}`,
		`GET http://${other.host}/`,
		`GET http://${allowed.host}@${other.host}/`,
		`GET http://${other.host}\\@${allowed.host}/`,
		`GET http://${allowed.host}\\.evil.example/`,
		`GET /`,
		`GET https://${allowed.host}/`,
		`GET ftp://${allowed.host}/`,
	];
	const ran = await inside(sandbox, asks(refused.map(head)), [allowed]);
	for (const line of refused)
		t.ok(
			ran.lines.some((said) => said.startsWith(`${line} HTTP/1.1 -> HTTP/1.1 40`)),
			line,
		);
	t.notMatch(ran.text, CANARY);
	t.match(ran.text, /\[169\.254\.169\.254:80 was not reached: a build may reach 127\.0\.0\.1:\d+ alone\]/);
	const fine = await inside(sandbox, asks([head(`CONNECT ${allowed.host}`), head(`GET http://${allowed.host}/x`)]), [
		allowed,
	]);
	t.equal(fine.lines.filter((line) => line.endsWith("HTTP/1.1 200 OK") || line.includes("-> HTTP/1.1 200")).length, 2);
	const direct = `fetch("${other.href}").then((r) => r.text()).then(console.log, (e) => console.log(e.cause.code))`;
	t.match((await inside(sandbox, direct, [allowed])).text, /ECONNREFUSED/, "without the proxy there is nothing");
	t.match((await inside(sandbox, direct, [])).text, /ECONNREFUSED|ENETUNREACH/);
	const node = { file: process.execPath, args: ["-e", direct] };
	t.match((await shell(open, "", node)).text, CANARY, "the canary");
});

inEach(
	"an origin of this machine is found at its own address, as clients use no proxy for it",
	async (t, sandboxOf) => {
		const allowed = await serving(t, (request, response) => response.end(`fine ${request.url}`));
		const program = `fetch("${allowed.href}a?b").then((r) => r.text()).then(console.log, (e) => console.log(e.cause.code))`;
		t.match((await inside(await sandboxOf(t), program, [allowed])).text, "fine /a?b");
	},
);

inEach("bytes have a limit", async (t, sandboxOf) => {
	const endless = await serving(t, (_, response) => {
		const more = () => {
			while (response.write(Buffer.alloc(65_536)));
		};
		response.on("drain", more);
		more();
	});
	const sandbox = await sandboxOf(t, { limits: { network: 3 * 1024 ** 2 } });
	const program = `fetch("${endless.href}").then((r) => r.arrayBuffer()).catch(() => setTimeout(() => {}, 60000))`;
	t.match(await inside(sandbox, program, [endless]), { ended: "it moved more than 3 MiB over the network" });
});

inEach("the server's own proxy is gone through, where it has one", async (t, sandboxOf) => {
	const seen: string[] = [];
	const server = createServer((_, response) => response.end("no"));
	server.on("connect", (request, client) => {
		seen.push(`${request.url} ${request.headers["proxy-authorization"] ?? ""}`);
		client.write("HTTP/1.1 200 Fine\r\n\r\n");
		client.once("data", () => client.end("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndeep"));
	});
	server.listen(0, "127.0.0.1");
	await once(server, "listening");
	t.teardown(() => server.close());
	const { port } = server.address() as AddressInfo;
	const sandbox = await sandboxOf(t, { env: { HTTP_PROXY: `http://me:secret@127.0.0.1:${port}` } });
	const ran = await inside(sandbox, asks(["GET http://modules.example/x HTTP/1.1\r\nHost: modules.example\r\n\r\n"]), [
		new URL("http://modules.example"),
	]);
	t.match(ran.text, /-> HTTP\/1\.1 200 OK/);
	t.same(seen, [`modules.example:80 Basic ${Buffer.from("me:secret").toString("base64")}`]);
	const env = { https_proxy: "p:1", HTTP_PROXY: "http://q", NO_PROXY: ".corp.example, 10.0.0.1,one.example:8443" };
	for (const [origin, expected] of [
		["https://a.example", "http://p:1/"],
		["http://a.example", "http://q/"],
		["https://x.corp.example", undefined],
		["https://corp.example", undefined],
		["https://notcorp.example", "http://p:1/"],
		["https://10.0.0.1", undefined],
		["https://one.example", "http://p:1/"],
		["https://one.example:8443", undefined],
		["http://127.0.0.1:3000", undefined],
	] as const)
		t.equal(proxyFor(new URL(origin), env)?.href, expected, origin);
});

t.test("hosts and folders come from Go's own configuration", async (t) => {
	const hosts = (settings: Record<string, string>) => goNetwork(settings).hosts.map(({ href }) => href);
	t.same(hosts({ GOPROXY: "https://a.example/x,direct", GOSUMDB: "sum.example" }), [
		"https://a.example/",
		"https://sum.example/",
	]);
	t.same(hosts({ GOPROXY: "http://a.example:81|b.example,off", GOSUMDB: "off" }), [
		"http://a.example:81/",
		"https://b.example/",
	]);
	t.same(hosts({ GOPROXY: "https://a.example", GOSUMDB: "name+hash+key https://u:p@sums.example/db" }), [
		"https://a.example/",
		"https://sums.example/",
	]);
	for (const nothing of ["direct", "off", ""]) t.same(hosts({ GOPROXY: nothing, GOSUMDB: "sum.example" }), []);
	t.match(goNetwork({ GOPROXY: "file:///var/modules,https://a.example|direct" }), {
		folders: ["/var/modules"],
		env: { GOPROXY: "file:///var/modules,https://a.example", GOVCS: "*:off" },
		directLeftOut: true,
	});
	t.equal(goNetwork({ GOPROXY: "https://a.example" }).directLeftOut, false);
	t.equal(goNetwork({ GOPROXY: "https://a.example", GOPRIVATE: "x.example" }).directLeftOut, true);
});

const UUID: Files = {
	"go.mod": `${MOD}\nrequire github.com/google/uuid v1.6.0\n`,
	"go.sum":
		"github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
	"main.go": main("\tprintln(uuid.NewString())", 'import "github.com/google/uuid"\n'),
};

/** A builder in a sandbox with an empty module cache, and where it is to compile, the compiled packages of other tests. */
async function fetching(t: Test, env: Record<string, string>, warm = false) {
	const cacheFolder = await folderFor(t);
	await mkdir(join(cacheFolder, "go"), { recursive: true });
	if (warm && existsSync(join(CACHE, "go", "build")))
		await cp(join(CACHE, "go", "build"), join(cacheFolder, "go", "build"), { recursive: true });
	const builder = createGoBuilder({
		...{ cacheFolder, workFolder: await folderFor(t), sandbox: await bubblewrap(t) },
		env: { GOSUMDB: "off", GOPRIVATE: "", GONOPROXY: "", GONOSUMDB: "", ...env },
	});
	const lines: string[] = [];
	const options = { namespace: "default", entrypoint: ".", env: {}, target: HOST_TARGET };
	const build = async (files: Files) =>
		builder.build(await treeOf(t, files), options, { signal: never, log: (line) => lines.push(line) });
	return { build, lines, cacheFolder };
}

/** A module proxy that serves what is in the tests' own module cache. */
async function moduleProxy(t: Test) {
	// Fetched by Go itself where it is not there yet, by the machine's own configuration.
	const first = createGoBuilder({ cacheFolder: CACHE, workFolder: await folderFor(t) });
	const options = { namespace: "default", entrypoint: ".", env: {}, target: HOST_TARGET };
	await using _ = await first.build(await treeOf(t, UUID), options, { signal: never, log: () => undefined });
	const folder = join(CACHE, "go", "mod", "cache", "download");
	const asked: string[] = [];
	const url = await serving(t, async (request, response) => {
		asked.push(request.url ?? "");
		const bytes = await readFile(join(folder, request.url ?? "")).catch(() => undefined);
		response.writeHead(bytes === undefined ? 404 : 200).end(bytes ?? "not here");
	});
	return { url, asked, folder };
}

t.test("a module is fetched by the proxy, once; then the build has no network", { skip }, async (t) => {
	const { url, asked, folder } = await moduleProxy(t);
	const { build, lines } = await fetching(t, { GOPROXY: url.href }, true);
	for (let round = 0; round < 2; round++) {
		await using made = await build(UUID);
		t.ok(made.size > 0);
		t.equal(asked.filter((path) => path.endsWith(".zip")).length, 1);
		t.notMatch(lines.join("\n"), /GOPROXY=off/, "nobody is told of the trial without network");
	}

	const fromFolder = await fetching(t, { GOPROXY: pathToFileURL(folder).href }, true);
	await using made = await fromFolder.build(UUID);
	t.ok(made.size > 0, "a folder is a proxy too");
});

t.test("direct fetches are refused, and the error names the setting", { skip }, async (t) => {
	const { url } = await moduleProxy(t);
	const missing = {
		"go.mod": `${MOD}\nrequire github.com/nobody/Nothing v1.0.0\n`,
		"go.sum": `github.com/nobody/Nothing v1.0.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/nobody/Nothing v1.0.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n`,
		"main.go": main("", 'import _ "github.com/nobody/Nothing"\n'),
	};
	const vanity = JSON.parse(JSON.stringify(missing).replaceAll("github.com/nobody/Nothing", "code.example/x"));
	for (const [files, env] of [
		[missing, { GOPROXY: "direct" }],
		[missing, { GOPROXY: `${url.href},direct` }],
		[missing, { GOPROXY: url.href, GOPRIVATE: "github.com/nobody" }],
		[vanity, { GOPROXY: "direct" }],
		[vanity, { GOPROXY: url.href, GONOPROXY: "code.example" }],
	] as const) {
		const { build } = await fetching(t, env);
		const error = await failureOf(build(files));
		t.match(error, { code: "unavailable", retryable: false, message: /GOPROXY/ }, JSON.stringify(env));
		t.match(error.message, /go mod vendor/);
	}
	const plain = await failureOf((await fetching(t, { GOPROXY: url.href })).build(missing));
	t.match(plain.message, /404 Not Found/);
	t.notMatch(plain.message, /go mod vendor/);
});

t.test("a proxy that is not there", { skip }, async (t) => {
	const gone = createTcpServer().listen(0, "127.0.0.1");
	await once(gone, "listening");
	const { port } = gone.address() as AddressInfo;
	gone.close();
	await once(gone, "close");
	const { build } = await fetching(t, { GOPROXY: `http://127.0.0.1:${port}` });
	t.match(await failureOf(build(UUID)), { code: "unavailable", retryable: true, message: /could not fetch a module/ });
});

t.test("a build cannot have Go print the operator's password for a module proxy", { skip }, async (t) => {
	const folder = await folderFor(t);
	const { ca, key, cert } = await makeCertificates(folder, ["localhost"]);
	const asked: (string | undefined)[] = [];
	const server = createSecureServer({ key, cert }, (request, response) => {
		asked.push(`${request.httpVersion} ${request.headers.authorization}`);
		response.writeHead(404).end();
	}).listen(0, "127.0.0.1");
	await once(server, "listening");
	const { port } = server.address() as AddressInfo;
	t.teardown(() => server.close());
	const password = `Basic ${Buffer.from(`operator:${CANARY}`).toString("base64")}`;
	const builder = createGoBuilder({
		...{ sandbox: await bubblewrap(t), cacheFolder: CACHE, workFolder: join(folder, "work") },
		env: { GOPROXY: `https://operator:${CANARY}@127.0.0.1:${port}`, GOSUMDB: "off", SSL_CERT_FILE: ca },
	});
	const sum = `h1:${Buffer.alloc(32).toString("base64")}`;
	const files = {
		"go.mod": `${MOD}\nrequire example.com/away v1.0.0\n`,
		"go.sum": `example.com/away v1.0.0 ${sum}\nexample.com/away v1.0.0/go.mod ${sum}\n`,
		"main.go": main("", 'import _ "example.com/away"'),
	};
	const lines: string[] = [];
	const env = { GODEBUG: "http2debug=2" };
	const work = builder.build(
		await treeOf(t, files),
		{ namespace: "default", entrypoint: ".", env, target: HOST_TARGET },
		{ signal: never, log: (line) => lines.push(line) },
	);
	const { message } = await failureOf(work);
	t.ok(asked.includes(`2.0 ${password}`), "the canary: the proxy was asked with it, by HTTP/2");
	for (const said of [...lines, message]) {
		t.notMatch(said, CANARY);
		t.notOk(said.includes(password.slice(6)), said);
	}
});
