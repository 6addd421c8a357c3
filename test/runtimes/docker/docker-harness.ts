import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import type Docker from "dockerode";
import type { Test } from "tap";
import { Authority } from "../../../src/loading/authority.ts";
import type { CompanionRuntime } from "../../../src/runtimes/companion/runtime.ts";
import { createImages } from "../../../src/runtimes/docker/images.ts";
import { LoaderBinary } from "../../../src/runtimes/docker/loader-binary.ts";
import { createDockerRuntime, type DockerRuntimeOptions } from "../../../src/runtimes/docker/runtime.ts";
import type { LogLine, Runtime, ServiceRef, ServiceSpec } from "../../../src/runtimes/runtime.ts";
import type { RuntimeHarness } from "../../conformance/runtime.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { ask, call, FAST, folderOf, SERVICE, specOf } from "../runtime-harness.ts";

const TOKEN = "token-of-the-test";
const PROGRAM = resolve(import.meta.dirname, "../../fixtures/container-program");

/** An engine, the program, and a server that containers load it from: once for a test file. */
export type Site = {
	readonly dockerd: Dockerd;
	readonly program: Buffer;
	readonly image: string;
	/** What the server answers with instead of the program's bytes. */
	answer: { status: number; bytes: Buffer };
	readonly loader: DockerRuntimeOptions["loader"];
	/** How the base image is made again. */
	readonly remake: NonNullable<DockerRuntimeOptions["remake"]>;
};

export async function openSite(t: Test, options: { readonly alone?: boolean } = {}): Promise<Site> {
	const folder = await mkdtemp(join(tmpdir(), "docker-site-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	const dockerd = await Dockerd.start(options);
	t.teardown(() => dockerd.stop());
	const file = join(folder, "program");
	await promisify(execFile)("go", ["build", "-trimpath", "-ldflags=-s -w", "-o", file, "."], {
		cwd: PROGRAM,
		env: { ...process.env, CGO_ENABLED: "0", GOWORK: "off", GOFLAGS: "", GOTOOLCHAIN: "local" },
	});
	const program = await readFile(file);
	const authority = await Authority.open(join(folder, "authority"));
	const { key, cert } = await authority.issue([dockerd.address]);
	const site = { answer: { status: 200, bytes: program } };
	const server = createServer({ key, cert }, (request, response) => {
		const { answer } = site;
		const good = request.headers.authorization === `Bearer ${TOKEN}`;
		if (!good || answer.status !== 200) response.writeHead(good ? answer.status : 401).end();
		else response.writeHead(200, { "content-length": answer.bytes.length }).end(answer.bytes);
	});
	await new Promise<void>((done) => server.listen(0, dockerd.address, done));
	t.teardown(() => new Promise((done) => server.close(done)));
	const { port } = server.address() as AddressInfo;
	const remake = {
		go: "go",
		cache: join(folder, "loader"),
		made: join(folder, "images"),
		image: null,
		imageNode: null,
	};
	const loaderBinary = new LoaderBinary(remake);
	const image = await createImages({ docker: dockerd.docker, loader: loaderBinary }).image("none");
	const url = ({ name, version, revision }: ServiceSpec) =>
		`https://${dockerd.address}:${port}/builds/${name}/${version}?revision=${revision}`;
	const loader = { url, token: () => TOKEN, ca: authority.certificate };
	return Object.assign(site, { dockerd, program, image, loader, remake });
}

export function spec(
	{ program: bytes }: Pick<Site, "program">,
	service: ServiceRef,
	revision: number,
	args: readonly string[],
	change: Partial<ServiceSpec> = {},
): ServiceSpec {
	const health = { type: "port", path: "/", timeout: 60 } as const;
	return specOf(bytes, service, revision, args, { health, ...change });
}

export type DockerHarness = RuntimeHarness & { readonly folder: string; readonly runtime: CompanionRuntime };

export function openRuntime(
	site: Site,
	folder: string,
	options: Partial<DockerRuntimeOptions> = {},
): Promise<CompanionRuntime> {
	const images = async () => site.image;
	return createDockerRuntime({ folder, ...FAST, images, socket: site.dockerd.socket, loader: site.loader, ...options });
}

/** A runtime with a folder of its own; nothing of it is left when the test is over. */
export async function harness(
	t: Test,
	site: Site,
	options: Partial<DockerRuntimeOptions> = {},
): Promise<DockerHarness> {
	const folder = await folderOf(
		t,
		// At the socket at which its containers are, if any.
		async (folder) => openRuntime(site, folder, { socket: await readFile(join(folder, "engine"), "utf8") }),
		async () => {
			// No assertion: those are over by now.
			const left = [
				...(await containers(site)).map(({ Names }) => Names[0]),
				...(await networks(site)).map(({ Name }) => Name),
			];
			if (left.length > 0) throw new Error(`the test left ${left.join(", ")}`);
		},
	);
	const runtime = await openRuntime(site, folder, options);
	const close = async () => runtime[Symbol.asyncDispose]();
	t.teardown(close);
	return {
		folder,
		runtime,
		ask,
		close,
		spec: (service, revision, behaviour, change) => spec(site, service, revision, [behaviour], change),
	};
}

/** Of this engine's, those that a runtime made. */
export function containers({ dockerd }: Site): Promise<Docker.ContainerInfo[]> {
	return dockerd.docker.listContainers({ all: true, filters: { label: ["runtime-builds.folder"] } });
}

export function networks({ dockerd }: Site): Promise<Docker.NetworkInspectInfo[]> {
	return dockerd.docker.listNetworks({ filters: { label: ["runtime-builds.folder"] } });
}

export async function linesOf(runtime: Runtime, service: ServiceRef = SERVICE): Promise<LogLine[]> {
	const lines: LogLine[] = [];
	for await (const item of runtime.logs(service, { follow: false }, call)) if ("line" in item) lines.push(item.line);
	return lines;
}
