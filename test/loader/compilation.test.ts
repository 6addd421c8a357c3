import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { compilation, isLoaderSource, LoaderBinary } from "../../src/runtimes/docker/loader-binary.ts";

const SOURCES = path.resolve(import.meta.dirname, "../../images/loader");
/** Says what it is told, and makes what it is asked for. */
const GO = `#!/bin/sh
for word; do last=$before; before=$word; echo "arg $word"; done
for name in CGO_ENABLED GOWORK GOTOOLCHAIN GOFLAGS; do eval "echo \\"set $name=\\$$name\\""; done
case $last in /*) echo made > "$last" ;; esac
`;

function folder(t: Test): string {
	const made = mkdtempSync(path.join(tmpdir(), "runtime-compilation-"));
	t.teardown(() => rmSync(made, { recursive: true }));
	return made;
}

function fakeGo(t: Test): string {
	const file = path.join(folder(t), "go");
	writeFileSync(file, GO);
	chmodSync(file, 0o755);
	return file;
}

t.test("the Dockerfile tells Go what the server and the package tell it", async (t) => {
	const dockerfile = readFileSync(path.join(SOURCES, "../Dockerfile"), "utf8");
	const command = /^RUN (.* go build .*?) \\$/m.exec(dockerfile)?.[1];
	if (command === undefined) return t.fail("no go build in the Dockerfile");
	const goal = "/out/runtime-loader";
	const PATH = `${path.dirname(fakeGo(t))}:${process.env.PATH}`;
	const said = execFileSync("sh", ["-c", command.replaceAll(goal, "runtime-loader")], {
		cwd: SOURCES,
		encoding: "utf8",
		env: { PATH, GOFLAGS: "-x", GOWORK: "elsewhere", CGO_ENABLED: "1" },
	});
	const { args, settings } = await compilation(SOURCES, "arm64", "runtime-loader");
	const { GOOS, GOARCH, ...others } = settings;
	const wanted = [
		...args.map((arg) => `arg ${arg}`),
		...["CGO_ENABLED", "GOWORK", "GOTOOLCHAIN", "GOFLAGS"].map((name) => `set ${name}=${others[name]}`),
	];
	t.same(said.trimEnd().split("\n"), wanted);
	t.same({ GOOS, GOARCH, count: Object.keys(others).length }, { GOOS: "linux", GOARCH: "arm64", count: 4 });
	t.ok(args.includes("-trimpath") && args.includes("-ldflags=-s -w -buildid="), args.join(" "));
});

t.test("other flags make another loader, also where one is kept", async (t) => {
	const [sources, cache] = [folder(t), folder(t)];
	for (const name of readdirSync(SOURCES))
		if (isLoaderSource(name)) cpSync(path.join(SOURCES, name), path.join(sources, name));
	const made = () => new LoaderBinary({ go: fakeGo(t), cache, sources }).file("arm64");
	const one = await made();
	t.equal(await made(), one);
	writeFileSync(path.join(sources, "build.env"), 'BUILD_FLAGS="-trimpath"\n');
	t.not(await made(), one);
});
