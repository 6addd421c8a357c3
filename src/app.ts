import multipart from "@fastify/multipart";
import fastify, { type FastifyInstance, type FastifyServerOptions, LogController } from "fastify";
import type { TokenStore } from "./accounts/tokens.ts";
import { bindContract } from "./contract/bind.ts";
import type { Contract } from "./contract/document.ts";
import { AppError } from "./errors.ts";
import type { Follow } from "./manager/follow.ts";
import type { Changes, Manager } from "./manager/manager.ts";
import { buildHandlers } from "./routes/builds.ts";
import { authorizer } from "./routes/caller.ts";
import { sendProblem } from "./routes/problem.ts";
import { type ServerFacts, serverHandlers } from "./routes/server.ts";
import { serviceHandlers } from "./routes/services.ts";
import { uploadSource } from "./routes/sources.ts";
import { streamHandlers } from "./routes/streams.ts";

export type AppDeps = {
	readonly contract: Contract;
	readonly manager: Manager;
	readonly changes: Changes;
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
	readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
};

/** JSON bodies are small; archives are streamed and have their own limit. */
const MAX_JSON_BYTES = 1024 * 1024;

const HEARTBEAT_MS = 15_000;

/** The HTTP server, not listening yet. */
export async function buildApp(deps: AppDeps): Promise<FastifyInstance> {
	const app: FastifyInstance = fastify({
		loggerInstance: deps.logger,
		...(deps.tls === null ? {} : { https: deps.tls }),
		bodyLimit: MAX_JSON_BYTES,
		// A slow upload is no fault: it has a limit on bytes, and each pause one of its own.
		requestTimeout: 0,
		connectionTimeout: 0,
		forceCloseConnections: "idle",
		routerOptions: { maxParamLength: 1024, ignoreDuplicateSlashes: false },
		frameworkErrors: sendProblem,
		logController: new LogController({ disableRequestLogging: true }),
		// A bad request line or header never reaches a route.
		clientErrorHandler: (_error, socket) => {
			if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
		},
	});
	app.decorateRequest("caller", null);
	app.setErrorHandler(sendProblem);
	app.removeContentTypeParser("text/plain");
	app.addContentTypeParser(
		"application/merge-patch+json",
		{ parseAs: "string" },
		app.getDefaultJsonParser("error", "error"),
	);
	await app.register(multipart, {
		limits: { fileSize: deps.facts.maxSourceBytes, files: 1, fields: 16, fieldSize: 64 * 1024, parts: 20 },
		throwFileSizeLimit: false,
	});
	app.setNotFoundHandler((request, reply) => {
		const allowed = methodsAt(deps.contract, request.url);
		if (allowed.length === 0)
			return sendProblem(
				new AppError("not_found", `there is nothing at ${request.url.split("?")[0]}`, {
					hint: "GET /openapi.yaml describes what there is.",
				}),
				request,
				reply,
			);
		reply.header("allow", allowed.join(", "));
		return sendProblem(
			new AppError("method_not_allowed", `this path takes ${allowed.join(", ")}, not ${request.method}`),
			request,
			reply,
		);
	});
	const handlers = {
		uploadSource: uploadSource(deps.manager, { maxBytes: deps.facts.maxSourceBytes }),
		...serviceHandlers(deps.manager, deps.changes),
		...streamHandlers(deps.manager, deps.follow, { down: deps.down, heartbeatMs: deps.heartbeatMs ?? HEARTBEAT_MS }),
		...buildHandlers(deps.manager),
		...serverHandlers(deps.contract, deps.facts),
	};
	bindContract(app, deps.contract, handlers, { authorize: authorizer(deps.tokens), deadline: deps.deadline });
	await app.ready();
	return app;
}

/** The methods that the contract has at a path. */
function methodsAt(contract: Contract, url: string): string[] {
	const segments = (url.split("?")[0] ?? "").split("/");
	const found = contract.operations.filter(({ path }) => {
		const parts = path.split("/");
		return (
			parts.length === segments.length &&
			parts.every((part, index) => part === segments[index] || (part.startsWith("{") && segments[index] !== ""))
		);
	});
	return [...new Set(found.map(({ method }) => method))];
}
