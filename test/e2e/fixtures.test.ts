import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { exampleSuite, gitInit } from "./examples.ts";

const place = await mkdtemp(path.join(tmpdir(), "runtime-fixtures-"));
t.teardown(() => rm(place, { recursive: true, force: true }));
const repository = path.join(place, "x");
await cp(path.resolve(import.meta.dirname, "../fixtures/monorepo"), repository, { recursive: true });
gitInit(repository);
await t.test("our own monorepo", (t) =>
	exampleSuite(t, {
		repository,
		printer: { folder: "printer", says: /\S/ },
		builds: "withdeps",
		beside: path.join(place, "beside"),
	}),
);
