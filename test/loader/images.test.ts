import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import Docker from "dockerode";
import t, { type Test } from "tap";
import { ImageArchive } from "../../src/runtimes/docker/image-archive.ts";
import { imageConfig, imageFiles } from "../../src/runtimes/docker/image-files.ts";
import { createImages } from "../../src/runtimes/docker/images.ts";
import { LoaderBinary } from "../../src/runtimes/docker/loader-binary.ts";
import { sharedLibraries } from "../../src/runtimes/docker/shared-libraries.ts";
import { BuildSite, certificates } from "./build-site.ts";
import { Containers, missing } from "./containers.ts";
import { dockerSocket } from "./docker-socket.ts";

const without = missing();
if (without !== false) {
	t.pass(without, { skip: without });
	process.exit();
}
const socketPath = await dockerSocket(t);
const docker = new Docker({ socketPath });

function folder(t: Test): string {
	const made = mkdtempSync(path.join(tmpdir(), "runtime-images-"));
	t.teardown(() => rmSync(made, { recursive: true }));
	return made;
}

const containers = await Containers.open(t, socketPath);
const { loader } = containers;
const { Arch: architecture } = await docker.version();

async function tags(): Promise<string[]> {
	return (await docker.listImages())
		.flatMap(({ RepoTags }) => RepoTags ?? [])
		.filter((tag) => tag.startsWith("runtime-builds/"));
}

t.test("the same files make the same image, whoever asks and however often", async (t) => {
	const [one, other] = await Promise.all(
		[0, 1].map(async () => {
			const images = createImages({ docker, loader });
			return Promise.all([images.image("none"), images.image("none")]);
		}),
	);
	t.match(one?.[0], /^runtime-builds\/none:[0-9a-f]{16}$/);
	t.same(one, other);
	t.equal(one?.[0], one?.[1]);
	const seen = await docker.getImage(one?.[0] ?? "").inspect();
	t.same(seen.Config.Entrypoint, ["/runtime-loader"]);
	t.equal(seen.Config.User, "65532:65532");
	t.match(seen.Config.Env, ["PATH=/usr/local/bin:/usr/bin:/bin"]);
	t.equal(seen.Config.Labels["runtime-builds.image"], "none");
	t.equal(seen.RootFS.Layers?.length, 1);
	t.comment(`none: ${seen.Size} bytes; loader: ${statSync(await loader.file(seen.Architecture)).size} bytes`);
	t.ok(seen.Size < 10_000_000);
});

t.test("a pruned image is made again, and one whose files changed is another", async (t) => {
	const images = createImages({ docker, loader });
	// Other tests use theirs at the same time; this one has another Node.
	const node = path.join(folder(t), "node");
	writeFileSync(node, readFileSync(await loader.file(architecture)));
	const mine = createImages({ docker, loader, node });
	const tag = await mine.image("node");
	t.not(tag, await images.image("none"));
	await docker.getImage(tag).remove();
	t.notOk((await tags()).includes(tag));
	t.equal(await mine.image("node"), tag);
	t.ok((await tags()).includes(tag));
	await docker.getImage(tag).remove();
	writeFileSync(node, Buffer.concat([readFileSync(node), Buffer.from("updated")]));
	await t.rejects(mine.image("node"), { code: "unavailable" }, "the files are others than those that were hashed");
	const updated = await mine.image("node");
	t.not(updated, tag);
	await docker.getImage(updated).remove();
});

t.test("an image for Node runs scripts with source maps, as anybody", async (t) => {
	const images = createImages({ docker, loader });
	const began = performance.now();
	const image = await images.image("node");
	t.comment(
		`node: ${(await docker.getImage(image).inspect()).Size} bytes, in ${Math.round(performance.now() - began)} ms`,
	);
	const script = Buffer.from(
		`#!/usr/bin/env -S node --enable-source-maps\nconst fs = require("node:fs");
require("node:dns").lookup("localhost", (error, address) => console.log(JSON.stringify({ error, address,
	version: process.version, arguments: process.execArgv.concat(process.argv.slice(2)), user: require("node:os").userInfo().username,
	descriptors: fs.readdirSync("/proc/self/fd").map(Number).filter((fd) => fd > 2).flatMap((fd) => {
		try { return [fs.readlinkSync("/proc/self/fd/" + fd)]; } catch { return []; } }) })));\n`,
	);
	await using site = await BuildSite.open(
		containers.gateway,
		certificates(containers.gateway),
		(_request, response) => {
			response.end(script);
		},
	);
	const env = Containers.configuration(site, script);
	const { code, stdout, stderr } = await containers.run({ image, env, args: ["a b"] });
	t.equal(code, 0, stderr);
	const { descriptors, ...seen } = JSON.parse(stdout);
	t.same(seen, {
		error: null,
		address: "127.0.0.1",
		version: process.version,
		arguments: ["--enable-source-maps", "a b"],
		user: "runtime",
	});
	t.same(
		descriptors.filter((target: string) => !/^(anon_inode|pipe|\/dev\/|\/proc\/|socket)/.test(target)),
		[],
	);
});

