import { spawnSync } from "node:child_process";
import type Docker from "dockerode";
import { ImageArchive, type ImageEntry } from "../src/runtimes/docker/image-archive.ts";
import { Dockerd } from "../test/harness/dockerd.ts";

/** Why containers cannot be measured here, or undefined. With CI=true that is a fault. */
export async function withoutEngine(...commands: readonly string[]): Promise<string | undefined> {
	const missing = ["go", ...commands].find((command) => spawnSync("sh", ["-c", `command -v ${command}`]).status !== 0);
	const why = (await Dockerd.missing()) || (missing !== undefined && `there is no ${missing}`);
	if (why === false) return undefined;
	if (process.env.CI === "true") throw new Error(why);
	return why;
}

/** An image of these files that starts the first of them. */
export async function loadImage(docker: Docker, tag: string, entries: readonly ImageEntry[]): Promise<string> {
	const config = { Entrypoint: [`/${entries[0]?.name}`], Env: [], User: "65532:65532", WorkingDir: "/", Labels: {} };
	const { Arch: architecture } = await docker.version();
	const archive = await ImageArchive.plan(entries, config, { architecture });
	const answer = await docker.loadImage(archive.stream(tag), { quiet: true });
	for await (const chunk of answer) if (/"error"/.test(String(chunk))) throw new Error(String(chunk));
	return tag;
}
