import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
	createServer,
	request as httpRequest,
	type IncomingMessage,
	type Server,
	type ServerResponse,
} from "node:http";
import { type AddressInfo, isIP, type Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { connect as connectTls } from "node:tls";
import { messageOf } from "../../errors.ts";
import { Turns } from "../../turns.ts";
import { bare, dial } from "../sandbox/upstream.ts";

export type GatewayOptions = {
	/** Pages that list packages, with the operator's credentials in them. */
	readonly pages: readonly URL[];
	/** The server's environment: it may itself have to go through a proxy. */
	readonly env: Readonly<Record<string, string | undefined>>;
	/** Certificates to trust in place of Node's own, PEM. */
	readonly ca: string | undefined;
	/** Hosts, or hosts with a port, whose certificate is not looked at. */
	readonly trusted: readonly string[];
	/** How long an index may be silent. Two minutes by default. */
	readonly idleMs?: number;
};

const MAX_PAGE = 32 * 1024 ** 2;
const TOO_LARGE = `a page of the index has more than ${MAX_PAGE} bytes`;
const MAX_LINKS = 500_000;
const IDLE_MS = 120_000;
/** Characters of a page that are kept together. */
const MAX_TAG = 64 * 1024;
/** What is in a tag ends before the next one begins: else a page of openings takes time by its square. */
const HREF = /(<(a|base)\b[^<>]*?\shref\s*=\s*)(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))/gi;

/**
 * Asks package indexes with the operator's credentials in pip's place. pip runs what it installs (setup.py) beside itself, so
 * that what pip knows is known to a stranger. It answers what is below the index's own address, and what pages there
 * lead to; elsewhere on that host the same credentials may open what was never meant for builds.
 */
export class IndexGateway implements AsyncDisposable {
	readonly #options: GatewayOptions;
	readonly #server: Server;
	/** Another program of this machine could ask too. */
	readonly #secret = randomBytes(24).toString("base64url");
	readonly #linked: readonly Set<string>[];
	readonly #closing = new AbortController();
	/** A page takes time: who asks for many at once waits. */
	readonly #turns = new Turns();

