import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { isAppError, messageOf } from "../../../src/errors.ts";
import { parseRemote } from "../../../src/sources/remotes/address.ts";
import { AddressGuard, isPublicAddress } from "../../../src/sources/remotes/guard.ts";
import type { HostConfig } from "../../../src/sources/remotes/hosts.ts";
import { createOutbound } from "../../../src/sources/remotes/outbound.ts";
import { Remotes } from "../../../src/sources/remotes/remotes.ts";
import { makeCertificates } from "../../hosts/certificates.ts";
import { type SeenRequest, serve, startGitHost } from "../../hosts/git.ts";
import { makeRepository } from "../../hosts/repository.ts";

const place = await mkdtemp(join(tmpdir(), "runtime-outbound-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const certificates = await makeCertificates(place, ["localhost", "git.example"]);
const signal = () => AbortSignal.timeout(60_000);

async function codeOf(work: Promise<unknown>): Promise<string> {
	try {
		await work;
		return "resolved";
	} catch (error) {
		return isAppError(error) ? error.code : messageOf(error);
	}
}

/** What a server on loopback would be reached by, and every neighbour that a public server must not be made to reach. */
const LITERALS: readonly string[] = [
	...["127.0.0.1", "127.0.0.2", "127.255.255.254", "127.0.0.1.", "127.1", "127.0.1", "0.0.0.0", "0", "0.0.0.1"],
	...["2130706433", "0x7f000001", "0x7f.1", "0x7F.0x0.0x0.0x1", "0177.0.0.1", "017700000001", "0177.0.1", "127.0x0.1"],
	...["１２７.０.０.１", "127。0。0。1", "①②⑦.⓪.⓪.①"],
	...["10.0.0.1", "0xa000001", "10.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.1", "3232235777"],
	...["100.64.0.1", "100.100.100.200", "169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376"],
	...["168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"],
	...["224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"],
	...["[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]"],
	...["[::ffff:0:127.0.0.1]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:169.254.169.254]", "[0::ffff:a9fe:a9fe]"],
	...["[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a00:1::1]"],
	...["[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[fe80::1]", "[febf::1]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]"],
	...["[ff02::1]", "[100::1]", "[2001:db8::1]", "[3fff::1]", "[5f00::1]", "[4000::1]", "[1::1]"],
];

/** A name may resolve to any of these. */
const ANSWERS: readonly string[] = [
	...["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "168.63.129.16", "100.100.100.200"],
	...[
		"::1",
		"::",
		"::ffff:127.0.0.1",
		"::7f00:1",
		"64:ff9b::7f00:1",
		"2002:7f00:1::1",
		"fe80::1",
		"fe80::1%lo",
		"fd00::1",
	],
];

async function onPort(t: { teardown: (work: () => void) => unknown }, server: Server): Promise<number> {
	await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
	t.teardown(() => {
		server.closeAllConnections();
		server.close();
	});
	return (server.address() as AddressInfo).port;
}

t.test("literal addresses in every spelling are refused", async (t) => {
	t.ok(LITERALS.length >= 40, `${LITERALS.length} forms`);
	let asked = 0;
	const lookup = async () => {
		asked++;
		return ["127.0.0.1"];
	};
	await using outbound = createOutbound({ allow: [], lookup });
	await using remotes = new Remotes({ hosts: [], workFolder: join(place, "literals"), lookup });
	const guard = new AddressGuard([], lookup);
	for (const host of LITERALS) {
		t.equal(
			await codeOf(outbound.fetch(`https://${host}/`, { signal: signal() })),
			"permission_denied",
			`fetch ${host}`,
		);
		const address = parseRemote(`https://${host}:8443/a/b`);
		t.ok(address, host);
		if (address === null) continue;
		t.equal(await codeOf(remotes.resolve(address, { signal: signal() })), "permission_denied", `git ${host}`);
		// As git would be given it, had nobody made it canonical before.
		const origin = { scheme: "https", host, port: 443 } as const;
		if (/^[\x20-\x7e]+$/.test(host))
			t.equal(await codeOf(guard.addresses(origin, signal())), "permission_denied", `as it is ${host}`);
	}
	t.equal(asked, 0, "no address was looked up as a name");
	for (const address of ["1.1.1.1", "8.8.8.8", "140.82.121.4", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e"])
		t.ok(isPublicAddress(address), address);
});

t.test("names that resolve to such addresses are refused, mixed answers too", async (t) => {
	for (const answer of ANSWERS) {
		t.notOk(isPublicAddress(answer), answer);
		for (const answers of [[answer], ["1.1.1.1", answer], [answer, "1.1.1.1"]]) {
			const guard = new AddressGuard([], async () => answers);
			const origin = { scheme: "https", host: "rebind.example", port: 443 } as const;
			t.equal(await codeOf(guard.addresses(origin, signal())), "permission_denied", answers.join(", "));
		}
	}
	await using outbound = createOutbound({ allow: [] });
	for (const host of ["localhost", "localhost.", "LOCALHOST", "x.localhost", "ⓛocalhost"])
		t.match(
			await codeOf(outbound.fetch(`https://${host}/`, { signal: signal() })),
			/permission_denied|unavailable/,
			host,
		);
	for (const answers of [[], ["garbage"]]) {
		const guard = new AddressGuard([], async () => answers);
		const origin = { scheme: "https", host: "x.example", port: 443 } as const;
		t.equal(await codeOf(guard.addresses(origin, signal())), "unavailable", JSON.stringify(answers));
	}
});

t.test("a second answer of the name server has no say", async (t) => {
	let reached = 0;
	const port = await onPort(
		t,
		createServer((_request, response) => {
			reached++;
			response.end("secret");
		}),
	);
	const allow: readonly HostConfig[] = [{ host: `rebind.example:${port}`, kind: "git", allowHttp: true }];
	const guard = new AddressGuard(allow, answering([["1.1.1.1"], ["127.0.0.1"]]));
	const origin = { scheme: "http", host: "rebind.example", port } as const;
	t.strictSame(await guard.addresses(origin, signal()), ["1.1.1.1"]);
	t.equal(await codeOf(guard.addresses(origin, signal())), "permission_denied");
	await using outbound = createOutbound({ allow, lookup: answering([["127.0.0.1"], ["1.1.1.1", "127.0.0.1"]]) });
	for (const turn of ["first", "second"])
		t.equal(
			await codeOf(outbound.fetch(`http://rebind.example:${port}/`, { signal: signal() })),
			"permission_denied",
			turn,
		);
	t.equal(reached, 0);

	// The connection goes to the address that was checked: with the operator's leave, one answer is enough for all.
	let answers = 0;
	await using allowed = createOutbound({
		allow: [{ host: `rebind.example:${port}`, kind: "git", allowHttp: true, allowPrivate: true }],
		lookup: async () => {
			answers++;
			return answers === 1 ? ["127.0.0.1"] : ["127.0.0.99"];
		},
	});
	const response = await allowed.fetch(`http://rebind.example:${port}/`, { signal: signal() });
	t.equal(await response.text(), "secret");
	t.equal(answers, 1, "looked up once for one connection");
});

t.test("the leave is for one host and port, and for https unless said", async (t) => {
	const port = await onPort(
		t,
		createServer((_request, response) => response.end("here")),
	);
	const open = { kind: "git", allowPrivate: true, allowHttp: true } as const;
	const get = async (allow: readonly HostConfig[], url: string) => {
		await using outbound = createOutbound({ allow, lookup: async () => ["127.0.0.1"] });
		return await codeOf(outbound.fetch(url, { signal: signal() }));
	};
	t.equal(await get([{ host: `127.0.0.1:${port}`, ...open }], `http://127.0.0.1:${port}/`), "resolved");
	t.equal(
		await get([{ host: `127.0.0.1:${port}`, ...open }], `http://2130706433:${port}/`),
		"resolved",
		"the same host",
	);
	t.equal(await get([{ host: `x.example:${port}`, ...open }], `http://127.0.0.1:${port}/`), "invalid_argument");
	t.equal(await get([{ host: "127.0.0.1", ...open }], `http://127.0.0.1:${port}/`), "invalid_argument", "another port");
	t.equal(
		await get([{ host: "127.0.0.1", ...open }], `https://127.0.0.1:${port}/`),
		"permission_denied",
		"another port",
	);
	t.equal(await get([{ host: `127.0.0.1:${port}`, kind: "git" }], `https://127.0.0.1:${port}/`), "permission_denied");
	for (const url of [
		...["ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/", "data:text/plain,x", "nonsense"],
		...[`https://github.com@127.0.0.1:${port}/`, `https://user:pw@127.0.0.1:${port}/`, `http://1.1.1.1/`],
	])
		t.equal(await get([], url), "invalid_argument", url);
	t.equal(
		await get([], `https://github.com\\@127.0.0.1:${port}/`),
		"permission_denied",
		"goes to the first, and that is checked",
	);
});

t.test("redirects are checked anew, three at most, and lose the token", async (t) => {
	const inner: SeenRequest[] = [];
	const secret = await serve(certificates, inner, (_request, response) => response.end("secret"));
	t.teardown(() => secret.close());
	const seen: SeenRequest[] = [];
	const outer = await serve(certificates, seen, (request, response) => {
		const url = new URL(request.url ?? "/", "https://x");
		const to = url.searchParams.get("to");
		const hops = Number(url.searchParams.get("hops") ?? 0);
		if (hops > 0) response.writeHead(302, { location: `?hops=${hops - 1}` }).end();
		else if (to !== null) response.writeHead(307, { location: to }).end();
		else response.end("the end");
	});
	t.teardown(() => outer.close());
	const known = { kind: "git", allowPrivate: true, ca: certificates.ca } as const;
	const headers = { authorization: "Bearer s3cret" };
	await using outbound = createOutbound({ allow: [{ host: outer.host, ...known }], lookup: async () => ["127.0.0.1"] });
	const get = (query: string) => outbound.fetch(`https://${outer.host}/${query}`, { signal: signal(), headers });
	for (const to of [
		...[`https://${secret.host}/`, `https://127.0.0.1:${secret.port}/`, `https://[::ffff:127.0.0.1]:${secret.port}/`],
		...[
			`//127.0.0.1:${secret.port}/`,
			"https://169.254.169.254/latest/meta-data/",
			"https://0x7f.1/",
			"https://metadata/",
		],
	])
		t.equal(await codeOf(get(`?to=${encodeURIComponent(to)}`)), "permission_denied", to);
	for (const to of [`http://${outer.host}/`, "file:///etc/passwd", `https://a:b@${outer.host}/`])
		t.equal(await codeOf(get(`?to=${encodeURIComponent(to)}`)), "invalid_argument", to);
	t.equal(inner.length, 0, "nothing reached what is behind");
	t.equal(await (await get("?hops=3")).text(), "the end");
	t.equal(await codeOf(get("?hops=4")), "unavailable", "a fourth");
	t.ok(
		seen.every(({ authorization }) => authorization === "Bearer s3cret"),
		"the host itself gets it every time",
	);

	await using both = createOutbound({
		allow: [
			{ host: outer.host, ...known },
			{ host: secret.host, ...known },
		],
		lookup: async () => ["127.0.0.1"],
	});
	const url = `https://${outer.host}/?to=${encodeURIComponent(`https://${secret.host}/`)}`;
	t.equal(await (await both.fetch(url, { signal: signal(), headers })).text(), "secret");
	t.strictSame(
		inner.map(({ authorization }) => authorization),
		[undefined],
		"another host gets no token",
	);
});

t.test("git's redirects are not followed, on ls-remote and on fetch", async (t) => {
	const root = join(place, "git");
	const { commits } = await makeRepository(root, "acme/monorepo");
	const behind = await startGitHost({ root, certificates });
	t.teardown(() => behind.close());
	let redirectsFrom = "/";
	const front = await startGitHost({
		root,
		certificates,
		before: (request, response) => {
			const path = request.url ?? "";
			if (!path.includes(redirectsFrom)) return false;
			response.writeHead(302, { location: `https://localhost:${behind.port}${path}` }).end();
			return true;
		},
	});
	t.teardown(() => front.close());
	const known = { kind: "git", allowPrivate: true, ca: certificates.ca } as const;
	const workFolder = join(place, "work");
	// Even where the operator allows the target: git itself would not check it.
	await using remotes = new Remotes({
		hosts: [
			{ host: front.host, ...known },
			{ host: behind.host, ...known },
		],
		workFolder,
	});
	const address = parseRemote(`https://${front.host}/acme/monorepo@main`);
	if (address === null) throw new Error("no address");
	t.equal(await codeOf(remotes.resolve(address, { signal: signal() })), "invalid_argument", "at the first request");
	redirectsFrom = "/git-upload-pack";
	t.equal(await codeOf(remotes.resolve(address, { signal: signal() })), "unavailable", "at git's second request");
	const pinned = { url: `https://${front.host}/acme/monorepo.git`, folder: ".", ref: "main", commit: commits.main };
	await using tree = remotes.open(pinned);
	t.not(await codeOf(tree.directory({ signal: signal() })), "resolved", "while it is fetched");
	redirectsFrom = "nowhere";
	t.equal((await remotes.resolve(address, { signal: signal() })).commit, commits.main, "without redirects it works");
	t.equal(behind.requests.length, 0, "nothing reached what is behind");
	t.strictSame(await readdir(workFolder), [], "and nothing was left behind");
});

t.test("git goes to the address that was checked, whatever the name server says next", async (t) => {
	const root = join(place, "pinned");
	const { commits } = await makeRepository(root, "acme/monorepo");
	const host = await startGitHost({ root, certificates });
	t.teardown(() => host.close());
	// git.example does not exist for the system's resolver; git finds it only because it is pinned.
	const name = `git.example:${host.port}`;
	let answers = 0;
	await using remotes = new Remotes({
		hosts: [{ host: name, kind: "git", allowPrivate: true, ca: certificates.ca }],
		workFolder: join(place, "work"),
		lookup: async () => {
			answers++;
			return ["127.0.0.1"];
		},
	});
	const address = parseRemote(`${name}/acme/monorepo/helloserver`);
	if (address === null) throw new Error("no address");
	t.equal((await remotes.resolve(address, { signal: signal() })).commit, commits.main);
	t.ok(answers > 0);

	// First public, then private. Git is played, so that nothing goes out: it is told the first answer and no other, and what
	// comes after it is checked by itself.
	const log = join(place, "git.log");
	const played = join(place, "played-git");
	const script = `#!/bin/sh\nprintf '%s\\n' "$*" >>${log}\ncase "$*" in *" fetch "*) exit 128 ;; *" version") echo git version 2.99.0 ;; esac\n`;
	await writeFile(played, script, { mode: 0o755 });
	await using rebound = new Remotes({
		hosts: [],
		workFolder: join(place, "work"),
		git: played,
		lookup: answering([["1.1.1.1", "2606:4700:4700::1111"], ["127.0.0.1"]]),
	});
	const url = `https://rebind.example:${host.port}/acme/monorepo.git`;
	await using tree = rebound.open({ url, folder: ".", ref: "main", commit: commits.main });
	const seen = host.requests.length;
	t.equal(await codeOf(tree.directory({ signal: signal() })), "permission_denied");
	const told = await readFile(log, "utf8");
	t.match(told, `http.curloptResolve=rebind.example:${host.port}:1.1.1.1,[2606:4700:4700::1111] `);
	t.notMatch(told, /127\.0\.0\.1/);
	t.equal(host.requests.length, seen, "nothing reached what is behind");
});

/** A name server that gives these answers in turn, the last one for ever. */
function answering(answers: readonly (readonly string[])[]) {
	let turn = 0;
	return async () => answers[Math.min(turn++, answers.length - 1)] ?? [];
}
