import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t from "tap";
import { cacheFolderOf } from "../../../src/builders/caches.ts";
import { createGoBuilder } from "../../../src/builders/go/go.ts";
import { HOST_TARGET, treeOf } from "../../conformance/builder.ts";
import { MOD, main } from "../go-samples.ts";
import { bubblewrap, CACHE, folderFor, never, skip } from "./sandboxes.ts";

// The first run on a machine compiles a good part of the standard library.
t.setTimeout(280_000);

t.test(
	"a new namespace's cache starts as a copy of the server's own, and is its own from then on",
	{ skip },
	async (t) => {
		const namespace = `test-${process.pid}-${randomBytes(4).toString("hex")}`;
		const cache = cacheFolderOf(CACHE, namespace, "go");
		t.teardown(() => rm(dirname(cache), { recursive: true, force: true }));
		const builder = createGoBuilder({
			...{ cacheFolder: CACHE, workFolder: await folderFor(t), sandbox: await bubblewrap(t) },
		});
		const options = { namespace, entrypoint: ".", env: {}, target: HOST_TARGET };
		const source = { "go.mod": MOD, "main.go": main("\thttp.ListenAndServe(``, nil)", 'import "net/http"\n') };
		const build = async () => builder.build(await treeOf(t, source), options, { signal: never, log: () => undefined });
		{
			await using made = await build();
			t.ok(made.size > 0);
		}
		const [seed = ""] = (await readdir(join(CACHE, "go"))).filter((name) => name.startsWith("seed-"));
		const own = join(cache, "build");
		const objects = (await readdir(join(CACHE, "go", seed), { recursive: true })).filter((name) => name.endsWith("-d"));
		t.ok(objects.length > 500);
		const [object = ""] = objects;
		t.ok(existsSync(join(own, object)), "it has what the seed has");
		t.not((await stat(join(own, object))).ino, (await stat(join(CACHE, "go", seed, object))).ino, "not the same file");
		const before = await readFile(join(CACHE, "go", seed, object));
		await writeFile(join(own, object), "poisoned");
		t.same(await readFile(join(CACHE, "go", seed, object)), before, "what is done to it stays in it");

		const started = performance.now();
		await rm(dirname(cache), { recursive: true });
		await using again = await build();
		t.ok(again.size > 0);
		t.comment(`first build of a namespace, from the seed: ${Math.round(performance.now() - started)} ms`);
	},
);
