import type { Context } from "./context.ts";
import { usage } from "./errors.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Service } from "./shapes.ts";

/**
 * The values of the secrets that the project's file names: from our environment, else what the service has already is
 * kept, else asked for on a terminal. Rejects where nobody can be asked.
 */
export async function secretsOf(
	context: Context,
	names: readonly string[],
	before: Service | undefined,
	interrupts: Interrupts,
): Promise<Record<string, string>> {
	const values: Record<string, string> = {};
	const kept = new Set(before?.env);
	const missing: string[] = [];
	for (const name of names) {
		const value = context.env[name];
		if (value !== undefined) values[name] = value;
		else if (!kept.has(name)) missing.push(name);
	}
	if (missing.length === 0) return values;
	if (process.stdin.isTTY !== true || context.stderr.isTTY !== true)
		throw usage(`runtime.json: no value for the secret ${missing.join(", ")}; nothing was uploaded`, [
			`Try:  set ${missing[0] ?? ""} in the environment`,
			"Or:   --env-from -, with NAME=VALUE on stdin",
		]);
	const { askHidden } = await import("./prompt.ts");
	await interrupts.paused(async () => {
		for (const name of missing) values[name] = await askHidden(`${name} (not shown): `, process.stdin, context.stderr);
	});
	return values;
}
