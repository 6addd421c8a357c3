import type { InstanceRecord, SpecRecord } from "./state-file.ts";

/** `$PORT`, `${PORT}`, `$HOST` and `${HOST}` in an argument. `host` is the engine's `programHost`. */
export function expand(arg: string, { port }: Pick<InstanceRecord, "port">, host: string): string {
	const values: Readonly<Record<string, string>> = { PORT: String(port), HOST: host };
	return arg.replace(
		/\$(?:\{(PORT|HOST)\}|(PORT|HOST)(?![A-Za-z0-9_]))/g,
		(text, braced?: string, bare?: string) => values[braced ?? bare ?? ""] ?? text,
	);
}

/** What every program is told by its environment, its own settings included. The engine puts PATH, HOME and so on before it. */
export function toldByEnvironment(
	spec: SpecRecord,
	{ port }: Pick<InstanceRecord, "port">,
	host: string,
): Record<string, string> {
	return {
		...spec.env,
		PORT: String(port),
		HOST: host,
		SERVICE_NAME: spec.name,
		SERVICE_VERSION: spec.version,
		SERVICE_NAMESPACE: spec.namespace,
		SERVICE_REVISION: String(spec.revision),
	};
}
