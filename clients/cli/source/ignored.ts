import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ignore, { type Ignore } from "ignore";

/** Ignore files of one name, nested as git nests them: the deepest that has something to say decides. */
export class IgnoreFiles {
	readonly #root: string;
	readonly #name: string;
	/** By folder, relative, with a closing `/`; the root is the empty string. */
	readonly #rules = new Map<string, Ignore | undefined>();
	readonly #folders = new Map<string, boolean>();

	constructor(root: string, name: string) {
		this.#root = root;
		this.#name = name;
	}

	/** Whether a file, or a folder that it is in, is ignored. */
	ignores(path: string): boolean {
		const slash = path.lastIndexOf("/");
		return (slash > 0 && this.ignoresFolder(path.slice(0, slash + 1))) || this.#matches(path);
	}

	/** As `ignores`, for a folder with its closing `/`. What is below an ignored folder cannot be brought back. */
	ignoresFolder(folder: string): boolean {
		const known = this.#folders.get(folder);
		if (known !== undefined) return known;
		const slash = folder.lastIndexOf("/", folder.length - 2);
		const result = (slash > 0 && this.ignoresFolder(folder.slice(0, slash + 1))) || this.#matches(folder);
		this.#folders.set(folder, result);
		return result;
	}

	#matches(path: string): boolean {
		let result = false;
		const inner = path.endsWith("/") ? path.length - 1 : path.length;
		for (let slash = -1; slash < inner; slash = path.indexOf("/", slash + 1)) {
			const folder = path.slice(0, slash + 1);
			const rest = path.slice(slash + 1);
			const verdict = rest === "" ? undefined : this.#ruleOf(folder)?.test(rest);
			if (verdict?.ignored) result = true;
			else if (verdict?.unignored) result = false;
			if (path.indexOf("/", slash + 1) < 0) break;
		}
		return result;
	}

	#ruleOf(folder: string): Ignore | undefined {
		if (this.#rules.has(folder)) return this.#rules.get(folder);
		const file = join(this.#root, folder, this.#name);
		const rule = existsSync(file) ? ignore().add(readFileSync(file, "utf8")) : undefined;
		this.#rules.set(folder, rule);
		return rule;
	}
}