t.test("an installation's older images go; those that a container uses and those of others stay", async (t) => {
	const made = path.join(folder(t), "made");
	const older = async (text: string): Promise<string> => {
		const files = await imageFiles(await loader.file(architecture), undefined);
		const extra = { type: "text", name: "older", mode: 0o644, text } as const;
		const archive = await ImageArchive.plan([...files, extra], imageConfig({ "runtime-builds.image": "none" }), {
			architecture,
		});
		const tag = `runtime-builds/none:${archive.digest.slice(0, 16)}`;
		const answer = await docker.loadImage(archive.stream(tag), { quiet: true });
		for await (const chunk of answer) t.match(String(chunk), "Loaded");
		return tag;
	};
	const [unused, used, others] = [await older("1"), await older("2"), await older("3")];
	// As an earlier version of this installation has left it.
	mkdirSync(made);
	for (const tag of [unused, used]) writeFileSync(path.join(made, tag.replace(/^.*\/(.*):/, "$1-")), "");
	const container = await docker.createContainer({ Image: used });
	t.teardown(async () => {
		await container.remove();
		for (const tag of [used, others]) await docker.getImage(tag).remove();
	});
	const images = createImages({ docker, loader, made });
	await images.ensure();
	const left = await tags();
	t.notOk(left.includes(unused));
	t.ok(left.includes(used));
	t.ok(left.includes(others), "another server's, though nothing uses it");
	t.equal(readdirSync(made).length, 3, "the used one is to go later");
	t.ok(left.includes(await images.image("none")));
	t.ok(left.includes(await images.image("node")));
});

t.test("an operator's image is used as it is", async (t) => {
	// Nobody listens there: nothing is asked.
	const nobody = new Docker({ socketPath: path.join(folder(t), "none.sock") });
	const images = createImages({ docker: nobody, loader, image: "ours:1", imageNode: "ours-node:1" });
	t.equal(await images.image("none"), "ours:1");
	t.equal(await images.image("node"), "ours-node:1");
	await t.rejects(createImages({ docker: nobody, loader }).image("none"), { code: "unavailable" });
	await t.rejects(images.image("python"), { code: "invalid_argument" });
});

t.test("an image that cannot be made", async (t) => {
	const node = path.join(folder(t), "node");
	writeFileSync(node, "#!/bin/sh\n".padEnd(200));
	chmodSync(node, 0o755);
	const images = createImages({ docker, loader, node });
	await t.rejects(images.image("node"), { code: "unavailable", message: /no 64-bit program for Linux/ });
	await images.ensure();
});

t.test("the loader is the package's, or compiled once, or missing in words", async (t) => {
	const [cache, sources] = [folder(t), folder(t)];
	const compiled = new LoaderBinary({ go: "go", cache });
	const [one, two] = await Promise.all([
		compiled.file(architecture),
		new LoaderBinary({ go: "go", cache }).file(architecture),
	]);
	t.equal(one, two);
	t.same(readdirSync(cache), [path.basename(one)], "nothing half-made is left");
	t.ok(readFileSync(one).equals(readFileSync(await loader.file(architecture))), "reproducible");
	t.same(await sharedLibraries(one), { needed: [], optional: [] });
	t.equal(await new LoaderBinary({ go: "/no/such/go", cache }).file(architecture), one, "Go is needed once");
	await t.rejects(new LoaderBinary({ go: "no-such-go", cache: folder(t) }).file("arm64"), {
		code: "unavailable",
		message: /no Go to compile it \(looked for `no-such-go`\)/,
	});
	await t.rejects(compiled.file("pdp11"), { code: "unavailable" });
	writeFileSync(path.join(sources, "linux-arm64"), "prebuilt");
	t.equal(
		await new LoaderBinary({ go: "no-such-go", cache, sources }).file("arm64"),
		path.join(sources, "linux-arm64"),
	);
	writeFileSync(path.join(sources, "main.go"), "package main\nfunc main() { no }\n");
	await t.rejects(new LoaderBinary({ go: "go", cache, sources }).file("s390x"), { message: /not in this package/ });
	writeFileSync(path.join(sources, "build.env"), "BUILD_FLAGS=-trimpath\n");
	await t.rejects(new LoaderBinary({ go: "go", cache, sources }).file("s390x"), {
		code: "unavailable",
		message: /cannot be compiled/,
	});
	t.same(readdirSync(cache), [path.basename(one)]);
});
