import { AppError } from "../errors.ts";

const KEY = /^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/;
const PREFIX = /^([A-Za-z0-9_-][A-Za-z0-9._-]*(\/|$))*$/;
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const MAX_LENGTH = 512;

export function checkNamespace(namespace: string): void {
	if (NAMESPACE.test(namespace)) return;
	throw new AppError("invalid_argument", `"${namespace.slice(0, 80)}" is no namespace`, {
		field: "namespace",
		hint: "use 1 to 63 of a-z, 0-9 and -, with no - at either end",
	});
}

/** The store's key for a key of a namespace: the one place where the two meet. */
export function namespacedKey(namespace: string, key: string): string {
	const full = `${namespace}/${key}`;
	if (full.length <= MAX_LENGTH && KEY.test(key)) return full;
	throw new AppError("invalid_argument", `"${key.slice(0, 80)}" is no blob key`, {
		field: "key",
		hint: `use segments of A-Z a-z 0-9 . _ - that do not start with a dot, separated by /, at most ${MAX_LENGTH - namespace.length - 1} characters`,
	});
}

/** The store's prefix; the slash after the namespace keeps `a` from seeing what is in `ab`. */
export function namespacedPrefix(namespace: string, prefix: string): string {
	const full = `${namespace}/${prefix}`;
	if (full.length <= MAX_LENGTH && PREFIX.test(prefix)) return full;
	throw new AppError("invalid_argument", `"${prefix.slice(0, 80)}" can be no prefix of a blob key`, {
		field: "prefix",
	});
}
