import { mkdtemp, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import Docker from "dockerode";
import t, { type Test } from "tap";
import { chooseSandbox, type SandboxChoice, type SandboxOptions } from "../../src/builders/sandbox/choose.ts";
import { loadConfig } from "../../src/config.ts";
import { BuildContainers } from "../../src/runtimes/docker/build-containers.ts";
import { BWRAP, noEngine, ownEngine, skip } from "./hostile/sandboxes.ts";

const call = { signal: new AbortController().signal };

async function choose(t: Test, choice: SandboxChoice, path: string, how: Partial<SandboxOptions> = {}) {
	const workFolder = await mkdtemp(join(tmpdir(), "choice-"));
	t.teardown(() => rm(workFolder, { recursive: true, force: true }));
	const chosen = await chooseSandbox(choice, { workFolder, path, ...how }, call);
	t.teardown(() => chosen[Symbol.asyncDispose]());
	return { chosen, workFolder };
}

const containersAt = (socketPath: string) => ({
	containers: { engine: new BuildContainers(new Docker({ socketPath })), owner: Math.random().toString(36).slice(2) },
});

/** A folder with a bwrap that says no. */
async function broken(t: Test): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), "choice-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const script = "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n";
	await writeFile(join(folder, "bwrap"), script, { mode: 0o755 });
	return folder;
}

t.test("auto takes bubblewrap where it works, and is none, with the reason, where it does not", async (t) => {
	const nowhere = await choose(t, "auto", "/nonexistent");
	t.equal(nowhere.chosen.sandbox.name, "none");
	t.match(nowhere.chosen.warning, /without a sandbox.*there is no bwrap on the PATH.*install bubblewrap/);
	const refused = await choose(t, "auto", await broken(t));
	t.equal(refused.chosen.sandbox.name, "none");
	t.match(refused.chosen.warning, /bwrap does not work here: .*uid map: Permission denied/);
	t.same(await readdir(refused.workFolder), [], "nothing is left of the trial");
});

t.test("auto and bubblewrap, where it works", { skip }, async (t) => {
	const folder = await mkdtemp(join(tmpdir(), "choice-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	await symlink(BWRAP ?? "", join(folder, "bwrap"));
	for (const choice of ["auto", "bubblewrap"] as const)
		for (const path of [`/nonexistent:${folder}`, dirname(BWRAP ?? "")]) {
			const { chosen } = await choose(t, choice, path);
			t.match(chosen, { sandbox: { name: "bubblewrap" }, warning: undefined });
		}
});

t.test("what is weaker is said, and nothing that is not so", { skip }, async (t) => {
	const root = process.getuid?.() === 0;
	const noteOf = async (how: { groups?: boolean; filter?: boolean }) =>
		(await choose(t, "bubblewrap", dirname(BWRAP ?? ""), how)).chosen.note ?? "";
	const groups = await noteOf({ groups: false, filter: true });
	t.match(groups, /control groups.*for each process of a build alone/);
	t.match(groups, root ? /is not limited, as the server runs as root/ : /counts for its user/);
	t.notMatch(groups, /system calls/);
	t.match(await noteOf({ filter: false }), /system calls are not filtered/);
	t.match(await noteOf({ groups: false, filter: false }), /control groups.*; system calls/);
});

t.test("bubblewrap refuses to go on without it", async (t) => {
	for (const path of ["/nonexistent", await broken(t)])
		await t.rejects(choose(t, "bubblewrap", path), {
			code: "unavailable",
			message: /no sandbox for builds/,
			hint: /install/,
		});
});

t.test("none is not complained about", async (t) => {
	const { chosen } = await choose(t, "none", process.env.PATH ?? "");
	t.match(chosen, { sandbox: { name: "none" }, warning: undefined, note: undefined });
});

t.test("where Docker is the runtime, auto takes containers after bubblewrap", { skip: noEngine || skip }, async (t) => {
	const { socket } = await ownEngine();
	const refused = await choose(t, "auto", await broken(t), containersAt(socket));
	t.match(refused.chosen, { sandbox: { name: "container" }, warning: undefined });
	t.match(refused.chosen.note, /builds run in containers, which takes longer: bwrap does not work here/);
	const first = await choose(t, "auto", dirname(BWRAP ?? ""), containersAt(socket));
	t.equal(first.chosen.sandbox.name, "bubblewrap");
	const named = await choose(t, "container", dirname(BWRAP ?? ""), containersAt(socket));
	t.match(named.chosen, { sandbox: { name: "container" }, warning: undefined, note: undefined });
});

t.test("without an engine there are no containers", async (t) => {
	for (const [how, message] of [
		[containersAt("/no/such/docker.sock"), /no sandbox for builds: containers do not work .*does not answer/],
		[undefined, /the runtime is not Docker/],
	] as const)
		await t.rejects(choose(t, "container", "/nonexistent", how), { code: "unavailable", message, field: "sandbox" });
	const { chosen } = await choose(t, "auto", "/nonexistent", containersAt("/no/such/docker.sock"));
	t.match(chosen, { sandbox: { name: "none" }, warning: /no bwrap on the PATH; containers do not work/ });
});

t.test("--sandbox container is of the profile docker", async (t) => {
	t.throws(() => loadConfig(["--sandbox", "container"], {}), {
		...{ code: "invalid_argument", message: /--sandbox container needs --profile docker; it is "local"/ },
	});
	t.equal(loadConfig(["--sandbox", "container", "--profile", "docker"], {}).sandbox, "container");
	t.throws(() => loadConfig(["--sandbox", "jail"], {}), { message: /must be auto, bubblewrap, container or none/ });
});