	private constructor(options: GatewayOptions) {
		this.#options = options;
		this.#linked = options.pages.map(() => new Set());
		this.#server = createServer((request, response) => {
			this.#answer(request, response).catch((error: unknown) => {
				if (response.headersSent) response.destroy();
				else say(response, 502, `the index cannot be reached: ${messageOf(error)}`);
			});
		});
		this.#server.setTimeout(IDLE_MS, (socket) => socket.destroy());
	}

	static async open(options: GatewayOptions): Promise<IndexGateway> {
		const gateway = new IndexGateway(options);
		gateway.#server.listen(0, "127.0.0.1");
		await once(gateway.#server, "listening");
		return gateway;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		const closed = once(this.#server, "close");
		this.#closing.abort();
		this.#server.close();
		this.#server.closeAllConnections();
		await closed;
	}

	get origin(): URL {
		const { port } = this.#server.address() as AddressInfo;
		return new URL(`http://127.0.0.1:${port}`);
	}

	/** What pip is told in the place of a page. */
	urlOf(index: number): string {
		return (
			this.#options.pages.flatMap((page, at) =>
				at === index ? `${this.#base(at)}${page.pathname}${page.search}` : [],
			)[0] ?? ""
		);
	}

	/** A line of pip's, with the addresses that people know. */
	shown(line: string): string {
		return this.#options.pages.reduce((said, page, index) => said.replaceAll(this.#base(index), page.origin), line);
	}

	#base(index: number): string {
		return `${this.origin.origin}/${this.#secret}/${index}`;
	}

	async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
		request.resume();
		const [, secret, number = "", rest = "/"] = /^\/([^/]+)\/(\d+)(\/.*)$/.exec(request.url ?? "") ?? [];
		const page = this.#options.pages[Number(number)];
		const links = this.#linked[Number(number)];
		if (secret !== this.#secret || page === undefined || links === undefined) return say(response, 404, "not here");
		if (request.method !== "GET" && request.method !== "HEAD") return say(response, 405, "packages are only read");
		const url = new URL(page.origin + rest);
		if (!allowed(url, page, links)) return say(response, 403, `${url.pathname} is no page of the index, nor on one`);
		const answer = await this.#ask(request, response, url, page);
		const { location } = answer.headers;
		const type = answer.headers["content-type"] ?? "";
		const moved = location === undefined ? {} : { location: this.#through(Number(number), location, url) };
		if (request.method === "GET" && /^text\/html\b|\+html\b/.test(type)) {
			if (Number(answer.headers["content-length"] ?? 0) > MAX_PAGE) {
				answer.destroy();
				return say(response, 502, TOO_LARGE);
			}
			await this.#turns.inTurn("page", async () => {
				response.writeHead(answer.statusCode ?? 502, { "content-type": type, ...moved });
				await pipeline(this.#rewritten(answer, Number(number), url), response);
			});
			return;
		}
		const kept = ["content-type", "content-length", "etag", "last-modified", "cache-control", "accept-ranges"];
		const headers = kept.flatMap((name) => {
			const value = answer.headers[name];
			return value === undefined ? [] : [[name, String(value)] as const];
		});
		response.writeHead(answer.statusCode ?? 502, { ...Object.fromEntries(headers), ...moved });
		await pipeline(answer, response);
	}

	async #ask(request: IncomingMessage, response: ServerResponse, url: URL, page: URL): Promise<IncomingMessage> {
		const socket = await this.#connected(page);
		const pair = `${decoded(page.username)}:${decoded(page.password)}`;
		const outgoing = httpRequest({
			createConnection: () => socket,
			method: request.method ?? "GET",
			path: `${url.pathname}${url.search}`,
			headers: {
				...{ host: page.host, connection: "close", "user-agent": request.headers["user-agent"] ?? "pip" },
				...{ authorization: `Basic ${Buffer.from(pair).toString("base64")}`, accept: "text/html, */*;q=0.1" },
				"accept-encoding": "identity",
			},
			signal: this.#closing.signal,
		});
		// Once there is an answer, that one's own stream fails; without a listener here the server would end.
		outgoing.on("error", () => outgoing.destroy());
		response.once("close", () => outgoing.destroy());
		outgoing.setTimeout(this.#options.idleMs ?? IDLE_MS, () => outgoing.destroy(new Error("it does not answer")));
		const answered = once(outgoing, "response");
		outgoing.end();
		const [answer]: IncomingMessage[] = await answered;
		if (answer === undefined) throw new Error("it does not answer");
		return answer;
	}

	async #connected(page: URL): Promise<Socket> {
		const socket = await dial(page, this.#options.env);
		if (page.protocol !== "https:") return socket;
		const { ca, trusted } = this.#options;
		const host = bare(page.hostname);
		return connectTls({
			...{ socket, ...(isIP(host) === 0 ? { servername: host } : { host }), ...(ca === undefined ? {} : { ca }) },
			rejectUnauthorized: !trusted.includes(host) && !trusted.includes(page.host),
		});
	}

	/** A page is never held whole: it may be the list of all packages that there are. */
	async *#rewritten(page: AsyncIterable<Uint8Array>, index: number, url: URL): AsyncGenerator<string> {
		let base: URL | undefined;
		const rewrite = (html: string) =>
			html.replaceAll(HREF, (_, start: string, tag: string, ...quoted: (string | undefined)[]) => {
				const href = (quoted.slice(0, 3).find((each) => each !== undefined) ?? "").replaceAll("&amp;", "&");
				if (tag.toLowerCase() === "base") {
					if (URL.canParse(href, url.href)) base ??= new URL(href, url);
					return `${start}""`;
				}
				return `${start}"${this.#through(index, href, base ?? url)
					.replaceAll("&", "&amp;")
					.replaceAll('"', "%22")}"`;
			});
		const decoder = new TextDecoder();
		let size = 0;
		let held = "";
		for await (const chunk of page) {
			size += chunk.length;
			if (size > MAX_PAGE) throw new Error(TOO_LARGE);
			held += decoder.decode(chunk, { stream: true });
			const last = held.lastIndexOf("<");
			const end = last >= 0 && held.length - last <= MAX_TAG ? last : held.length;
			yield rewrite(held.slice(0, end));
			held = held.slice(end);
		}
		yield rewrite(held + decoder.decode());
	}

	/** Of the index's own host: by way of here. Files elsewhere are fetched from there, without credentials. */
	#through(index: number, href: string, base: URL): string {
		const page = this.#options.pages[index];
		const links = this.#linked[index];
		if (page === undefined || links === undefined || !URL.canParse(href, base.href)) return href;
		const url = new URL(href, base);
		url.username = url.password = "";
		if (url.origin !== page.origin) return url.href;
		if (links.size < MAX_LINKS) links.add(url.pathname + url.search);
		return `${this.#base(index)}${url.pathname}${url.search}${url.hash}`;
	}
}

/** An index may keep the metadata of each of its files beside it. */
function allowed(url: URL, page: URL, links: ReadonlySet<string>): boolean {
	const path = url.pathname + url.search;
	if (links.has(path) || links.has(path.replace(/\.metadata$/, ""))) return true;
	if (path === page.pathname + page.search) return true;
	const below = `${page.pathname.replace(/\/+$/, "")}/`;
	// What a server makes of these is its own affair: some take `..;` for `..`, some decode twice.
	return url.search === "" && url.pathname.startsWith(below) && !/;|%(2[5ef]|5c|3b|00)|\/\//i.test(url.pathname);
}

/** As pip reads it: what is no escape stands for itself. */
function decoded(text: string): string {
	return text.replaceAll(/(%[0-9a-f]{2})+/gi, (escapes) =>
		Buffer.from(escapes.replaceAll("%", ""), "hex").toString("utf8"),
	);
}

function say(response: ServerResponse, status: number, words: string): void {
	response.writeHead(status, { "content-type": "text/plain" }).end(`${words}\n`);
}
