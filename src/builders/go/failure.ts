import { BuildError, type BuildOptions, type Diagnostic } from "../builder.ts";
import { mainFolders } from "./module.ts";
import { type GoFailure, type OutputPlaces, withoutPlaces } from "./output.ts";
import { type GoToolchain, goTooOld } from "./toolchain.ts";

const MAX_SENTENCE = 400;

/** The error for a `go build` that failed, in one sentence that starts with the first complaint. */
export async function explainFailure(
	failure: GoFailure,
	plan: {
		readonly toolchain: GoToolchain;
		readonly options: BuildOptions;
		readonly places: OutputPlaces;
		readonly lines: readonly string[];
		readonly exitCode: number;
	},
): Promise<BuildError> {
	const { diagnostics } = failure;
	const details = { diagnostics, exitCode: plan.exitCode };
	const said = sentence(diagnostics) ?? lastWords(plan);
	switch (failure.kind) {
		case "go_too_old":
			return goTooOld(plan.toolchain.version, failure.needed ?? "", `a module of the build (${said})`);
		case "unavailable":
			return new BuildError("unavailable", `the build could not fetch a module: ${said}`, details);
		case "no_program":
			return new BuildError(
				"source_invalid",
				`there is no Go program in ${plan.options.entrypoint}: ${said}${await nearby(plan.places.root)}`,
				details,
			);
		default:
			return new BuildError(failure.kind, said, details);
	}
}

function sentence(diagnostics: readonly Diagnostic[]): string | undefined {
	const [first, ...others] = diagnostics;
	if (first === undefined) return undefined;
	const place = [first.file, first.line, first.column].filter((part) => part !== "" && part !== 0).join(":");
	const [head = ""] = first.message.split("\n");
	const tail = first.message.slice(head.length + 1).replaceAll("\n", " ");
	const words = tail === "" ? head : `${head} ${tail}`;
	const shown = words.length > MAX_SENTENCE ? `${words.slice(0, MAX_SENTENCE)}…` : words;
	return `${place === "" ? "" : `${place}: `}${shown}${others.length === 0 ? "" : ` (and ${others.length} more)`}`;
}

function lastWords(plan: {
	readonly lines: readonly string[];
	readonly places: OutputPlaces;
	readonly exitCode: number;
}): string {
	const last = plan.lines.findLast((line) => line.trim() !== "");
	if (last !== undefined) return withoutPlaces(last, plan.places);
	return plan.exitCode === 137
		? "the compiler was killed; the machine may be short of memory"
		: `go build ended with ${plan.exitCode}`;
}

/** Where the source has programs, as the end of a sentence. */
export async function nearby(root: string): Promise<string> {
	const folders = await mainFolders(root);
	return folders.length === 0
		? "; no folder of it has a `package main`"
		: `; programs (\`package main\`) are in: ${folders.join(", ")}`;
}
