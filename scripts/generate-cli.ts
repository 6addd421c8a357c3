// Makes clients/cli/commands.gen.ts from the `x-cli` entries of openapi.yaml; `--check` says whether it is up to date.
import { readFileSync, writeFileSync } from "node:fs";
import { parse } from "yaml";

const CONTRACT = new URL("../openapi.yaml", import.meta.url);
const TARGET = new URL("../clients/cli/commands.gen.ts", import.meta.url);
const METHODS = ["get", "put", "post", "patch", "delete"];

type Node = Record<string, unknown>;

function node(value: unknown, where: string): Node {
	if (typeof value === "object" && value !== null && !Array.isArray(value))
		return Object.fromEntries(Object.entries(value));
	throw new Error(`openapi.yaml: ${where} is no object`);
}

function text(value: unknown, where: string): string {
	if (typeof value === "string") return value;
	throw new Error(`openapi.yaml: ${where} is no text`);
}

function list(value: unknown): unknown[] {
	return Array.isArray(value) ? value : [];
}

/** Follows `$ref` inside the document. */
function resolved(document: Node, value: unknown, where: string): Node {
	const found = node(value, where);
	if (typeof found.$ref !== "string") return found;
	let at: unknown = document;
	for (const part of found.$ref.replace(/^#\//, "").split("/")) at = node(at, found.$ref)[part];
	return resolved(document, at, found.$ref);
}

function optionOf(document: Node, name: string, place: "query" | "body", schema: unknown, description: unknown) {
	const type = resolved(document, schema, name).type === "integer" ? "integer" : "string";
	const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
	return { name, flag, key: name, in: place, type, description: typeof description === "string" ? description : "" };
}

function operationOf(document: Node, path: string, method: string, item: Node, operation: Node) {
	const cli = node(operation["x-cli"], `${method} ${path} x-cli`);
	const parameters = [...list(item.parameters), ...list(operation.parameters)].map((entry) =>
		resolved(document, entry, path),
	);
	const args = parameters
		.filter((parameter) => parameter.in === "path")
		.map((parameter) => ({
			name: text(parameter.name, path),
			in: "path",
			type: "string",
			required: parameter.name !== "version",
			description: typeof parameter.description === "string" ? parameter.description : "",
		}));
	const words = new Set(list(cli.arguments).map((name) => text(name, `${path} x-cli.arguments`)));
	const options = parameters
		.filter((parameter) => parameter.in === "query")
		.map((parameter) =>
			optionOf(document, text(parameter.name, path), "query", parameter.schema, parameter.description),
		);
	if (operation.requestBody !== undefined) {
		const content = node(node(operation.requestBody, path).content, path);
		const schema = resolved(document, node(content["application/json"], path).schema, path);
		for (const [name, property] of Object.entries(node(schema.properties ?? {}, path))) {
			const option = optionOf(document, name, "body", property, node(property, name).description);
			if (!words.delete(name)) options.push(option);
			else args.push({ name, in: "body", type: option.type, required: true, description: option.description });
		}
	}
	if (words.size > 0) throw new Error(`openapi.yaml: ${path} x-cli.arguments: there is no ${[...words].join(", ")}`);
	// What may be left out comes last.
	args.sort((a, b) => Number(b.required) - Number(a.required));
	return {
		command: text(cli.command, `${path} x-cli.command`),
		operation: text(operation.operationId, path),
		method: method.toUpperCase(),
		path,
		summary: text(operation.summary, path),
		description: typeof operation.description === "string" ? operation.description.trim() : "",
		...(cli.hidden === true ? { hidden: true } : {}),
		...(typeof cli.output === "string" ? { output: cli.output } : {}),
		...(typeof cli.done === "string" ? { done: cli.done } : {}),
		...(typeof cli.wait === "string" ? { wait: cli.wait } : {}),
		arguments: args,
		options,
	};
}

function generate(): string {
	const document = node(parse(readFileSync(CONTRACT, "utf8"), { merge: true }), "the document");
	const operations = [];
	for (const [path, entry] of Object.entries(node(document.paths, "paths"))) {
		const item = node(entry, path);
		for (const method of METHODS) {
			if (item[method] === undefined) continue;
			const operation = node(item[method], `${method} ${path}`);
			if (operation["x-cli"] !== undefined) operations.push(operationOf(document, path, method, item, operation));
		}
	}
	const version = text(node(document.info, "info").version, "info.version");
	return `// Made from openapi.yaml by scripts/generate-cli.ts; not to be edited.

export type Operation = {
	readonly command: string;
	readonly operation: string;
	readonly method: string;
	/** With \`{name}\` where an argument goes. */
	readonly path: string;
	readonly summary: string;
	readonly description: string;
	readonly hidden?: boolean;
	readonly output?: "service" | "revisions" | "session";
	/** What is said when it has worked. */
	readonly done?: string;
	/** The state that is waited for before that; \`verdict\`: a new revision is followed as \`update\` does. */
	readonly wait?: "gone" | "Stopped" | "Running" | "verdict";
	readonly arguments: readonly {
		readonly name: string;
		readonly in: "path" | "body";
		readonly type: "integer" | "string";
		readonly required: boolean;
		readonly description: string;
	}[];
	readonly options: readonly {
		readonly name: string;
		readonly flag: string;
		readonly key: string;
		readonly in: "query" | "body";
		readonly type: "integer" | "string";
		readonly description: string;
	}[];
};

export const CONTRACT_VERSION = ${JSON.stringify(version)};

export const OPERATIONS: readonly Operation[] = ${JSON.stringify(operations, null, "\t")};
`;
}

const made = generate();
if (process.argv.includes("--check")) {
	let current = "";
	try {
		current = readFileSync(TARGET, "utf8");
	} catch (error) {
		process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
	}
	if (current !== made) {
		process.stderr.write("clients/cli/commands.gen.ts does not fit openapi.yaml: run `node scripts/generate-cli.ts`\n");
		process.exitCode = 1;
	}
} else {
	writeFileSync(TARGET, made);
}
