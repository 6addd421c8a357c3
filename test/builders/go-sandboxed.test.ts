import t from "tap";
import { createGoBuilder } from "../../src/builders/go/go.ts";
import { builderSuite } from "../conformance/builder.ts";
import { goSamples } from "./go-samples.ts";
import { bubblewrap, CACHE, skip } from "./hostile/sandboxes.ts";

for (const groups of [true, false])
	t.test(`in a sandbox, ${groups ? "with" : "without"} control groups`, { skip }, async (t) => {
		const sandbox = await bubblewrap(t, { groups });
		await builderSuite(t, {
			name: "go",
			factory: (workFolder) => createGoBuilder({ cacheFolder: CACHE, workFolder, sandbox }),
			samples: goSamples(),
		});
	});
