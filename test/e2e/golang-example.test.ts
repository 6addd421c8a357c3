import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { exampleSuite } from "./examples.ts";

// A real monorepo of somebody else's. It is not part of the project; a clone of the project alone does without.
const bundle = path.resolve(import.meta.dirname, "../../../shared/inputs/golang-example.bundle");
if (!existsSync(bundle)) {
	t.test("golang/example, data from outside the project", { skip: "outside the project" }, () => undefined);
} else {
	const place = await mkdtemp(path.join(tmpdir(), "runtime-golang-"));
	t.teardown(() => rm(place, { recursive: true, force: true }));
	const repository = path.join(place, "x");
	execFileSync("git", ["clone", "--quiet", bundle, repository]);
	await t.test("golang/example", (t) =>
		exampleSuite(t, {
			repository,
			printer: { folder: "hello", says: /Hello, world!/ },
			builds: "outyet",
			beside: path.join(place, "beside"),
		}),
	);
}
