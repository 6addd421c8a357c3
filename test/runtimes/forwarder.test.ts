import { fork } from "node:child_process";
import { once } from "node:events";
import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, createServer as createTcp, type Socket, type Server as TcpServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import t, { type Test } from "tap";
import { Forwarder, type Upstream } from "../../src/runtimes/forwarder/forwarder.ts";

const HOST = "127.0.0.1";
const never = new AbortController().signal;

async function started(test: Test, server: Server | TcpServer): Promise<number> {
	const sockets = new Set<Socket>();
	server.on("connection", (socket: Socket) => {
		sockets.add(socket);
		socket.on("error", () => socket.destroy());
		socket.on("close", () => sockets.delete(socket));
	});
	server.listen(0, HOST);
	await once(server, "listening");
	test.teardown(() => {
		for (const socket of sockets) socket.destroy();
		server.close();
	});
	const address = server.address() as AddressInfo;
	return address.port;
}

/** An HTTP upstream. */
async function program(
	test: Test,
	id: string,
	handler: (req: IncomingMessage, res: ServerResponse) => void,
): Promise<Upstream & { readonly server: Server }> {
	const server = createServer(handler);
	return { id, host: HOST, port: await started(test, server), server };
}

async function tcpProgram(test: Test, id: string, handler: (socket: Socket) => void): Promise<Upstream> {
	return { id, host: HOST, port: await started(test, createTcp({ allowHalfOpen: true }, handler)) };
}

async function forwarder(test: Test, upstreams: readonly Upstream[] = []): Promise<Forwarder> {
	const made = await Forwarder.listen({ host: HOST, port: 0 });
	test.teardown(() => made[Symbol.asyncDispose]());
	made.route(upstreams);
	return made;
}

type Answer = { status: number; raw: string[]; headers: IncomingMessage["headers"]; body: string; trailers: string[] };

async function call(
	port: number,
	options: { method?: string; path?: string; headers?: string[]; body?: string; agent?: Agent } = {},
): Promise<Answer> {
	const req = request({
		host: HOST,
		port,
		method: options.method ?? "GET",
		path: options.path ?? "/",
		headers: ["Host", "a.example", ...(options.headers ?? [])],
		agent: options.agent ?? false,
	});
	req.end(options.body);
	const [res] = (await once(req, "response")) as [IncomingMessage];
	let body = "";
	for await (const chunk of res.setEncoding("utf8")) body += chunk;
	return { status: res.statusCode ?? 0, raw: res.rawHeaders, headers: res.headers, body, trailers: res.rawTrailers };
}

async function until(condition: () => boolean, what: string): Promise<void> {
	const limit = performance.now() + 20_000;
	while (!condition()) {
		if (performance.now() > limit) throw new Error(`not seen in time: ${what}`);
		await delay(5);
	}
}

/** Writes to a raw connection and gives all that comes back until it ends, or until `enough`. */
async function raw(port: number, text: string, enough: (got: string) => boolean = () => false): Promise<string> {
	const socket = connect({ host: HOST, port, allowHalfOpen: true });
	socket.on("error", () => socket.destroy());
	if (text !== "") socket.write(text, "latin1");
	let got = "";
	for await (const chunk of socket) {
		got += (chunk as Buffer).toString("latin1");
		if (enough(got)) break;
	}
	socket.destroy();
	return got;
}

const listens: (req: IncomingMessage, res: ServerResponse) => void = (req, res) => {
	let body = "";
	req.on("data", (chunk) => {
		body += chunk;
	});
	req.on("end", () =>
		res.end(JSON.stringify({ method: req.method, url: req.url, raw: req.rawHeaders, body, trailers: req.rawTrailers })),
	);
};

t.test("an address that is taken is the system's error", async (t) => {
	const first = await forwarder(t);
	await t.rejects(Forwarder.listen({ host: HOST, port: first.port }), { code: "EADDRINUSE" });
});

t.test("no route: 503 with Retry-After for HTTP, and TCP is closed", async (t) => {
	const f = await forwarder(t);
	const answer = await call(f.port);
	t.equal(answer.status, 503);
	t.equal(answer.headers["retry-after"], "1");
	t.equal(answer.body.split("\n").length, 2);
	t.equal(await raw(f.port, "\x16\x03\x01\x00\x00"), "");
	f.route([{ id: "gone", host: HOST, port: 1 }]);
	const before = performance.now();
	t.equal((await call(f.port, { method: "POST", body: "x" })).status, 503);
	t.ok(performance.now() - before >= 400, "a refused connection is tried for a while");
});

