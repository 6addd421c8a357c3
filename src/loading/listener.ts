import { createServer, type Server } from "node:https";
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import fastify, {
	type FastifyInstance,
	type FastifyReply,
	type FastifyRequest,
	type FastifyServerOptions,
	LogController,
} from "fastify";
import { gone } from "../contract/bind.ts";
import { AppError } from "../errors.ts";
import type { ServiceRecord } from "../manager/model.ts";
import type { Build, Queries } from "../manager/queries.ts";
import { mayBeAtWork } from "../manager/reconcile.ts";
import { sendBuild } from "../routes/builds.ts";
import { sendProblem } from "../routes/problem.ts";
import type { Identity } from "./authority.ts";
import type { Credentials } from "./credentials.ts";
import { Downloads } from "./downloads.ts";

export type LoadingLimits = {
	/** Connections at the same time; further ones are closed at once. */
	readonly connections: number;
	/** The same for those from one address: no container keeps the others' loaders out. */
	readonly perAddress: number;
	/** Downloads at the same time, and those of one service; further ones are told to come again. */
	readonly downloads: number;
	readonly perService: number;
	/** Milliseconds for which a reader may take nothing. */
	readonly pauseMs: number;
	/** Milliseconds for the TLS handshake, and again for a request's line and headers. */
	readonly headersMs: number;
};

const DEFAULT_LIMITS: LoadingLimits = {
	...{ connections: 1024, perAddress: 64, downloads: 64, perService: 16 },
	...{ pauseMs: 30_000, headersMs: 10_000 },
};

/** Milliseconds that a connection may wait for its next request. */
const KEEP_ALIVE_MS = 5_000;

export type LoadingServerDeps = {
	/** Null while the server is coming up. */
	readonly queries: () => Pick<Queries, "byId" | "buildOf"> | null;
	readonly credentials: Credentials;
	readonly identity: Pick<Identity, "cert" | "key">;
	readonly log: NonNullable<FastifyServerOptions["loggerInstance"]>;
	readonly limits?: Partial<LoadingLimits>;
};

export type LoadingServer = {
	/** Not listening yet. */
	readonly server: Server;
	readonly app: FastifyInstance;
	/** From now on new connections meet this certificate. */
	present(identity: Pick<Identity, "cert" | "key">): void;
	/** Cuts the connections; resolves when nothing is read for any of them any more. */
	close(): Promise<void>;
};

type BuildRequest = FastifyRequest<{
	Params: { readonly name: string; readonly version: string };
	Querystring: { readonly revision?: unknown };
}>;

/** Serves a build to the container that runs it, over HTTPS, and nothing else to anybody. */
export async function createLoadingServer(deps: LoadingServerDeps): Promise<LoadingServer> {
	const limits = { ...DEFAULT_LIMITS, ...deps.limits };
	const tls = ({ cert, key }: Pick<Identity, "cert" | "key">) => ({ cert, key, minVersion: "TLSv1.2" as const });
	const made: Server[] = [];
	const app: FastifyInstance = fastify({
		loggerInstance: deps.log,
		serverFactory: (handler) => {
			const server = createServer(
				{
					...tls(deps.identity),
					handshakeTimeout: limits.headersMs,
					headersTimeout: limits.headersMs,
					requestTimeout: limits.headersMs,
					keepAliveTimeout: KEEP_ALIVE_MS,
					connectionsCheckingInterval: Math.min(limits.headersMs, 5_000),
				},
				handler,
			);
			server.maxConnections = limits.connections;
			made.push(server);
			return server;
		},
		bodyLimit: 1024,
		routerOptions: { maxParamLength: 1024, ignoreDuplicateSlashes: false },
		frameworkErrors: sendProblem,
		logController: new LogController({ disableRequestLogging: true }),
	});
	const [server] = made;
	if (server === undefined) throw new AppError("internal", "there is no server");
	const sockets = new Set<Duplex>();
	const from = new Map<string, number>();
	server.on("connection", (socket) => {
		const address = (socket instanceof Socket ? socket.remoteAddress : undefined) ?? "";
		const others = from.get(address) ?? 0;
		if (others >= limits.perAddress) return void socket.destroy();
		from.set(address, others + 1);
		sockets.add(socket);
		socket.once("close", () => {
			sockets.delete(socket);
			const left = (from.get(address) ?? 1) - 1;
			if (left > 0) from.set(address, left);
			else from.delete(address);
		});
	});
	const downloads = new Downloads(limits.downloads, limits.perService);
	// A body that cannot be read does not matter where there is nothing that would take it.
	app.setErrorHandler((error, request, reply) =>
		request.is404 ? sendNotFound(request, reply) : sendProblem(error, request, reply),
	);
	app.setNotFoundHandler(sendNotFound);
	app.route({
		method: ["GET", "HEAD"],
		url: "/builds/:name/:version",
		exposeHeadRoute: false,
		handler: async (request: BuildRequest, reply) => {
			const { service, build } = await authorized(deps, request);
			const send = () => sendBuild(request, reply, build, { signal: gone(request, reply), pauseMs: limits.pauseMs });
			if (request.method === "HEAD") await send();
			else await downloads.during(service.id, send);
			return reply;
		},
	});
	await app.ready();
	return {
		server,
		app,
		present: (identity) => server.setSecureContext(tls(identity)),
		close: async () => {
			const closed = Promise.withResolvers<void>();
			server.close(() => closed.resolve());
			server.closeAllConnections();
			// Those that have not come to speak TLS.
			for (const socket of sockets) socket.destroy();
			await closed.promise;
			await downloads.ended();
			await app.close();
		},
	};
}

/** The build that is asked for, where the credential is for just that one and its revision may run. */
async function authorized(
	deps: LoadingServerDeps,
	request: BuildRequest,
): Promise<{ readonly service: ServiceRecord; readonly build: Build }> {
	const queries = deps.queries();
	if (queries === null) throw new AppError("unavailable", "the server is coming up");
	const token = /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? "")?.[1];
	if (token === undefined) throw refused("this needs a credential");
	const claim = deps.credentials.claim(token);
	const owner = claim === undefined ? undefined : await queries.byId(claim.id);
	// The same work whether or not there is such a service.
	const proven = deps.credentials.proves(token, owner?.namespace ?? "");
	if (claim === undefined || owner === undefined || !proven)
		throw refused("this credential was not issued here, or its service was removed");

	const revision = revisionIn(request.query.revision);
	const { name, version } = request.params;
	const namespace = request.headers["runtime-namespace"] ?? owner.namespace;
	if (owner.namespace !== namespace || owner.name !== name || owner.version !== version || claim.revision !== revision)
		throw refused("this credential is for another build");
	if (!mayBeAtWork(owner, revision))
		throw refused(`this credential was revoked: revision ${revision} failed, was stopped or is to be removed`);
	return { service: owner, build: await queries.buildOf(owner, revision) };
}

function refused(detail: string): AppError {
	return new AppError("unauthenticated", detail, {
		hint: "Containers are given theirs when their service is started.",
	});
}

function revisionIn(value: unknown): number {
	if (typeof value === "string" && /^[1-9]\d{0,8}$/.test(value)) return Number(value);
	throw new AppError("invalid_argument", "revision must be given once, as a whole number from 1", {
		field: "revision",
	});
}

function sendNotFound(request: FastifyRequest, reply: FastifyReply): FastifyReply {
	const hint = "Here are builds for containers alone; the API is at the server's other address.";
	return sendProblem(new AppError("not_found", "there is nothing at this path", { hint }), request, reply);
}
