import t, { type Test } from "tap";
import { buildError, type FakeOptions, FakeServer } from "./fake-server.ts";
import { folder, GO_FILES, runtime } from "./harness.ts";

async function fixture(t: Test, options: FakeOptions = {}) {
	const fake = await FakeServer.start(options);
	t.teardown(() => fake.stop());
	return { fake, cwd: folder(t, GO_FILES), env: { RUNTIME_URL: fake.url } };
}

const failing = (error: Parameters<typeof buildError>[0]): FakeOptions => ({
	script: () => [
		{ to: "Building" },
		{ log: "fetching" },
		{ log: "no such host" },
		{ to: "Error", error: buildError(error) },
	],
});

t.test("a folder that is not there", async (t) => {
	const { cwd, env } = await fixture(t);
	for (const typed of ["./typo", "/nowhere/typo", "typo"]) {
		const { code, stderr } = await runtime(["run", typed], { cwd, env });
		t.equal(code, 2);
		t.match(stderr, `✘ There is no folder ${typed}\n`);
		t.match(stderr, "runtime run ./FOLDER");
	}
	t.match((await runtime(["update", "typo"], { cwd, env })).stderr, "There is no service typo");
});

t.test("what only a server of profile dev runs", async (t) => {
	const { fake, env } = await fixture(t);
	const cwd = folder(t, { Procfile: "web: true\n", "main.py": "" });
	const { code, stderr } = await runtime(["run", "."], { cwd, env });
	t.equal(code, 2);
	t.match(stderr, "Nothing to build in . (no go.mod)");
	t.match(stderr, "Its Procfile and main.py is run as it is by a server of profile dev:  runtime server --profile dev");
	t.equal(fake.uploads.length, 0);
});

t.test("a revision that is not there, of a rollback and of a download", async (t) => {
	const { fake, cwd, env } = await fixture(t);
	fake.seed("hello");
	const rollback = await runtime(["rollback", "hello", "99"], { cwd, env });
	t.equal(rollback.code, 1);
	t.match(rollback.stderr, "✘ there is no revision 99\n  See:  runtime revisions hello\n");
	const none = await runtime(["rollback", "nosuch", "1"], { cwd, env });
	t.match(none.stderr, "There is no service nosuch");
	t.notMatch(none.stderr, "runtime revisions");
});

t.test("stop beside a newer revision that failed has stopped it", async (t) => {
	const { fake, cwd, env } = await fixture(t, failing({ message: "no" }));
	fake.seed("hello");
	t.equal((await runtime(["update", ".", "--name", "hello"], { cwd, env })).code, 1);
	const { code, stderr } = await runtime(["stop", "hello"], { cwd, env });
	t.equal(code, 0, stderr);
	t.equal(stderr, "hello:latest is stopped\n");
});

t.test(
	"what may pass is to be done again, what does not is to be mended; the log does not repeat the error",
	async (t) => {
		for (const [retryable, word] of [
			[true, "Again"],
			[false, "Fix, then"],
		] as const) {
			const { cwd, env } = await fixture(t, failing({ message: "no such host", retryable }));
			const { stderr } = await runtime(["run", ".", "--name", "hello", "-q"], { cwd, env });
			t.match(stderr, `${word}:`);
			t.match(stderr, "fetching\nno such host\nRevision 1 failed to build.");
		}
	},
);
