import multipart from "@fastify/multipart";
import fastify, {
	type FastifyInstance,
	type FastifyReply,
	type FastifyRequest,
	type FastifyServerOptions,
	LogController,
} from "fastify";
import type { TokenStore } from "./accounts/tokens.ts";
import { bindContract } from "./contract/bind.ts";
import type { Contract } from "./contract/document.ts";
import { AppError } from "./errors.ts";
import type { Changes } from "./manager/changes.ts";
import type { Follow } from "./manager/follow.ts";
import type { Manager } from "./manager/manager.ts";
import type { Queries } from "./manager/queries.ts";
import type { RemoteSources } from "./manager/remote-sources.ts";
import { buildHandlers } from "./routes/builds.ts";
import { authorizer } from "./routes/caller.ts";
import { DOCS, docs } from "./routes/docs.ts";
import { sendProblem } from "./routes/problem.ts";
import { resolveRemote } from "./routes/remotes.ts";
import { type ServerFacts, serverHandlers } from "./routes/server.ts";
import { serviceHandlers } from "./routes/services.ts";
import { type UploadLimits, uploadSource } from "./routes/sources.ts";
import { streamHandlers } from "./routes/streams.ts";

export type AppDeps = {
	readonly contract: Contract;
	readonly manager: Manager;
	readonly changes: Changes;
	readonly queries: Queries;
	readonly remotes: RemoteSources;
	readonly follow: Follow;
	readonly tokens: TokenStore;
	readonly facts: ServerFacts;
	/** Aborted when the server goes down: streams end, so that closing need not wait for them. */
	readonly down: AbortSignal;
	/** Aborted when a server that goes down can wait no longer for the requests under way. */
	readonly deadline: AbortSignal;
	readonly logger: NonNullable<FastifyServerOptions["loggerInstance"]>;
	/** How often a followed stream shows that it is alive when nothing else does. Default 15,000. */
	readonly heartbeatMs?: number;
	readonly uploads?: UploadLimits;
	readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
};

/** JSON bodies are small; archives are streamed and have their own limit. */
const MAX_JSON_BYTES = 1024 * 1024;

const HEARTBEAT_MS = 15_000;

/** Uploads at the same time, and the longest pause in one. */
const UPLOADS: UploadLimits = { parallel: 64, pauseMs: 60_000 };

/** The longest pause of a client that downloads a build. */
const DOWNLOAD_PAUSE_MS = 60_000;

/** The answer to what is not HTTP: a bad request line or header never reaches a route. */
const MALFORMED = (() => {
	const body = JSON.stringify({
		type: "urn:runtime-builds:problem:invalid_argument",
		title: "Invalid argument",
		status: 400,
		code: "invalid_argument",
		detail: "the request's line or headers are malformed or too large",
	});
	const head = [
		"HTTP/1.1 400 Bad Request",
		"content-type: application/problem+json",
		`content-length: ${body.length}`,
		"connection: close",
	];
	return `${head.join("\r\n")}\r\n\r\n${body}`;
})();

/** The HTTP server, not listening yet. */
export async function buildApp(deps: AppDeps): Promise<FastifyInstance> {
	const app: FastifyInstance = fastify({
		loggerInstance: deps.logger,
		...(deps.tls === null ? {} : { https: deps.tls }),
		bodyLimit: MAX_JSON_BYTES,
		// A slow upload is no fault: it has a limit on bytes, and routes/sources.ts one on each pause.
		requestTimeout: 0,
		connectionTimeout: 0,
		forceCloseConnections: "idle",
		routerOptions: { maxParamLength: 1024, ignoreDuplicateSlashes: false },
		frameworkErrors: sendProblem,
		logController: new LogController({ disableRequestLogging: true }),
		clientErrorHandler: (_error, socket) => {
			if (socket.writable) socket.end(MALFORMED);
		},
	});
	app.addHook("onSend", async (_request, reply) => {
		if (deps.down.aborted) reply.header("connection", "close");
	});
	app.decorateRequest("caller", null);
	const notFound = (request: FastifyRequest, reply: FastifyReply) => sendNotFound(deps.contract, request, reply);
	// A body that cannot be read does not matter where there is nothing that would take it.
	app.setErrorHandler((error, request, reply) =>
		request.is404 ? notFound(request, reply) : sendProblem(error, request, reply),
	);
	app.setNotFoundHandler(notFound);
	app.removeContentTypeParser("text/plain");
	app.addContentTypeParser(
		"application/merge-patch+json",
		{ parseAs: "string" },
		app.getDefaultJsonParser("error", "error"),
	);
	await app.register(multipart, {
		// A second file is seen, and refused in words.
		limits: { fileSize: deps.facts.maxSourceBytes, files: 2, fields: 16, fieldSize: 64 * 1024, parts: 20 },
		throwFileSizeLimit: false,
	});
	const handlers = {
		uploadSource: uploadSource(deps.manager, { ...(deps.uploads ?? UPLOADS), maxBytes: deps.facts.maxSourceBytes }),
		...serviceHandlers(deps.manager, deps.changes, deps.queries, deps.facts.buildsFor),
		...streamHandlers(deps.queries, deps.follow, { down: deps.down, heartbeatMs: deps.heartbeatMs ?? HEARTBEAT_MS }),
		...buildHandlers(deps.queries, DOWNLOAD_PAUSE_MS),
		resolveRemote: resolveRemote(deps.remotes),
		...serverHandlers(deps.contract, deps.facts),
	};
	bindContract(app, deps.contract, handlers, { authorize: authorizer(deps.tokens), deadline: deps.deadline });
	await app.register(docs, { contract: deps.contract });
	await app.ready();
	return app;
}

/** 405 where the contract has the path with other methods, else 404. */
function sendNotFound(contract: Contract, request: FastifyRequest, reply: FastifyReply): FastifyReply {
	const path = request.url.split("?")[0] ?? "";
	const allowed = path === DOCS ? ["GET"] : methodsAt(contract, path);
	if (allowed.length === 0) {
		const hint = `GET /openapi.yaml describes what there is, and ${DOCS} shows it.`;
		const detail = `there is nothing at ${path}`;
		return sendProblem(new AppError("not_found", detail, { hint }), request, reply);
	}
	reply.header("allow", allowed.join(", "));
	const detail = `this path takes ${allowed.join(", ")}, not ${request.method}`;
	return sendProblem(new AppError("method_not_allowed", detail), request, reply);
}

/** The methods that the contract has at a path. */
function methodsAt(contract: Contract, path: string): string[] {
	const segments = path.split("/");
	const found = contract.operations.filter((operation) => {
		const parts = operation.path.split("/");
		return (
			parts.length === segments.length &&
			parts.every((part, index) => part === segments[index] || (part.startsWith("{") && segments[index] !== ""))
		);
	});
	return [...new Set(found.map(({ method }) => method))];
}
