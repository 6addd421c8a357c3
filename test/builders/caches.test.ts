import { join, relative } from "node:path";
import t from "tap";
import { cacheFolderOf } from "../../src/builders/caches.ts";

t.test("no namespace's cache lies in another's, whatever they are called", async (t) => {
	const languages = ["go", "npm"];
	const names = ["default", "go", "npm", "mod", "build", "namespaces", "a", "a/go", ".", "..", "%2E"];
	const all = names.flatMap((name) => languages.map((language) => cacheFolderOf("/cache", name, language)));
	t.equal(new Set(all).size, all.length, "each has its own");
	for (const one of all) {
		t.notOk(relative("/cache", one).startsWith(".."), one);
		for (const other of all) if (one !== other) t.match(relative(one, other), /^\.\./, `${other} is not in ${one}`);
	}
	t.equal(cacheFolderOf("/cache", "default", "go"), join("/cache", "go"));
});
