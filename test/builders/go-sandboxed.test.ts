import t from "tap";
import { createGoBuilder } from "../../src/builders/go/go.ts";
import { builderSuite } from "../conformance/builder.ts";
import { goSamples } from "./go-samples.ts";
import { bubblewrap, CACHE, containers, noEngine, skip } from "./hostile/sandboxes.ts";

for (const groups of [true, false])
	t.test(`in a sandbox, ${groups ? "with" : "without"} control groups`, { skip }, async (t) => {
		const sandbox = await bubblewrap(t, { groups });
		await builderSuite(t, {
			name: "go",
			factory: (workFolder) => createGoBuilder({ cacheFolder: CACHE, workFolder, sandbox }),
			samples: goSamples(),
		});
	});

t.test("in containers", { skip: noEngine }, async (t) => {
	const sandbox = await containers(t);
	await builderSuite(t, {
		name: "go",
		factory: (workFolder) => createGoBuilder({ cacheFolder: CACHE, workFolder, sandbox }),
		samples: goSamples(),
	});
});