t.test("head and body pass as they are, and the forwarding headers are added", async (t) => {
	const up = await program(t, "a", listens);
	const f = await forwarder(t, [up]);
	const headers = [
		"X-CaSe",
		"1",
		"x-case",
		"2",
		"Connection",
		"keep-alive, X-Mine",
		"X-Mine",
		"secret",
		"TE",
		"gzip, trailers",
	];
	const answer = await call(f.port, {
		method: "PUT",
		path: "/a%20b?c=%2F&d",
		headers: [...headers, "X-Forwarded-For", "10.0.0.9", "Content-Length", "4"],
		body: "body",
	});
	const seen = JSON.parse(answer.body);
	t.match(seen, { method: "PUT", url: "/a%20b?c=%2F&d", body: "body" });
	const pairs = seen.raw.join("|");
	t.ok(pairs.includes("X-CaSe|1|x-case|2"), "case, order and duplicates");
	t.ok(pairs.includes("TE|trailers"));
	t.ok(pairs.includes("Content-Length|4"));
	t.notOk(/transfer-encoding/i.test(pairs), "its framing is kept");
	t.notOk(pairs.includes("secret"), "what Connection names is left out");
	t.ok(pairs.includes("X-Forwarded-For|10.0.0.9, 127.0.0.1"));
	t.ok(pairs.includes("X-Forwarded-Proto|http"));
	t.ok(pairs.includes("X-Forwarded-Host|a.example"));
	t.ok(pairs.includes("Host|a.example"));
	t.match(JSON.parse((await call(f.port, { method: "POST" })).body), { body: "" });
});

t.test("answers keep framing, case, duplicates, trailers and status text; HEAD has no body", async (t) => {
	const up = await program(t, "a", (req, res) => {
		if (req.url === "/chunked") {
			res.writeHead(207, "Many", ["X-A", "1", "X-A", "2", "Trailer", "X-End", "Set-Cookie", "a", "Set-Cookie", "b"]);
			res.write("one");
			res.addTrailers([["X-End", "yes"]]);
			res.end("two");
		} else if (req.url === "/304") res.writeHead(304, { etag: '"x"' }).end();
		else res.writeHead(200, { "content-length": "5" }).end("hello");
	});
	const f = await forwarder(t, [up]);
	const chunked = await raw(
		f.port,
		"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n",
		(got) => got.endsWith("\r\n\r\n") && got.includes("X-End: yes"),
	);
	t.match(chunked, /^HTTP\/1\.1 207 Many\r\nX-A: 1\r\nX-A: 2\r\n/);
	t.match(chunked, /Set-Cookie: a\r\nSet-Cookie: b\r\n/);
	t.match(chunked, /Transfer-Encoding: chunked/i);
	t.match(chunked, /\r\n0\r\nX-End: yes\r\n\r\n$/);
	const head = await call(f.port, { method: "HEAD" });
	t.match(head, { status: 200, body: "", headers: { "content-length": "5" } });
	t.equal((await call(f.port, { path: "/304" })).status, 304);
	const old = await raw(f.port, "GET /chunked HTTP/1.0\r\n\r\n");
	t.match(old, /\r\n\r\nonetwo$/, "no chunks for HTTP/1.0");
	t.notMatch(old, /transfer-encoding/i);
	const two = await raw(
		f.port,
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	);
	t.equal(two.split("hello").length, 3, "pipelined requests are answered in turn");
});

