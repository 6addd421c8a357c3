import { access } from "node:fs/promises";
import path from "node:path";
import { BuildError, type Builder, type Call, type SourceTree } from "../builders/builder.ts";
import { AppError } from "../errors.ts";
import { nothingToRun } from "./maker.ts";

type Named = { readonly name: string };

/** Rejects a builder that this server does not have, with `invalid_argument`. */
export function checkBuilder(name: string | null | undefined, builders: readonly string[]): void {
	if (name === undefined || name === null || builders.includes(name)) return;
	throw new AppError("invalid_argument", `there is no builder ${name}; there are ${builders.join(", ")}`, {
		field: "builder",
		hint: "Leave it away, and the source's files say which one it is.",
	});
}

/** The one that a wish names, or undefined where it names none. The server may have been set up anew since. */
export function named<T extends Named>(builders: readonly T[], name: string | null | undefined): T | undefined {
	if (name === undefined || name === null) return undefined;
	const found = builders.find((builder) => builder.name === name);
	if (found !== undefined) return found;
	const names = builders.map((builder) => builder.name).join(", ");
	throw new BuildError("source_invalid", `there is no builder ${name} any more; there are ${names}`);
}

/** Of the builders that are for a source, the one whose marker is nearest to the entrypoint; the earlier of two. */
export async function nearestBuilder(
	builders: readonly Builder[],
	source: SourceTree,
	entrypoint: string,
	call: Call,
): Promise<Builder> {
	const fitting: Builder[] = [];
	for (const builder of builders) if (await builder.detect(source, entrypoint, call)) fitting.push(builder);
	const [first] = fitting;
	if (first === undefined) throw nothingToRun("build", entrypoint, builders);
	if (fitting.length === 1) return first;
	const root = await source.directory(call);
	for (let folder = path.posix.normalize(entrypoint); ; folder = path.posix.dirname(folder)) {
		for (const builder of fitting)
			for (const marker of builder.markers) if (await exists(path.join(root, folder, marker))) return builder;
		if (folder === "." || folder === "/") return first;
	}
}

function exists(file: string): Promise<boolean> {
	return access(file).then(
		() => true,
		() => false,
	);
}
