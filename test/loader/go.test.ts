import { spawnSync } from "node:child_process";
import path from "node:path";
import t from "tap";

const FOLDER = path.resolve(import.meta.dirname, "../../images/loader");
const none = spawnSync("go", ["version"]).error !== undefined;

t.test("the loader's own tests", { skip: none && "there is no Go" }, async (t) => {
	for (const args of [
		["vet", "./..."],
		["test", "-count=1", "./..."],
	]) {
		const { status, stdout, stderr } = spawnSync("go", args, {
			cwd: FOLDER,
			encoding: "utf8",
			env: { ...process.env, GOWORK: "off", GOTOOLCHAIN: "local", GOFLAGS: "" },
		});
		t.equal(status, 0, `go ${args.join(" ")}\n${stdout}${stderr}`);
	}
});
