import swagger, { type StaticDocumentSpec } from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { FastifyInstance } from "fastify";
import type { Contract } from "../contract/document.ts";

export const DOCS = "/docs";

/** Nothing from elsewhere is loaded or asked. The page's own styles are set by its script, on elements. */
const POLICY = [
	"default-src 'none'",
	"script-src 'self'",
	"style-src 'self' 'unsafe-inline'",
	"img-src 'self' data:",
	"font-src 'self' data:",
	"connect-src 'self'",
	"base-uri 'none'",
	"form-action 'none'",
	"frame-ancestors 'none'",
].join("; ");

/** The contract's explorer: a page that reads the contract and calls this server. No token is needed to open it. */
export async function docs(app: FastifyInstance, { contract }: { readonly contract: Contract }): Promise<void> {
	// The page calls the server that it came from, under whatever name.
	const document = { ...contract.document, servers: [{ url: "/" }] };
	if (!isDocument(document)) throw new Error("openapi.yaml is no OpenAPI document");
	await app.register(swagger, { mode: "static", specification: { document } });
	app.addHook("onSend", async (_request, reply) => {
		reply.header("content-security-policy", POLICY);
		reply.header("x-content-type-options", "nosniff");
		reply.header("referrer-policy", "no-referrer");
	});
	await app.register(swaggerUi, {
		routePrefix: DOCS,
		theme: { title: "Runtime Builds" },
		uiConfig: { docExpansion: "list", deepLinking: true, layout: "BaseLayout", persistAuthorization: false },
	});
}

function isDocument(value: object): value is StaticDocumentSpec["document"] {
	return "openapi" in value && "info" in value && "paths" in value;
}
