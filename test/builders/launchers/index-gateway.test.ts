import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import t, { type Test } from "tap";
import { IndexGateway } from "../../../src/builders/python/index-gateway.ts";

const PAGE = { "content-type": "text/html" };

async function gatewayOf(t: Test, answer: RequestListener, idleMs = 60_000, user = "me:100%25%40%") {
	const index: Server = createServer(answer);
	index.listen(0, "127.0.0.1");
	await once(index, "listening");
	const { port } = index.address() as AddressInfo;
	const pages = [new URL(`http://${user}@127.0.0.1:${port}/team/simple`)];
	const gateway = await IndexGateway.open({ pages, env: {}, ca: undefined, trusted: [], idleMs });
	let closed = false;
	const close = async () => {
		if (!closed) await gateway[Symbol.asyncDispose]();
		closed = true;
	};
	t.teardown(async () => {
		await close();
		index.closeAllConnections();
		index.close();
	});
	const base = gateway.urlOf(0).replace(/\/team\/simple$/, "");
	return { base, port, close, get: (path: string) => get(base + path), origin: `http://127.0.0.1:${port}` };
}

/** The path goes as it is written, which `fetch` would not do. */
async function get(url: string): Promise<IncomingMessage> {
	const { hostname, port } = new URL(url);
	const path = url.slice(url.indexOf("/", "http://".length));
	const outgoing = request({ hostname, port, path, agent: false }).end();
	const [answer] = await once(outgoing, "response");
	return answer;
}

t.test("an index that breaks off or falls silent in an answer costs that answer alone", async (t) => {
	for (const type of ["text/html", "application/octet-stream"]) {
		const { get } = await gatewayOf(
			t,
			(request, response) => {
				response.writeHead(200, { "content-type": type, "content-length": "1000000" }).write("<p>");
				if (request.url?.endsWith("/reset")) setTimeout(() => response.socket?.resetAndDestroy(), 50);
			},
			500,
		);
		for (const path of ["/team/simple/reset", "/team/simple/silent"])
			await t.rejects(
				get(path).then((answer) => text(answer)),
				{ code: "ECONNRESET" },
				`${type} ${path}`,
			);
	}
});

t.test("a page of openings is gone through once", { timeout: 30_000 }, async (t) => {
	const hostile = [
		"<a ".repeat(300_000),
		"<base ".repeat(200_000),
		`<a${" ".repeat(1_000_000)}`,
		"<a href=' ".repeat(99_999),
	];
	const { get } = await gatewayOf(t, (request, response) => {
		response.writeHead(200, PAGE).end(hostile[Number(request.url?.split("/").at(-1))]);
	});
	for (const [index, page] of hostile.entries())
		t.ok((await text(await get(`/team/simple/${index}`))).length >= page.length, page.slice(0, 9));
});

t.test("links lead through the gateway, however they are written and however they arrive", async (t) => {
	const page = [
		`<base href="/files/"><a data-x="ü" href="a-1.tar.gz#sha256=1">`,
		`<A class=x HREF = 'b-1.tar.gz?x=1&amp;y=2'>`,
		`<a href=../c-1.tar.gz>`,
		`<a href="http://other.example/d-1.tar.gz">`,
	].join("\n");
	const { get, base } = await gatewayOf(t, async (request, response) => {
		if (request.url !== "/team/simple/all/") return void response.end(request.headers.authorization);
		response.writeHead(200, PAGE);
		for (const byte of Buffer.from(page)) response.write(Buffer.from([byte]));
		response.end();
	});
	t.equal((await get("/files/a-1.tar.gz")).statusCode, 403, "which no page has led to");
	t.equal(
		await text(await get("/team/simple/all/")),
		[
			`<base href=""><a data-x="ü" href="${base}/files/a-1.tar.gz#sha256=1">`,
			`<A class=x HREF = "${base}/files/b-1.tar.gz?x=1&amp;y=2">`,
			`<a href="${base}/c-1.tar.gz">`,
			`<a href="http://other.example/d-1.tar.gz">`,
		].join("\n"),
	);
	const pair = `Basic ${Buffer.from("me:100%@%").toString("base64")}`;
	for (const path of ["/files/a-1.tar.gz", "/files/b-1.tar.gz?x=1&y=2", "/c-1.tar.gz.metadata"])
		t.equal(await text(await get(path)), pair, path);
});

t.test("no spelling leads out of the index", async (t) => {
	const asked: string[] = [];
	const { get } = await gatewayOf(t, (request, response) => {
		asked.push(request.url ?? "");
		response.end("secret");
	});
	for (const path of [
		...["/team/simple/../../admin", "/team/simple/%2e%2e/admin", "/team/simple\\..\\..\\admin", "/team/simplest/"],
		...["/team/simple/..;/admin", "/team/simple/..%3b/admin", "/team/simple/%252e%252e/admin", "/team/simple/..%255cx"],
		...["/team/simple//admin", "/team/simple/x?next=/admin", "/team/simple/..%2fadmin", "//127.0.0.1:1/team/simple/"],
	])
		t.equal((await get(path)).statusCode, 403, path);
	t.strictSame(asked, []);
});

t.test("a page past the limit is refused, and one that goes on for ever ends with the gateway", async (t) => {
	const gone = Promise.withResolvers<void>();
	const { get, close } = await gatewayOf(t, (request, response) => {
		if (request.url?.endsWith("/large"))
			return void response.writeHead(200, { ...PAGE, "content-length": 2 ** 30 }).write("x");
		response.writeHead(200, PAGE).write("<p>");
		response.once("close", () => gone.resolve());
	});
	const large = await get("/team/simple/large");
	t.equal(large.statusCode, 502);
	t.match(await text(large), /has more than \d+ bytes/);
	const endless = await get("/team/simple/endless");
	endless.on("error", () => undefined);
	await close();
	await gone.promise;
});
