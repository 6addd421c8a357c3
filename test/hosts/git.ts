import { spawn } from "node:child_process";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Certificates } from "./certificates.ts";

export type GitHostOptions = {
	/** Bare repositories are below it. */
	readonly root: string;
	readonly certificates: Certificates;
	/** Asked for by basic authentication, as any user unless `username` is given. */
	readonly token?: string;
	readonly username?: string;
	/** Git's first protocol only: such a server gives out no commit but those that its refs name. */
	readonly oldProtocol?: boolean;
	/** Answers by itself and returns true, before anything else is looked at. */
	readonly before?: (request: IncomingMessage, response: ServerResponse) => boolean;
};

export type SeenRequest = { readonly url: string; readonly authorization: string | undefined };

export type GitHost = {
	readonly port: number;
	/** `localhost:PORT` */
	readonly host: string;
	readonly requests: readonly SeenRequest[];
	close(): Promise<void>;
};

/** A real smart-HTTP host: git's own `http-backend` behind a small HTTPS server on loopback. */
export async function startGitHost(options: GitHostOptions): Promise<GitHost> {
	const requests: SeenRequest[] = [];
	return serve(options.certificates, requests, (request, response) => {
		if (options.before?.(request, response) === true) return;
		if (!isAllowed(request, options)) {
			response.writeHead(401, { "www-authenticate": 'Basic realm="git"' }).end("who are you?\n");
			return;
		}
		backend(request, response, options).catch((error: unknown) => {
			response.destroy(error instanceof Error ? error : new Error(String(error)));
		});
	});
}

/** An HTTPS server on loopback that remembers what it was asked. */
export async function serve(
	certificates: Certificates,
	requests: SeenRequest[],
	handle: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<GitHost> {
	const sockets = new Set<Duplex>();
	const server = createServer({ key: certificates.key, cert: certificates.cert }, (request, response) => {
		requests.push({ url: request.url ?? "", authorization: request.headers.authorization });
		handle(request, response);
	});
	server.on("connection", (socket) => {
		sockets.add(socket);
		socket.once("close", () => sockets.delete(socket));
	});
	await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
	const { port } = server.address() as AddressInfo;
	return {
		port,
		host: `localhost:${port}`,
		requests,
		close: () =>
			new Promise((resolve) => {
				server.close(() => resolve());
				for (const socket of sockets) socket.destroy();
			}),
	};
}

function isAllowed(request: IncomingMessage, { token, username }: GitHostOptions): boolean {
	if (token === undefined) return true;
	const [, encoded = ""] = /^Basic (.+)$/.exec(request.headers.authorization ?? "") ?? [];
	const [user, ...password] = Buffer.from(encoded, "base64").toString("utf8").split(":");
	return password.join(":") === token && (username === undefined || user === username);
}

async function backend(request: IncomingMessage, response: ServerResponse, options: GitHostOptions): Promise<void> {
	const url = new URL(request.url ?? "/", "https://localhost");
	const header = (name: string) => {
		const value = request.headers[name];
		return typeof value === "string" ? value : "";
	};
	const child = spawn("git", ["http-backend"], {
		env: {
			PATH: process.env.PATH,
			GIT_PROJECT_ROOT: options.root,
			GIT_HTTP_EXPORT_ALL: "1",
			GIT_CONFIG_NOSYSTEM: "1",
			GIT_CONFIG_GLOBAL: "/dev/null",
			GIT_CONFIG_COUNT: "2",
			GIT_CONFIG_KEY_0: "uploadpack.allowFilter",
			GIT_CONFIG_VALUE_0: "true",
			GIT_CONFIG_KEY_1: "safe.directory",
			GIT_CONFIG_VALUE_1: "*",
			PATH_INFO: decodeURIComponent(url.pathname),
			QUERY_STRING: url.search.slice(1),
			REQUEST_METHOD: request.method,
			CONTENT_TYPE: header("content-type"),
			CONTENT_LENGTH: header("content-length"),
			HTTP_CONTENT_ENCODING: header("content-encoding"),
			REMOTE_ADDR: "127.0.0.1",
			...(options.oldProtocol === true ? {} : { GIT_PROTOCOL: header("git-protocol") }),
		},
		stdio: ["pipe", "pipe", "ignore"],
	});
	response.once("close", () => child.kill("SIGKILL"));
	const feeding = pipeline(request, child.stdin).catch((error: unknown) => error);
	let head = Buffer.alloc(0);
	for await (const chunk of child.stdout) {
		if (response.headersSent) {
			if (!response.write(chunk)) await new Promise((resolve) => response.once("drain", () => resolve(undefined)));
			continue;
		}
		head = Buffer.concat([head, chunk]);
		const end = head.indexOf("\r\n\r\n");
		if (end === -1) continue;
		let status = 200;
		const headers: Record<string, string> = {};
		for (const line of head.toString("latin1", 0, end).split("\r\n")) {
			const [, name = "", value = ""] = /^([^:]+):\s*(.*)$/.exec(line) ?? [];
			if (name.toLowerCase() === "status") status = Number.parseInt(value, 10);
			else headers[name.toLowerCase()] = value;
		}
		response.writeHead(status, headers);
		response.write(head.subarray(end + 4));
	}
	await feeding;
	response.end();
}
