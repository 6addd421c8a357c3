import type { Handlers } from "../contract/bind.ts";
import type { Contract } from "../contract/document.ts";
import { AppError } from "../errors.ts";
import { callerOf, namespaceOf } from "./caller.ts";

export type ServerFacts = {
	readonly version: string;
	readonly builders: readonly { readonly name: string; readonly markers: readonly string[] }[];
	readonly maxSourceBytes: number;
	/** Whose sources are built: without a sandbox a build may do what the server may. */
	readonly buildsFor: "everyone" | "administrator";
	/** Whether the server takes work: recovered, and not going down. */
	readonly ready: () => boolean;
};

/** The server about itself. */
export function serverHandlers(
	contract: Contract,
	facts: ServerFacts,
): Pick<Handlers, "getSession" | "getHealth" | "getReadiness" | "getContract"> {
	return {
		getSession: async ({ request }) => ({
			status: 200,
			body: {
				account: callerOf(request).name,
				namespace: namespaceOf(request),
				server: {
					version: facts.version,
					contract: contract.version,
					builders: facts.builders.map(({ name, markers }) => ({ name, markers: [...markers] })),
					maxSourceBytes: facts.maxSourceBytes,
				},
			},
		}),
		getHealth: async () => ({ status: 200, body: { status: "ok" } }),
		getReadiness: async () => {
			if (!facts.ready()) throw new AppError("unavailable", "the server is starting or going down");
			return { status: 200, body: { status: "ok" } };
		},
		getContract: async ({ reply }) => {
			reply.type("application/yaml").send(contract.text);
			return undefined;
		},
	};
}
