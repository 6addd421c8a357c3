import { Ajv2020, type AnySchema, type ErrorObject, type ValidateFunction } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import type { Contract, Operation, Parameter } from "./document.ts";

export type FieldError = { readonly field: string; readonly message: string };

export type Validator = ValidateFunction;

/**
 * Compiles the contract's schemas: bodies are taken as they are (nothing coerced, nothing stripped), parameters are
 * strings that become what their schema says. Fastify's own Ajv misreads 3.1 keywords and strips unknown fields.
 */
export class Validation {
	readonly #strict: Ajv2020;
	readonly #coercing: Ajv2020;

	constructor(contract: Contract) {
		this.#strict = compiler(contract, false);
		this.#coercing = compiler(contract, true);
	}

	body(schema: object): Validator {
		return this.#strict.compile(absolute(schema));
	}

	/** Of one kind of parameters. What the contract does not name is refused, but for headers. */
	parameters(operation: Operation, place: Parameter["in"]): Validator {
		const parameters = operation.parameters.filter((parameter) => parameter.in === place);
		const name = (parameter: Parameter) => (place === "header" ? parameter.name.toLowerCase() : parameter.name);
		return this.#coercing.compile({
			type: "object",
			properties: Object.fromEntries(parameters.map((parameter) => [name(parameter), absolute(parameter.schema)])),
			required: parameters.filter((parameter) => parameter.required).map(name),
			additionalProperties: place === "header",
		});
	}
}

/** Every fault, each with the field's name. */
export function fieldErrors(errors: readonly ErrorObject[], place: string): FieldError[] {
	const found = new Map<string, string>();
	for (const error of errors) {
		// These only say that one of the branches below them failed, which is said by itself.
		if (error.keyword === "anyOf" || error.keyword === "oneOf" || error.keyword === "if") continue;
		const { field, message } = describe(error);
		const named = field === "" ? place : field;
		if (!found.has(named)) found.set(named, message);
	}
	if (found.size === 0) found.set(place, "is not what the contract says");
	return [...found].map(([field, message]) => ({ field, message }));
}

function describe(error: ErrorObject): FieldError {
	const at = error.instancePath.slice(1).replaceAll("~1", "/").replaceAll("~0", "~");
	const inside = (name: unknown) => (at === "" ? String(name) : `${at}/${String(name)}`);
	switch (error.keyword) {
		case "required":
			return { field: inside(error.params.missingProperty), message: "is required" };
		case "additionalProperties":
			return { field: inside(error.params.additionalProperty), message: "is not known" };
		case "propertyNames":
			return { field: inside(error.params.propertyName), message: "is not a valid name" };
		case "enum":
			return { field: at, message: `must be one of ${error.params.allowedValues.join(", ")}` };
		case "pattern":
			if (error.propertyName !== undefined)
				return { field: inside(error.propertyName), message: "is not a valid name" };
			return { field: at, message: wordsOf(error) ?? `must match ${error.params.pattern}` };
		case "not":
			return { field: at, message: "is not allowed" };
		default:
			return { field: at, message: error.message ?? "is wrong" };
	}
}

function wordsOf(error: ErrorObject): string | undefined {
	const description: unknown = error.parentSchema?.description;
	return typeof description === "string" ? `is malformed: ${description.replace(/\.$/, "")}` : undefined;
}

function compiler(contract: Contract, coerceTypes: boolean): Ajv2020 {
	const ajv = new Ajv2020({
		allErrors: true,
		// Errors carry their schema, whose description says in words what a pattern says in signs.
		verbose: true,
		allowUnionTypes: true,
		strictTypes: false,
		strictRequired: false,
		useDefaults: true,
		coerceTypes,
	});
	// ajv-formats is CommonJS; its default export is the function in some module modes and holds it in others.
	const add = "default" in formats && typeof formats.default === "function" ? formats.default : formats;
	if (typeof add === "function") add(ajv);
	ajv.addVocabulary(["components"]);
	ajv.addSchema(schemasOf(contract), "openapi");
	return ajv;
}

function schemasOf(contract: Contract): AnySchema {
	const { document } = contract;
	const components = document.components;
	const schemas =
		typeof components === "object" && components !== null && "schemas" in components ? components.schemas : {};
	return { components: { schemas: rewrite(schemas) } };
}

function absolute(schema: object): AnySchema {
	return { ...object(rewrite(schema)) };
}

function object(value: unknown): object {
	return typeof value === "object" && value !== null ? value : {};
}

/** `#/…` means the contract wherever a schema is compiled alone. */
function rewrite(node: unknown): unknown {
	if (Array.isArray(node)) return node.map(rewrite);
	if (typeof node !== "object" || node === null) return node;
	return Object.fromEntries(
		Object.entries(node).map(([key, value]) => [
			key,
			key === "$ref" && typeof value === "string" ? value.replace(/^#\//, "openapi#/") : rewrite(value),
		]),
	);
}
