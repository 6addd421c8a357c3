import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { parse } from "yaml";

export type Parameter = {
	readonly name: string;
	readonly in: "path" | "query" | "header";
	readonly required?: boolean;
	readonly schema: object;
};

type MediaTypes = Readonly<Record<string, { readonly schema: object }>>;

/** One operation of the contract, with its references to parameters and responses resolved. */
export type Operation = {
	readonly id: string;
	readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
	/** As in the contract: `/services/{name}/{version}`. */
	readonly path: string;
	readonly open: boolean;
	readonly parameters: readonly Parameter[];
	readonly body: { readonly required: boolean; readonly content: MediaTypes } | null;
	/** Media types of its good answers. */
	readonly produces: readonly string[];
	readonly responses: Readonly<Record<string, { readonly content?: MediaTypes }>>;
};

export type Contract = {
	/** The file as it was written: what `/openapi.yaml` serves. */
	readonly text: string;
	readonly document: Readonly<Record<string, unknown>>;
	readonly version: string;
	readonly operations: readonly Operation[];
};

const METHODS = ["get", "post", "put", "patch", "delete"] as const;

/** The project's root: the nearest folder at or above this file that holds the contract; source and compiled code agree. */
export function projectRoot(): string {
	let folder = import.meta.dirname;
	while (!existsSync(path.join(folder, "openapi.yaml"))) {
		const parent = path.dirname(folder);
		if (parent === folder) throw new Error("openapi.yaml is missing from the installation");
		folder = parent;
	}
	return folder;
}

/** Reads openapi.yaml. */
export function loadContract(): Contract {
	const text = readFileSync(path.join(projectRoot(), "openapi.yaml"), "utf8");
	const document = object(parse(text, { merge: true }));
	const resolve = (value: unknown): Record<string, unknown> => {
		const node = object(value);
		if (typeof node.$ref !== "string") return node;
		let target: unknown = document;
		for (const part of node.$ref.slice(2).split("/")) target = object(target)[part];
		return resolve(target);
	};
	const operations: Operation[] = [];
	for (const [route, entry] of Object.entries(object(document.paths))) {
		const item = object(entry);
		for (const method of METHODS) {
			if (item[method] === undefined) continue;
			const raw = object(item[method]);
			const parameters = [...list(item.parameters), ...list(raw.parameters)].map(resolve).map(parameter);
			const responses = Object.fromEntries(
				Object.entries(object(raw.responses)).map(([status, response]) => [status, resolve(response)]),
			);
			const good = Object.entries(responses).filter(([status]) => status.startsWith("2"));
			const body = raw.requestBody === undefined ? null : resolve(raw.requestBody);
			operations.push({
				id: String(raw.operationId),
				method: upper(method),
				path: route,
				open: Array.isArray(raw.security) && raw.security.length === 0,
				parameters,
				body: body === null ? null : { required: body.required === true, content: media(body.content) },
				produces: [...new Set(good.flatMap(([, response]) => Object.keys(media(response.content))))],
				responses: Object.fromEntries(
					Object.entries(responses).map(([status, response]) => [status, { content: media(response.content) }]),
				),
			});
		}
	}
	return { text, document, version: String(object(document.info).version), operations };
}

function upper(method: (typeof METHODS)[number]): Operation["method"] {
	const names = { get: "GET", post: "POST", put: "PUT", patch: "PATCH", delete: "DELETE" } as const;
	return names[method];
}

function parameter(node: Record<string, unknown>): Parameter {
	const place = node.in;
	if (place !== "path" && place !== "query" && place !== "header")
		throw new Error(`openapi.yaml: parameter ${String(node.name)} is in ${String(place)}`);
	return { name: String(node.name), in: place, required: node.required === true, schema: object(node.schema) };
}

function media(value: unknown): MediaTypes {
	return Object.fromEntries(
		Object.entries(value === undefined ? {} : object(value)).map(([type, entry]) => [
			type,
			{ schema: object(object(entry).schema) },
		]),
	);
}

function list(value: unknown): unknown[] {
	return Array.isArray(value) ? value : [];
}

function object(value: unknown): Record<string, unknown> {
	if (typeof value !== "object" || value === null || Array.isArray(value))
		throw new Error("openapi.yaml: not an object");
	return { ...value };
}
