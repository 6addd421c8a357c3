import { createHash } from "node:crypto";
import t from "tap";
import { MemoryRuntime } from "../conformance/memory-runtime.ts";
import { runtimeSuite } from "../conformance/runtime.ts";

runtimeSuite(t, async () => {
	const runtime = new MemoryRuntime();
	runtime.outcome = ({ args, revision }) => {
		const failure = { exitCode: null, lastLines: [] };
		switch (args[0]) {
			case "serve":
				return { kind: "ready", output: `serving ${revision}` };
			case "exit0":
				return { kind: "end" };
			case "exit3":
				return {
					kind: "fail",
					failure: { code: "exited", message: "exited with code 3", exitCode: 3, lastLines: ["failing"] },
				};
			default:
				return revision === 1
					? { kind: "fail", failure: { ...failure, code: "not_listening", message: "nothing on $PORT" } }
					: { kind: "hang" };
		}
	};
	const bytes = Buffer.from("a program");
	const sha256 = createHash("sha256").update(bytes).digest("hex");
	return {
		runtime,
		spec: (service, revision, behaviour, change = {}) => ({
			...service,
			revision,
			generation: 1,
			program: {
				kind: "build",
				sha256,
				size: bytes.length,
				open: async () =>
					(async function* () {
						yield bytes;
					})(),
			},
			requires: "none",
			args: [behaviour],
			env: {},
			health: { type: "port", path: "/", timeout: 60 },
			restart: "on-failure",
			instances: 1,
			...change,
		}),
		ask: async (url) => {
			const spec = runtime.servedAt(url);
			return spec === null ? null : `revision ${spec.revision}`;
		},
		close: () => runtime[Symbol.asyncDispose](),
	};
});