t.test("request trailers, 100-continue and early hints pass", async (t) => {
	const up = await program(t, "a", listens);
	up.server.on("checkContinue", (req, res) => {
		if (req.url === "/no") return void res.writeHead(413).end();
		res.writeEarlyHints({ link: "</a.css>; rel=preload", "x-hint": "1" });
		res.writeContinue();
		listens(req, res);
	});
	const f = await forwarder(t, [up]);
	const trailers = await raw(
		f.port,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
	);
	t.match(trailers, /"body":"abc","trailers":\["X-T","1"\]/);
	const socket = connect({ host: HOST, port: f.port });
	socket.write("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
	let got = "";
	let sent = false;
	for await (const chunk of socket) {
		got += chunk;
		if (!sent && got.includes("100 Continue\r\n\r\n")) {
			sent = true;
			socket.write("ok");
		}
	}
	t.match(
		got,
		/^HTTP\/1\.1 103 Early Hints\r\n[\s\S]*x-hint: 1[\s\S]*HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK/i,
	);
	t.match(got, /"body":"ok"/);
	const refused = await raw(
		f.port,
		"POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	);
	t.match(refused, /^HTTP\/1\.1 413 [\s\S]*Connection: close/, "a body that may or may not come is not waited for");
});

t.test("a head without a body yet is passed on at once, and streams flow both ways", async (t) => {
	const up = await program(t, "a", (req, res) => {
		res.writeHead(200, { "content-type": "text/event-stream" });
		res.flushHeaders();
		req.pipe(res);
	});
	const f = await forwarder(t, [up]);
	const req = request({ host: HOST, port: f.port, method: "POST" });
	req.flushHeaders();
	const [res] = (await once(req, "response")) as [IncomingMessage];
	for (const word of ["one", "two"]) {
		req.write(word);
		const [chunk] = (await once(res, "data")) as [Buffer];
		t.equal(chunk.toString(), word);
	}
	req.end();
	await once(res, "end");
});

t.test("a keep-alive connection moves to the new upstream, and the old one drains", async (t) => {
	let idle = 0;
	const held: ServerResponse[] = [];
	const a = await program(t, "a", (req, res) => {
		if (req.url !== "/slow") return void res.end("a");
		res.write("begin ");
		held.push(res);
	});
	a.server.on("connection", (socket) => {
		idle++;
		socket.on("close", () => idle--);
	});
	const b = await program(t, "b", (_req, res) => void res.end("b"));
	const f = await forwarder(t, [a]);
	const agent = new Agent({ keepAlive: true, maxSockets: 1 });
	t.teardown(() => agent.destroy());
	const slow = call(f.port, { path: "/slow" });
	await until(() => held.length === 1, "the slow request");
	t.equal((await call(f.port, { agent })).body, "a");
	t.equal(idle, 2, "one in use, one kept");
	f.route([b]);
	t.equal((await call(f.port, { agent })).body, "b");
	const drained = f.drain("a", { timeoutMs: 60_000, signal: never });
	await until(() => idle === 1, "idle connections closed");
	t.equal(f.stats().inFlight, 1);
	t.equal((await call(f.port, { agent })).body, "b");
	held[0]?.end("end");
	t.equal((await slow).body, "begin end");
	t.same(await drained, { cut: 0 });
	await until(() => idle === 0, "no connection to the old one");
	t.match(f.stats(), { requests: 4, inFlight: 0 });
	t.same(await f.drain("unknown", { timeoutMs: 0, signal: never }), { cut: 0 });
});

t.test("drain cuts what is left after its time, and nothing when aborted", async (t) => {
	const a = await program(t, "a", (req, res) => void (req.url === "/begun" && res.write("x")));
	const f = await forwarder(t, [a]);
	const waiting = call(f.port);
	const begun = t.rejects(call(f.port, { path: "/begun" }));
	await until(() => f.stats().inFlight === 2, "two in flight");
	f.route([]);
	const abort = new AbortController();
	const aborted = f.drain("a", { timeoutMs: 60_000, signal: abort.signal });
	abort.abort();
	await t.rejects(aborted, { code: "cancelled" });
	t.equal(f.stats().inFlight, 2);
	t.same(await f.drain("a", { timeoutMs: 30, signal: never }), { cut: 2 });
	t.equal((await waiting).status, 502);
	await begun;
	await until(() => f.stats().inFlight === 0, "none in flight");
});

t.test("not one failed request over switches, with programs that end at once when drained", async (t) => {
	const f = await forwarder(t);
	const start = async (n: number) => {
		const up = await program(t, `r${n}`, (req, res) => {
			req.resume();
			req.on("end", () => setTimeout(() => res.end(String(n)), n % 3));
		});
		return up;
	};
	let current = await start(0);
	f.route([current]);
	let stop = false;
	let done = 0;
	const failures: unknown[] = [];
	const client = async (keepAlive: boolean, method: string) => {
		const agent = new Agent({ keepAlive, maxSockets: 1 });
		while (!stop) {
			try {
				const options = method === "POST" ? { method, body: "data", agent } : { method, agent };
				const { status } = await call(f.port, options);
				if (status !== 200) failures.push(status);
				done++;
			} catch (error) {
				failures.push(error);
			}
		}
		agent.destroy();
	};
	const clients = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => client(i < 4, i % 2 === 0 ? "GET" : "POST"));
	for (let n = 1; n <= 10; n++) {
		const seen = done;
		await until(() => done > seen + 40, "load");
		const next = await start(n);
		f.route([next]);
		t.same(await f.drain(current.id, { timeoutMs: 20_000, signal: never }), { cut: 0 });
		current.server.closeAllConnections();
		current.server.close();
		current = next;
	}
	stop = true;
	await Promise.all(clients);
	t.same(failures, []);
	t.comment(`${done} requests over 10 switches`);
});

t.test("an idle pooled connection that was closed under us is made good", async (t) => {
	// Every connection answers once and then is reset at the next request without a byte.
	let resets = 0;
	const up = await tcpProgram(t, "a", (socket) => {
		let first = true;
		socket.on("data", () => {
			if (first) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
			else {
				resets++;
				socket.resetAndDestroy();
			}
			first = false;
		});
	});
	const f = await forwarder(t, [up]);
	for (let i = 0; i < 6; i++) t.equal((await call(f.port)).body, "ok");
	t.ok(resets > 0, "connections were reused");
	const before = resets;
	t.equal((await call(f.port, { method: "POST", body: "x" })).status, 200);
	t.equal((await call(f.port, { method: "DELETE", body: "x", headers: ["Content-Length", "1"] })).status, 200);
	t.equal(resets, before, "what cannot be repeated never takes a used connection");
});

t.test("refused upstreams are passed over, and one that comes up in time is used", async (t) => {
	const up = await program(t, "a", (_req, res) => void res.end("a"));
	const spare = createTcp();
	const port = await started(t, spare);
	await new Promise((done) => spare.close(done));
	const f = await forwarder(t, [{ id: "dead", host: HOST, port }, up]);
	for (let i = 0; i < 4; i++) t.equal((await call(f.port)).body, "a");
	t.equal((await call(f.port, { method: "POST", body: "x" })).body, "a");
	f.route([{ id: "dead", host: HOST, port }]);
	const early = call(f.port, { method: "POST", body: "x" });
	setTimeout(() => f.route([up]), 50);
	t.equal((await early).body, "a");
});

t.test("a crash before the answer is 502, one within it breaks the answer off", async (t) => {
	const up = await program(t, "a", (req, res) => {
		if (req.url === "/begun") {
			res.writeHead(200, { "content-length": 100 });
			res.write("begun");
			setTimeout(() => req.socket.destroy(), 20);
		} else req.socket.destroy();
	});
	const f = await forwarder(t, [up]);
	const answer = await call(f.port);
	t.equal(answer.status, 502);
	t.equal(answer.headers["retry-after"], "1");
	await t.rejects(call(f.port, { path: "/begun" }), { code: "ECONNRESET" });
	await until(() => f.stats().inFlight === 0, "none in flight");
});

t.test("a client that goes away ends its request at the upstream", async (t) => {
	let gone = 0;
	const up = await program(t, "a", (req, res) => {
		if (req.url === "/begun") res.write("x");
		res.on("close", () => gone++);
	});
	const f = await forwarder(t, [up]);
	for (const path of ["/", "/begun"]) {
		const req = request({ host: HOST, port: f.port, path });
		req.on("error", () => req.destroy());
		req.end();
		await until(() => f.stats().inFlight === 1, "in flight");
		const seen = gone;
		req.destroy();
		await until(() => gone === seen + 1, "the upstream sees it");
		await until(() => f.stats().inFlight === 0, "released");
	}
});

t.test("an answer may take longer than idle connections are kept, and an early one ends an upload", async (t) => {
	const up = await program(t, "a", (req, res) => {
		if (req.method === "POST") res.writeHead(413, { connection: "close" }).end("too much");
		else if (req.url === "/slow") {
			setTimeout(() => res.write("x"), 4_500);
			setTimeout(() => res.end("y"), 9_000);
		} else res.end("z");
	});
	const f = await forwarder(t, [up]);
	t.equal((await call(f.port)).body, "z");
	const slow = call(f.port, { path: "/slow" });
	const agent = new Agent({ keepAlive: true, maxSockets: 1 });
	t.teardown(() => agent.destroy());
	const big = await call(f.port, { method: "POST", body: "x".repeat(20_000_000), agent });
	t.equal(big.status, 413);
	t.equal((await call(f.port, { agent })).body, "z", "the connection goes on");
	t.equal((await slow).body, "xy");
	t.equal(f.stats().inFlight, 0);
});

t.test("an upgrade nobody asked for is an error, and no crash", async (t) => {
	const up = await tcpProgram(t, "a", (socket) => {
		socket.on("data", () =>
			socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
		);
	});
	const f = await forwarder(t, [up]);
	t.equal((await call(f.port)).status, 502);
	await until(() => f.stats().inFlight === 0, "released");
	const broken = await tcpProgram(t, "b", (socket) => {
		socket.on("data", () => socket.end("what is this"));
	});
	f.route([broken]);
	t.equal((await call(f.port)).status, 502);
});

t.test("upgrades are tunnelled, refused upgrades and h2c are plain requests", async (t) => {
	const up = await program(t, "a", listens);
	up.server.on("upgrade", (req, socket, head) => {
		if (req.url !== "/ws") return void socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
		socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-P: 1\r\n\r\n");
		socket.write(head);
		socket.pipe(socket);
	});
	const f = await forwarder(t, [up]);
	const ask = (path: string, protocol: string, more = "") =>
		`GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n${more}`;
	const socket = connect({ host: HOST, port: f.port });
	socket.write(ask("/ws", "websocket", "early "));
	let got = "";
	socket.on("data", (chunk) => {
		got += chunk;
	});
	await until(() => got.endsWith("early "), "the early bytes");
	t.match(got, /^HTTP\/1\.1 101 Switching Protocols\r\n[\s\S]*Upgrade: websocket\r\nX-P: 1/i);
	socket.write("late");
	await until(() => got.endsWith("early late"), "the echo");
	t.equal(f.stats().inFlight, 1);
	t.same(await f.drain("a", { timeoutMs: 20, signal: never }), { cut: 1 });
	await once(socket, "close");
	await until(() => f.stats().inFlight === 0, "released");
	t.match(await raw(f.port, ask("/no", "websocket")), /^HTTP\/1\.1 403 [\s\S]*no$/);
	up.server.removeAllListeners("upgrade");
	const plain = await raw(
		f.port,
		"POST /h HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	);
	t.match(plain, /"url":"\/h"[\s\S]*"body":"abc"[\s\S]*"url":"\/next"/);
	f.route([]);
	t.match(await raw(f.port, ask("/ws", "websocket")), /^HTTP\/1\.1 503 /);
});

t.test("other protocols pass as TCP, with each side's end kept", async (t) => {
	const up = await tcpProgram(t, "a", (socket) => {
		let got = "";
		socket.on("data", (chunk) => {
			got += chunk.toString("latin1");
		});
		socket.on("end", () => socket.end(`got ${got}`));
	});
	const f = await forwarder(t, [up]);
	for (const bytes of ["\x16\x03\x01\x02", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PING\r\n", "GET key\r\n", "*1\r\n"]) {
		const socket = connect({ host: HOST, port: f.port, allowHalfOpen: true });
		socket.end(bytes, "latin1");
		let got = "";
		for await (const chunk of socket) got += chunk.toString("latin1");
		t.equal(got, `got ${bytes}`);
	}
	await until(() => f.stats().inFlight === 0, "released");
});

t.test("a server that speaks first is heard; a silent connection belongs to nobody", async (t) => {
	const greeter = (word: string) =>
		tcpProgram(t, word, (socket) => {
			socket.write(`${word}\n`);
			socket.on("data", (chunk) => socket.end(chunk));
		});
	const f = await forwarder(t, [await greeter("hello")]);
	const socket = connect({ host: HOST, port: f.port });
	const [greeting] = (await once(socket, "data")) as [Buffer];
	t.equal(greeting.toString(), "hello\n");
	socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	const [echo] = (await once(socket, "data")) as [Buffer];
	t.match(echo.toString(), /^GET/, "it is a tunnel by now");
	socket.destroy();

	let connections = 0;
	const a = await program(t, "a", (_req, res) => void res.end("a"));
	a.server.on("connection", () => connections++);
	const b = await program(t, "b", (_req, res) => void res.end("b"));
	b.server.on("connection", () => connections++);
	f.route([a]);
	const preconnected = connect({ host: HOST, port: f.port });
	await until(() => connections === 1, "the first probe");
	t.equal(f.stats().inFlight, 0, "a probe is nobody's use");
	f.route([b]);
	t.same(await f.drain("a", { timeoutMs: 10_000, signal: never }), { cut: 0 });
	await until(() => connections === 2, "the second probe");
	preconnected.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	const [answer] = (await once(preconnected, "data")) as [Buffer];
	t.match(answer.toString(), /\r\n\r\nb$/);
	preconnected.destroy();

	f.route([]);
	const waiting = connect({ host: HOST, port: f.port });
	await once(waiting, "connect");
	f.route([await greeter("late")]);
	const [late] = (await once(waiting, "data")) as [Buffer];
	t.equal(late.toString(), "late\n");
	waiting.destroy();
});

t.test("a head in pieces is HTTP, and one that is too large is refused", async (t) => {
	const up = await program(t, "a", listens);
	const f = await forwarder(t, [up]);
	const socket = connect({ host: HOST, port: f.port, noDelay: true });
	for (const piece of [
		"P",
		"OST /pieces HT",
		"TP/1.1\r",
		"\nHost: a\r\nConnection: close\r\nContent-",
		"Length: 2\r\n\r\nh",
		"i",
	]) {
		socket.write(piece);
		await delay(10);
	}
	let got = "";
	for await (const chunk of socket) got += chunk;
	t.match(got, /"url":"\/pieces"[\s\S]*"body":"hi"/);
	t.match(await raw(f.port, `GET / HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(20_000)}\r\n\r\n`), /^HTTP\/1\.1 431 /);
});

t.test("1 GB passes down and up with flat memory", async (t) => {
	const piece = Buffer.alloc(1 << 16, 1);
	const up = await program(t, "a", (req, res) => {
		if (req.method === "POST") {
			let size = 0;
			req.on("data", (chunk) => {
				size += chunk.length;
			});
			req.on("end", () => res.end(String(size)));
			return;
		}
		let left = Number(req.url?.slice(1));
		const more = () => {
			while (left > 0) {
				left -= piece.length;
				if (!res.write(piece)) return void res.once("drain", more);
			}
			res.end();
		};
		more();
	});
	const script = `import { Forwarder } from ${JSON.stringify(new URL("../../src/runtimes/forwarder/forwarder.ts", import.meta.url).href)};
		const f = await Forwarder.listen({ host: "127.0.0.1", port: 0 });
		f.route([{ id: "a", host: "127.0.0.1", port: ${up.port} }]);
		let peak = 0;
		setInterval(() => { peak = Math.max(peak, process.memoryUsage.rss()) }, 20);
		process.on("message", () => process.send({ peak }));
		process.on("disconnect", () => process.exit(0));
		process.send({ port: f.port, peak: process.memoryUsage.rss() });`;
	const child = fork("-", [], {
		execArgv: ["--input-type=module", "-e", script],
		stdio: ["ignore", "inherit", "inherit", "ipc"],
	});
	t.teardown(() => child.kill());
	const [f] = (await once(child, "message")) as [{ port: number; peak: number }];
	const both = async (bytes: number) => {
		const req = request({ host: HOST, port: f.port, path: `/${bytes}` });
		req.end();
		const [res] = (await once(req, "response")) as [IncomingMessage];
		let size = 0;
		for await (const chunk of res) size += chunk.length;
		t.equal(size, bytes);
		const post = request({ host: HOST, port: f.port, method: "POST" });
		const answered = once(post, "response") as Promise<[IncomingMessage]>;
		for (let left = bytes; left > 0; left -= piece.length) if (!post.write(piece)) await once(post, "drain");
		post.end();
		const [answer] = await answered;
		let text = "";
		for await (const chunk of answer) text += chunk;
		t.equal(text, String(bytes));
		child.send("peak");
		const [{ peak }] = (await once(child, "message")) as [{ peak: number }];
		return peak;
	};
	const started = performance.now();
	const warm = await both(1 << 28);
	const peak = await both(1 << 30);
	const mb = (bytes: number) => Math.round(bytes / 1e6);
	t.comment(
		`2.5 GB in ${Math.round(performance.now() - started)} ms; memory ${mb(f.peak)} MB, after 0.5 GB ${mb(warm)} MB, then ${mb(peak)} MB`,
	);
	t.ok(peak - warm < 32e6, "the 2 GB after it need no more");
	t.ok(peak - f.peak < 160e6);
});
