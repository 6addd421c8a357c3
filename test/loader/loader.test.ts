import { readFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import t, { type Test } from "tap";
import { BuildSite, certificates } from "./build-site.ts";
import { Containers, type Ended, missing, probe, type RunOptions, TOKEN, until } from "./containers.ts";
import { dockerSocket } from "./docker-socket.ts";

const without = missing();
if (without !== false) {
	t.pass(without, { skip: without });
	process.exit();
}

const containers = await Containers.open(t, await dockerSocket(t));
const trusted = certificates(containers.gateway);
const build = await probe(t);
/** Some seconds of a slow line. */
const large = Buffer.concat([build, Buffer.alloc(8 * 1024 ** 2, "x")]);
const ETAG = '"sha256:1"';

type Answer = (request: IncomingMessage, response: ServerResponse, count: number) => void | Promise<void>;

/** As the server answers: whole, or the range that was asked for. */
function honest(bytes: Buffer): Answer {
	return (request, response) => {
		if (request.headers.authorization !== `Bearer ${TOKEN}`) return void response.writeHead(401).end();
		const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
		const headers = { etag: ETAG, "content-length": bytes.length - from };
		if (from === 0) response.writeHead(200, headers);
		else response.writeHead(206, { ...headers, "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` });
		response.end(bytes.subarray(from));
	};
}

/** All is promised, and so many bytes are sent. */
async function part(response: ServerResponse, bytes: Buffer, count: number): Promise<void> {
	response.writeHead(200, { etag: ETAG, "content-length": bytes.length });
	await new Promise<void>((resolve) => response.write(bytes.subarray(0, count), () => resolve()));
}

async function site(t: Test, answer: Answer, port?: number): Promise<BuildSite> {
	const made = await BuildSite.open(containers.gateway, trusted, answer, port);
	t.teardown(() => made[Symbol.asyncDispose]());
	return made;
}

function refused(t: Test, ended: Ended, code: number, words: RegExp): void {
	t.equal(ended.code, code, ended.stderr);
	t.match(ended.last, /^runtime-loader: /);
	t.match(ended.last, words);
	t.notMatch(ended.stderr, TOKEN, "the credential is in no message");
	t.equal(ended.stdout, "", "the program was not started");
}

type Case = {
	readonly what: string;
	readonly code: number;
	readonly words: RegExp;
	readonly answer?: Answer;
	readonly bytes?: Buffer;
	readonly env?: Readonly<Record<string, string>>;
	readonly options?: RunOptions;
	readonly requests?: number;
};

const status =
	(code: number, headers: Record<string, string> = {}): Answer =>
	(_request, response) =>
		void response.writeHead(code, headers).end();

const CASES: readonly Case[] = [
	{
		what: "a credential that is refused",
		env: { RUNTIME_LOADER_TOKEN: "rbl_another" },
		code: 91,
		words: /refused the credential \(401\)/,
	},
	{ what: "a credential for something else", answer: status(403), code: 91, words: /\(403\)/ },
	{
		what: "a build that is not there",
		answer: status(404),
		code: 92,
		words: /does not have the build \(404\); update/,
	},
	{ what: "a build that has gone", answer: status(410), code: 92, words: /\(410\)/ },
	{
		what: "an altered build",
		answer: honest(Buffer.concat([build.subarray(0, -1), Buffer.from([1])])),
		env: { RUNTIME_LOADER_SHA256: "ab".repeat(32) },
		code: 93,
		words: /was altered: its sha256 is [0-9a-f]{64} and should be (ab){32}; build it again/,
	},
	{ what: "a shorter build", answer: honest(build.subarray(0, 5000)), code: 94, words: /has 5000 bytes of it/ },
	{
		what: "a truncated build",
		answer: (_request, response) => void response.write(build.subarray(0, 5000), () => response.end()),
		code: 94,
		words: /truncated: the server sent 5000 of its \d+ bytes/,
	},
	{
		what: "a build that always ends early",
		requests: 6,
		answer: async (request, response, count) => {
			if (count === 1) await part(response, build, 5000);
			else {
				const from = Number(/\d+/.exec(request.headers.range ?? "")?.[0]);
				response.writeHead(206, {
					"content-length": build.length - from,
					"content-range": `bytes ${from}-${build.length - 1}/${build.length}`,
				});
				await new Promise<void>((resolve) => response.write("", () => resolve()));
				response.flushHeaders();
			}
			response.socket?.end();
		},
		code: 94,
		words: /truncated: the server sends 5000 of its/,
	},
	{
		what: "a redirect",
		answer: status(307, { location: "https://192.0.2.1/builds/other/latest" }),
		code: 90,
		words: /redirect \(307\), which is not followed/,
	},
	{
		what: "a server without encryption",
		env: { RUNTIME_LOADER_URL: "http://192.0.2.1/builds/probe/latest?revision=1" },
		requests: 0,
		code: 90,
		words: /must be https/,
	},
	{
		what: "a configuration with a gap",
		env: { RUNTIME_LOADER_SIZE: "" },
		requests: 0,
		code: 90,
		words: /RUNTIME_LOADER_SIZE is not set/,
	},
	{
		what: "a server that stays busy",
		answer: status(503),
		env: { RUNTIME_LOADER_TIMEOUT: "1" },
		requests: -1,
		code: 95,
		words: /could not be loaded within 1s \(0 of \d+ bytes\): the server answered 503/,
	},
	{ what: "no program", bytes: Buffer.from("no program at all"), code: 96, words: /no program, or one for another/ },
	{
		what: "a script whose interpreter is not in the image",
		bytes: Buffer.from("#!/usr/bin/env -S node --enable-source-maps\n"),
		code: 96,
		words: /needs node, which this image does not have/,
	},
	{
		what: "a scratch that nothing can be executed in",
		options: { scratch: "rw,noexec,mode=0700,uid=65532,gid=65532" },
		code: 96,
		words: /without noexec/,
	},
	{
		what: "a scratch that is too small",
		options: { scratch: "rw,exec,mode=0700,uid=65532,gid=65532,size=64k" },
		code: 97,
		words: /\/run\/runtime is full/,
	},
	{
		what: "a scratch of somebody else",
		options: { scratch: "rw,exec,mode=0700,uid=1" },
		requests: 0,
		code: 90,
		words: /mount a tmpfs at/,
	},
	{ what: "root", options: { user: "0:0", scratch: "rw,exec" }, requests: 0, code: 90, words: /runs as root/ },
];

for (const { what, code, words, answer, bytes = build, env = {}, options = {}, requests = 1 } of CASES)
	t.test(`it refuses ${what}`, async (t) => {
		const from = await site(t, answer ?? honest(bytes));
		const ended = await containers.run({ ...options, env: { ...Containers.configuration(from, bytes), ...env } });
		refused(t, ended, code, words);
		if (requests >= 0) t.equal(from.seen.length, requests, "requests");
	});

t.test("it refuses a server whose certificate another authority signed, and tells it nothing", async (t) => {
	const from = await site(t, honest(build));
	const { ca } = certificates(containers.gateway);
	const env = { ...Containers.configuration(from, build), RUNTIME_LOADER_CA: ca, RUNTIME_LOADER_TIMEOUT: "1" };
	refused(t, await containers.run({ env }), 95, /is not trusted/);
	t.same(from.seen, []);
});

t.test("the program gets what is its own, and nothing of the loader's", async (t) => {
	const from = await site(t, honest(build));
	const env = {
		...Containers.configuration(from, build),
		GREETING: "a=b c",
		PORT: "4000",
		HTTPS_PROXY: "http://192.0.2.1:9",
	};
	const { code, stdout, stderr } = await containers.run({ env, args: ["report", "a b", ""] });
	t.equal(code, 0, stderr);
	t.equal(stderr, "", "it says nothing where all is well");
	const seen = JSON.parse(stdout);
	t.same(seen.args, ["/run/runtime/program", "report", "a b", ""]);
	const names = seen.environ.map((entry: string) => entry.split("=")[0]).sort();
	t.same(names, ["GREETING", "HOME", "HOSTNAME", "HTTPS_PROXY", "PATH", "PORT"]);
	t.ok(seen.environ.includes("GREETING=a=b c") && seen.environ.includes("HOME=/tmp"));
	t.notMatch(stdout, TOKEN, "the credential is in no environment and on no command line");
	t.same(
		Object.keys(seen.descriptors)
			.filter((name) => Number(name) < 3)
			.sort(),
		["0", "1", "2"],
	);
	// What Go's own runtime opens in the program, and the folder that it is listing.
	const other = Object.values(seen.descriptors).filter(
		(target) => !/^(pipe:|\/dev\/null|\/proc\/|\/sys\/fs\/cgroup\/|anon_inode:)/.test(String(target)),
	);
	t.same(other, [], "no file and no socket of the loader's is open");
	t.match(seen.initEnviron, /permission denied/);
	t.match(seen.initMemory, /permission denied/);
	t.equal(seen.folder, "/tmp");
	t.same([seen.user, seen.group, seen.mode], [65_532, 65_532, "500"]);
	t.match(seen.status, /CapEff:\s+0+\n/);
	t.match(seen.status, /NoNewPrivs:\s+1/);
	t.match(seen.status, /SigIgn:\s+0+\n/, "no signal is ignored");
	t.match(seen.status, /SigBlk:\s+0+\n/, "no signal is blocked");
	t.match(seen.root, /read-only/);
	t.equal(seen.tmp, "allowed");
	t.equal(from.seen[0]?.headers["runtime-namespace"], "tests");
	t.equal(from.seen.length, 1);
});

t.test("not even the host's view of the first process shows the credential", async (t) => {
	const from = await site(t, honest(build));
	const started = await containers.start({ env: Containers.configuration(from, build), args: ["wait"] });
	await started.says("ready");
	const { State } = await started.container.inspect();
	const environ = await readFile(`/proc/${State.Pid}/environ`, "latin1");
	t.notMatch(environ, TOKEN);
	const memory = /VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${State.Pid}/status`, "latin1"))?.[1];
	t.comment(`the init holds ${memory} kB`);
	t.ok(Number(memory) < 16_000, `${memory} kB`);
});

t.test("a download that was cut goes on where it ended", async (t) => {
	const rest = honest(large);
	const half = 5 * 1024 ** 2 + 17;
	const from = await site(t, async (request, response, count) => {
		if (count > 1) return rest(request, response, count);
		await part(response, large, half);
		response.socket?.end();
	});
	const { code, stderr } = await containers.run({ env: Containers.configuration(from, large), args: ["exit", "0"] });
	t.equal(code, 0, stderr);
	t.equal(from.seen.length, 2);
	t.equal(from.seen[1]?.headers.range, `bytes=${half}-`, "no byte is fetched twice");
	t.equal(from.seen[1]?.headers["if-range"], ETAG);
	t.equal(from.seen[1]?.status, 206);
	t.match(stderr, /the connection was cut; trying again/);
});

t.test("a server that knows no ranges sends it all again", async (t) => {
	const from = await site(t, async (_request, response, count) => {
		if (count > 1) return void response.writeHead(200, { "content-length": large.length }).end(large);
		await part(response, large, 1024 ** 2);
		response.socket?.end();
	});
	const { code, stderr } = await containers.run({ env: Containers.configuration(from, large), args: ["exit", "0"] });
	t.equal(code, 0, stderr);
	t.equal(from.seen.length, 2);
});

t.test("a connection without bytes is given up", async (t) => {
	const rest = honest(large);
	const from = await site(t, async (request, response, count) => {
		if (count > 1) return rest(request, response, count);
		await part(response, large, 1024 ** 2);
	});
	const env = { ...Containers.configuration(from, large), RUNTIME_LOADER_TIMEOUT: "6" };
	const { code, stderr } = await containers.run({ env, args: ["exit", "0"] });
	t.equal(code, 0, stderr);
	t.match(stderr, /the server sent nothing for 2s; trying again/);
	t.match(from.seen[1]?.headers.range, /^bytes=\d+-$/);
});

t.test("a slow server is waited for, longer than one that says nothing", async (t) => {
	const from = await site(t, async (_request, response) => {
		response.writeHead(200, { etag: ETAG, "content-length": build.length });
		for (let piece = 0; piece < 20; piece++) {
			const at = (count: number) => Math.floor((build.length * count) / 20);
			response.write(build.subarray(at(piece), at(piece + 1)));
			await delay(150);
		}
		response.end();
	});
	const env = { ...Containers.configuration(from, build), RUNTIME_LOADER_TIMEOUT: "2" };
	const { code, stderr } = await containers.run({ env, args: ["exit", "3"] });
	t.equal(code, 3, stderr);
	t.equal(from.seen.length, 1);
});

t.test("a server that is away at first is waited for", async (t) => {
	const gone = await BuildSite.open(containers.gateway, trusted, () => undefined);
	const { port } = gone;
	await gone[Symbol.asyncDispose]();
	const from = await site(t, honest(build), port);
	const started = await containers.start({ env: Containers.configuration(from, build), args: ["exit", "4"] });
	await started.says("cannot be reached (connect: connection refused); trying again");
	await from.listen();
	t.equal((await started.ended()).code, 4);
	t.equal(from.seen.length, 1);
});

t.test("a server that restarts in the middle is waited for", async (t) => {
	const rest = honest(large);
	const from = await site(t, async (request, response, count) => {
		if (count === 1) {
			await part(response, large, 3 * 1024 ** 2);
			response.socket?.end();
		} else if (count < 4) response.writeHead(503, { "retry-after": "1" }).end();
		else await rest(request, response, count);
	});
	const { code, stderr } = await containers.run({ env: Containers.configuration(from, large), args: ["exit", "0"] });
	t.equal(code, 0, stderr);
	t.equal(from.seen[3]?.headers.range, `bytes=${3 * 1024 ** 2}-`);
});

t.test("SIGTERM ends it while it loads", async (t) => {
	const from = await site(t, (_request, response) => part(response, large, 1024));
	const started = await containers.start({ env: Containers.configuration(from, large) });
	await until("a request", () => from.seen.length > 0);
	const began = performance.now();
	await started.container.kill({ signal: "SIGTERM" });
	const { code, stdout } = await started.ended();
	t.equal(code, 128 + 15);
	t.equal(stdout, "");
	t.ok(performance.now() - began < 5000, "at once");
});

t.test("signals reach the program, and its exit code comes out", async (t) => {
	const from = await site(t, honest(build));
	const env = Containers.configuration(from, build);
	const started = await containers.start({ env, args: ["catch"] });
	await started.says("ready");
	await started.container.kill({ signal: "SIGUSR1" });
	await started.says("user defined signal 1");
	await started.container.kill({ signal: "SIGHUP" });
	await started.says("hangup");
	await started.container.kill({ signal: "SIGTERM" });
	t.equal((await started.ended()).code, 7);
	const plain = await containers.start({ env, args: ["wait"] });
	await plain.says("ready");
	await plain.container.kill({ signal: "SIGTERM" });
	t.equal((await plain.ended()).code, 143, "a program without a handler ends too");
	for (const signal of [9, 2])
		t.equal((await containers.run({ env, args: ["signal", String(signal)] })).code, 128 + signal);
});

t.test("orphans are reaped", async (t) => {
	const from = await site(t, honest(build));
	const { code, stdout } = await containers.run({ env: Containers.configuration(from, build), args: ["orphan"] });
	t.equal(stdout, "all reaped\n");
	t.equal(code, 0);
});

t.test("a container that is started again loads again", async (t) => {
	const from = await site(t, honest(build));
	const started = await containers.start({ env: Containers.configuration(from, build), args: ["exit", "5"] });
	t.equal((await started.ended()).code, 5);
	await started.container.start();
	t.equal((await started.ended()).code, 5);
	t.equal(from.seen.length, 2);
});
