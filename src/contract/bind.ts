import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { AppError } from "../errors.ts";
import { accepts } from "./accept.ts";
import type { Contract, Operation, Parameter } from "./document.ts";
import type { operations } from "./types.gen.ts";
import { type FieldError, fieldErrors, Validation, type Validator } from "./validation.ts";

export type OperationId = keyof operations;

type Get<T, K extends string> = T extends { [P in K]?: infer V } ? Exclude<V, undefined> : Record<never, never>;
type Parameters<Id extends OperationId> = operations[Id]["parameters"];
type JsonBody<T> = T extends { content: infer C } ? C[keyof C] : undefined;
type BodyOf<Id extends OperationId> = operations[Id] extends { requestBody: infer B }
	? JsonBody<B>
	: operations[Id] extends { requestBody?: infer B }
		? JsonBody<Exclude<B, undefined>> | undefined
		: undefined;

/** What a handler is given: all of it checked against the contract. Header names are in lower case at run time. */
export type Input<Id extends OperationId> = {
	readonly params: Get<Parameters<Id>, "path">;
	readonly query: Get<Parameters<Id>, "query">;
	readonly body: BodyOf<Id>;
	readonly request: FastifyRequest;
	readonly reply: FastifyReply;
	/** Aborted when the client goes away before it has its answer, and when a server that goes down can wait no longer. */
	readonly signal: AbortSignal;
};

type JsonOf<R> = R extends { content: { "application/json": infer B } } ? B : never;
type Good<Id extends OperationId> = {
	[S in keyof operations[Id]["responses"]]: S extends 200 | 201 | 202
		? {
				readonly status: S;
				readonly body: JsonOf<operations[Id]["responses"][S]>;
				readonly headers?: Record<string, string>;
			}
		: never;
}[keyof operations[Id]["responses"]];

/** A handler answers with a status and a body of the contract's, or has sent its own stream and answers nothing. */
export type Handler<Id extends OperationId> = (input: Input<Id>) => Promise<Good<Id> | undefined>;

/** One handler for every operation: a missing one does not compile. */
export type Handlers = { readonly [Id in OperationId]: Handler<Id> };

/** Raised for what the contract refuses; `errors` names every field. */
export class InvalidRequest extends AppError {
	readonly errors: readonly FieldError[];

	constructor(errors: readonly FieldError[]) {
		const [first] = errors;
		super("invalid_argument", errors.map(({ field, message }) => `${field} ${message}`).join("; "), {
			...(first === undefined ? {} : { field: first.field }),
		});
		this.errors = errors;
	}
}

type AnyHandler = (input: {
	params: unknown;
	query: unknown;
	body: unknown;
	request: FastifyRequest;
	reply: FastifyReply;
	signal: AbortSignal;
}) => Promise<{ status: number; body: unknown; headers?: Record<string, string> } | undefined>;

/** Answers of these types are sent by their handlers as streams that must not be begun for a HEAD. */
const STREAMED = new Set(["application/x-ndjson", "text/event-stream"]);

/** Makes a route of every operation. Throws where an operation has no handler or a handler no operation. */
export function bindContract(
	app: FastifyInstance,
	contract: Contract,
	handlers: Handlers,
	options: { readonly authorize: (request: FastifyRequest) => Promise<void>; readonly deadline: AbortSignal },
): void {
	const validation = new Validation(contract);
	const known = new Map<string, unknown>(Object.entries(handlers));
	for (const operation of contract.operations) {
		const handler = known.get(operation.id);
		if (!isHandler(handler)) throw new Error(`openapi.yaml: operation ${operation.id} has no handler`);
		known.delete(operation.id);
		route(app, operation, handler, validation, options);
	}
	for (const id of known.keys()) throw new Error(`handler ${id} is of no operation in openapi.yaml`);
}

function isHandler(value: unknown): value is AnyHandler {
	return typeof value === "function";
}

function route(
	app: FastifyInstance,
	operation: Operation,
	handler: AnyHandler,
	validation: Validation,
	options: { readonly authorize: (request: FastifyRequest) => Promise<void>; readonly deadline: AbortSignal },
): void {
	const bodyTypes = Object.keys(operation.body?.content ?? {});
	const [bodySchema] = Object.values(operation.body?.content ?? {});
	const isJson = bodyTypes.some((type) => type.endsWith("json"));
	const checkBody = bodySchema === undefined || !isJson ? null : validation.body(bodySchema.schema);
	const check = {
		path: validation.parameters(operation, "path"),
		query: validation.parameters(operation, "query"),
		header: validation.parameters(operation, "header"),
	};
	app.route({
		method: operation.method,
		url: operation.path.replaceAll(/\{(\w+)\}/g, ":$1"),
		exposeHeadRoute: operation.method === "GET" && !operation.produces.some((type) => STREAMED.has(type)),
		onRequest: async (request) => {
			if (!operation.open) await options.authorize(request);
			if (!("406" in operation.responses)) return;
			const offered = operation.produces.length === 0 ? ["application/json"] : operation.produces;
			if (!accepts(request.headers.accept, [...offered, "application/problem+json"]))
				throw new AppError("not_acceptable", `this answers with ${offered.join(" or ")}`, { field: "Accept" });
			checkMediaType(request, operation, bodyTypes);
		},
		handler: async (request, reply) => {
			const params = checked(check.path, request.params, "path");
			// Probes of all kinds ask the operations that refuse nothing.
			const query = "400" in operation.responses ? checked(check.query, request.query, "query") : {};
			checked(check.header, request.headers, "header");
			const body = checkBody === null ? undefined : checkedBody(checkBody, request.body, operation);
			const signal = AbortSignal.any([gone(request, reply), options.deadline]);
			const answer = await handler({ params, query, body, request, reply, signal });
			if (answer === undefined) return reply;
			return reply
				.code(answer.status)
				.headers(answer.headers ?? {})
				.send(answer.body);
		},
	});
}

function checkMediaType(request: FastifyRequest, operation: Operation, types: readonly string[]): void {
	const type = request.headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
	const empty = request.headers["content-length"] === "0" || !hasBody(request);
	if (empty || (type !== undefined && types.includes(type))) return;
	if (types.length === 0)
		throw new AppError("invalid_argument", `${operation.method} ${operation.path} takes no body`, { field: "body" });
	throw new AppError("unsupported_media", `the body must be ${types.join(" or ")}, not ${type ?? "without a type"}`, {
		field: "Content-Type",
	});
}

function hasBody(request: FastifyRequest): boolean {
	return request.headers["content-length"] !== undefined || request.headers["transfer-encoding"] !== undefined;
}

function checked(validate: Validator, value: unknown, place: Parameter["in"]): unknown {
	if (validate(value)) return value;
	throw new InvalidRequest(fieldErrors(validate.errors ?? [], place));
}

function checkedBody(validate: Validator, value: unknown, operation: Operation): unknown {
	if (value === undefined || value === null) {
		if (operation.body?.required !== true && value === undefined) return undefined;
		throw new InvalidRequest([{ field: "body", message: "must be a JSON object" }]);
	}
	if (validate(value)) return value;
	throw new InvalidRequest(fieldErrors(validate.errors ?? [], "body"));
}

/** Aborted when the connection closes before the answer was sent. */
export function gone(request: FastifyRequest, reply: FastifyReply): AbortSignal {
	const controller = new AbortController();
	reply.raw.once("close", () => {
		if (!reply.raw.writableFinished) controller.abort(new AppError("cancelled", "the client went away"));
	});
	request.raw.once("error", () => controller.abort(new AppError("cancelled", "the client went away")));
	return controller.signal;
}
