import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Observed, Runtime } from "../../../src/runtimes/runtime.ts";
import { until } from "../../conformance/runtime.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { ask, call, reach, SERVICE } from "../runtime-harness.ts";
import { containers, harness, openRuntime, openSite, spec } from "./docker-harness.ts";
import { openProxy } from "./engine-proxy.ts";

const skip = await Dockerd.missing();
if (skip !== false) t.plan(0, skip);
else {
	const site = await openSite(t);
	const { docker } = site.dockerd;
	const failureOf = ({ revisions }: Observed) => revisions.at(-1)?.failure ?? null;
	const waitsFor = (runtime: Runtime, words: RegExp) =>
		until(
			() => runtime.observe(SERVICE, call),
			(seen) => words.test(failureOf(seen)?.message ?? ""),
			`its status says ${words}`,
		);
	const killAll = async () => {
		for (const { Id } of await containers(site)) await docker.getContainer(Id).kill();
	};

	t.test("an engine that refuses for a while ends no service that has run", async (t) => {
		const proxy = await openProxy(t, site.dockerd.socket);
		const { runtime } = await harness(t, site, { socket: proxy.socket });
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const { url } = await reach(runtime, 1, "ready");
		proxy.instead = (what) =>
			what.startsWith("POST /containers/create") ? { status: 500, message: "no room in /var/lib" } : null;
		const asked = proxy.asked.length;
		const creates = () => proxy.asked.slice(asked).filter((what) => what.startsWith("POST /containers/create")).length;
		await killAll();
		const seen = await waitsFor(runtime, /could not be started/);
		t.match(seen.revisions, [{ phase: "starting", failure: { code: "internal", message: /operator/ } }]);
		t.notMatch(failureOf(seen)?.message, /var\/lib/, "what the engine says of itself is for the log");
		await until(
			async () => creates(),
			(count) => count > 8,
			"it is tried again and again",
		);
		proxy.instead = () => null;
		t.match(await reach(runtime, 1, "ready"), { url, revisions: [{ failure: null }] });
		t.equal(await ask(url ?? ""), "revision 1");
	});

	t.test("a first start that the engine refuses fails, and says whose it is to mend", async (t) => {
		const proxy = await openProxy(t, site.dockerd.socket);
		const { runtime } = await harness(t, site, { socket: proxy.socket });
		proxy.instead = (what) => (/^POST \/containers\/\w+\/start/.test(what) ? { status: 500, message: "oops" } : null);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		t.match(failureOf(await reach(runtime, 1, "failed")), { code: "internal", message: /for the operator to mend/ });
		proxy.instead = () => null;
	});

	t.test("a base image that somebody removed comes back by itself", async (t) => {
		const { runtime } = await harness(t, site, { remake: site.remake });
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const before = await reach(runtime, 1, "ready");
		await docker.getImage(site.image).remove({ force: true });
		await killAll();
		const removed = Date.now();
		await until(
			() => ask(before.url ?? ""),
			(body) => body === "revision 1",
			"it answers again",
		);
		t.comment(`it answers ${Date.now() - removed} ms after image and container are gone`);
		t.match(await reach(runtime, 1, "ready"), { url: before.url, revisions: [{ failure: null }] });
		t.match(await docker.getImage(site.image).inspect(), { RepoTags: [site.image] });
	});

	t.test("an operator's image that is gone is waited for", async (t) => {
		const image = "operators/own:1";
		await docker.getImage(site.image).tag({ repo: "operators/own", tag: "1" });
		const { runtime } = await harness(t, site, { images: async () => image, remake: { ...site.remake, image } });
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		await reach(runtime, 1, "ready");
		await docker.getImage(image).remove({ force: true });
		await killAll();
		const seen = await waitsFor(runtime, /the image operators\/own:1 is not there; the operator has to put it/);
		t.match(seen.revisions, [{ phase: "starting" }]);
		await docker.getImage(site.image).tag({ repo: "operators/own", tag: "1" });
		t.match(failureOf(await reach(runtime, 1, "ready")), null);
		await runtime.stop(SERVICE, call);
		await docker.getImage(image).remove();
	});

	t.test("where no network can be made it says so, and who can do what", async (t) => {
		const { runtime } = await harness(t, site);
		const Subnet = site.dockerd.address.replace(/255\.1$/, "0.0/17");
		const all = await docker.createNetwork({ Name: "takes-all", Driver: "bridge", IPAM: { Config: [{ Subnet }] } });
		try {
			await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
			t.match(failureOf(await reach(runtime, 1, "failed")), {
				code: "internal",
				message: /no network for the namespace "default".*address ranges.*the operator can.*default-address-pools/,
			});
		} finally {
			await all.remove();
		}
	});

	t.test("where a network has no address left it says so", async (t) => {
		const { runtime } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		await reach(runtime, 1, "ready");
		const [network] = await docker.listNetworks({ filters: { label: ["runtime-builds.folder"] } });
		await runtime.stop(SERVICE, call);
		await docker.getNetwork(network?.Id ?? "").remove();
		const Subnet = site.dockerd.address.replace(/255\.1$/, "9.0/30");
		const { Name = "", Labels } = network ?? {};
		await docker.createNetwork({ Name, Driver: "bridge", Labels: Labels ?? {}, IPAM: { Config: [{ Subnet }] } });
		await runtime.apply(spec(site, SERVICE, 2, ["serve"], { instances: 2 }), call);
		t.match(failureOf(await reach(runtime, 2, "failed")), {
			code: "internal",
			message: /all addresses of the namespace "default" are taken.*the operator can/,
		});
	});

	t.test("another socket is taken over where nothing runs, and refused where something does", async (t) => {
		const [one, other] = [await openProxy(t, site.dockerd.socket), await openProxy(t, site.dockerd.socket)];
		// It is there, and not by chance about to end, when the next server comes.
		const options = { idleMs: 60_000 };
		const { runtime, folder, close } = await harness(t, site, { ...options, socket: one.socket });
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const { url } = await reach(runtime, 1, "ready");
		await close();
		await t.rejects(openRuntime(site, folder, { ...options, socket: other.socket }), {
			code: "invalid_argument",
			field: "docker",
			message: `services of this data folder run on the Docker engine at ${one.socket}, and are not moved to the one at ${other.socket}`,
			hint: /--docker .*docker\.sock and kill them first/,
		});
		t.equal(await ask(url ?? ""), "revision 1", "it goes on");
		const again = await openRuntime(site, folder, { ...options, socket: one.socket });
		await again.remove(SERVICE, call);
		await again[Symbol.asyncDispose]();
		const moved = await openRuntime(site, folder, { ...options, socket: other.socket });
		const asked = one.asked.length;
		await moved.apply(spec(site, SERVICE, 1, ["serve"]), call);
		await reach(moved, 1, "ready");
		t.ok(other.asked.some((what) => what.startsWith("POST /containers/create")));
		t.notOk(one.asked.slice(asked).some((what) => what.startsWith("POST")));
		await moved.remove(SERVICE, call);
		await moved[Symbol.asyncDispose]();
	});

	t.test("a socket of another name is the same engine", async (t) => {
		const folder = await mkdtemp(join(tmpdir(), "alias-"));
		t.teardown(() => rm(folder, { recursive: true, force: true }));
		const alias = join(folder, "docker.sock");
		await symlink(site.dockerd.socket, alias);
		const { runtime, folder: data, close } = await harness(t, site);
		await runtime.apply(spec(site, SERVICE, 1, ["serve"]), call);
		const { url } = await reach(runtime, 1, "ready");
		const [before] = await containers(site);
		await close();
		const second = await openRuntime(site, data, { socket: alias });
		await reach(second, 1, "ready");
		await until(
			() => ask(url ?? ""),
			(body) => body === "revision 1",
			"it answers",
		);
		t.equal((await containers(site))[0]?.Id, before?.Id, "the same container");
		await second[Symbol.asyncDispose]();
	});
}
