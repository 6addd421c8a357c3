import { cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type Docker from "dockerode";
import type { Test } from "tap";
import type { Api, Service } from "../../harness/api.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { dataFolder, TestServer, until } from "../../harness/server.ts";

export const MIB = 1024 ** 2;
/** Serves, eats, hangs or ends, as its first argument says. */
export const BEHAVES = path.resolve(import.meta.dirname, "../../fixtures/container-program");
export const PROBE = path.resolve(import.meta.dirname, "../../fixtures/monorepo/probe");
const IMAGE_LABEL = "runtime-builds.image";

/** An engine of the test's own, and the data folder of servers that use it. */
export class Site {
	readonly dockerd: Dockerd;
	readonly dataDir: string;
	readonly args: readonly string[];
	readonly #t: Test;

	private constructor(t: Test, dockerd: Dockerd, dataDir: string, args: readonly string[]) {
		this.#t = t;
		this.dockerd = dockerd;
		this.dataDir = dataDir;
		this.args = args;
	}

	/** `more`: of its servers. `alone`: no other engine starts meanwhile. */
	static async open(t: Test, more: readonly string[] = [], options: { readonly alone?: boolean } = {}): Promise<Site> {
		const dockerd = await Dockerd.start(options);
		t.teardown(() => dockerd.stop());
		const args = ["--profile", "docker", "--docker", dockerd.socket, "--stop-grace", "1", ...more];
		return new Site(t, dockerd, await dataFolder(t, args), args);
	}

	get docker(): Docker {
		return this.dockerd.docker;
	}

	/** A server of the data folder; one at a time. */
	async server(env: Readonly<Record<string, string>> = {}): Promise<TestServer> {
		const { dataDir, args } = this;
		const server = await TestServer.start({ dataDir, args, env });
		this.#t.teardown(() => server.stop());
		return server;
	}

	/** A project of one's own, not part of this repository. */
	async project(of: string): Promise<string> {
		const folder = await mkdtemp(path.join(tmpdir(), "docker-project-"));
		this.#t.teardown(() => rm(folder, { recursive: true, force: true }));
		await cp(of, folder, { recursive: true });
		return folder;
	}

	/** Resolves when the base images are made that a server makes at its start. */
	async imagesMade(): Promise<void> {
		const kinds = async () => {
			const images = await this.docker.listImages({ filters: { label: [IMAGE_LABEL] } });
			return new Set(images.map(({ Labels }) => Labels[IMAGE_LABEL])).size;
		};
		await until(async () => (await kinds()) === 2, "the base images are made", 120_000);
	}

	/** All that the engine has, as it says it. */
	async belongings(): Promise<string> {
		const { docker } = this;
		const containers = await docker.listContainers({ all: true });
		const networks = await docker.listNetworks();
		const { Volumes: volumes } = await docker.listVolumes();
		const images = await docker.listImages({ all: true });
		const lines = (kind: string, all: readonly object[] | null) =>
			(all ?? []).map((one) => `${kind} ${JSON.stringify(one)}`).sort();
		return [
			...lines("container", containers),
			...lines("network", networks),
			...lines("volume", volumes),
			...lines("image", images),
		].join("\n");
	}

	/** Of a service, running or not; of all where none is named. */
	async containers(service?: Pick<Service, "id">): Promise<Docker.ContainerInfo[]> {
		const label = [service === undefined ? "runtime-builds.folder" : `runtime-builds.service=${service.id}`];
		return this.docker.listContainers({ all: true, filters: { label } });
	}

	/** The one container of a service. */
	async container(service: Pick<Service, "id">): Promise<Docker.ContainerInspectInfo> {
		const [one, ...others] = await this.containers(service);
		if (one === undefined || others.length > 0) throw new Error(`${others.length + (one ? 1 : 0)} containers, not one`);
		return this.docker.getContainer(one.Id).inspect();
	}

	/** The pid of the process that owns the containers. */
	async companion(): Promise<number> {
		const folder = path.join(this.dataDir, "containers", "companion");
		const newest = (await readdir(folder)).filter((name) => name.endsWith(".json")).sort();
		const record: { pid?: number } = JSON.parse(await readFile(path.join(folder, newest.at(-1) ?? ""), "utf8"));
		if (typeof record.pid !== "number") throw new Error("no companion is recorded");
		return record.pid;
	}

	/** Waits until nothing differs from what there was; else says what does. */
	async untilAsBefore(before: string, limitMs = 60_000): Promise<void> {
		let now = "";
		await until(
			async () => {
				now = await this.belongings();
				return now === before;
			},
			"the engine has what it had",
			limitMs,
		).catch(() => {
			const had = new Set(before.split("\n"));
			const has = new Set(now.split("\n"));
			const more = [...has].filter((line) => !had.has(line));
			const less = [...had].filter((line) => !has.has(line));
			throw new Error(`the engine has more:\n${more.join("\n")}\nand less:\n${less.join("\n")}`);
		});
	}
}

export async function text(url: string | null, at = "/"): Promise<string> {
	return (await fetch(`${url ?? ""}${at}`)).text();
}

/** Resolves when it is Running with nothing else on its way; rejects with what it became instead. */
export async function running(api: Api, name: string): Promise<Service> {
	const service = await api.settled(name);
	if (service.status !== "Running" || service.target !== null) throw new Error(JSON.stringify(service, null, 1));
	return service;
}

/** The files of the program, with another text: so with another build. */
export async function probeSaying(said: string): Promise<Record<string, string>> {
	const main = await readFile(path.join(PROBE, "main.go"), "utf8");
	return {
		"go.mod": await readFile(path.join(PROBE, "go.mod"), "utf8"),
		"main.go": main.replace('builtText = "probe"', `builtText = ${JSON.stringify(said)}`),
	};
}
