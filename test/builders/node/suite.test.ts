import t from "tap";
import { createNodeBuilder } from "../../../src/builders/node/node.ts";
import type { Sandbox } from "../../../src/builders/sandbox/sandbox.ts";
import { builderSuite, temporaryFolder } from "../../conformance/builder.ts";
import { bubblewrap, containers, noEngine, open, skip } from "../hostile/sandboxes.ts";
import { Registry } from "./registry.ts";

async function suite(t: Parameters<typeof builderSuite>[0], sandbox: Sandbox) {
	const registry = await Registry.open(t);
	await registry.publish("greet", { "index.js": 'exports.greet = (name) => "hi " + name;\n' });
	await registry.publish("slow", {});
	const serverEnv = await registry.serverEnv(t);
	const main = 'import { greet } from "greet";\nconsole.log(greet("you"));\n';
	await builderSuite(t, {
		name: "node",
		factory: async (workFolder) =>
			createNodeBuilder({ cacheFolder: await temporaryFolder(t), workFolder, sandbox, serverEnv }),
		samples: {
			valid: { ...registry.project(["greet"], { type: "module" }), "main.ts": main },
			nested: {
				files: { "package.json": '{"name":"a"}', "cmd/a/package.json": '{"main":"run.js"}', "cmd/a/run.js": "" },
				entrypoint: "cmd/a",
			},
			broken: {
				files: { "package.json": "{}", "main.ts": 'console.log("hi");\nconst x: string = ;\n' },
				...{ file: "main.ts", line: 2, column: 19, message: /Unexpected ";"/ },
			},
			// The tarball never comes.
			slow: () => ({ ...registry.project(["slow"]), "main.js": 'require("slow");\n' }),
			foreign: { "README.md": "nothing to build" },
		},
	});
}

t.test("without a sandbox", (t) => suite(t, open));
t.test("in a sandbox", { skip }, async (t) => suite(t, await bubblewrap(t)));
t.test("in containers", { skip: noEngine }, async (t) => suite(t, await containers(t)));
