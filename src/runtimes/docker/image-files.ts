import { access, realpath } from "node:fs/promises";
import path from "node:path";
import type { ImageConfig, ImageEntry } from "./image-archive.ts";
import { sharedLibraries } from "./shared-libraries.ts";

/** The user of containers, as distroless images have it; nobody on the host. */
export const CONTAINER_USER = 65_532;
const SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin";
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";

/** Where systems keep the certificates that programs trust. */
const BUNDLES = [CERTIFICATES, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

export function imageConfig(labels: Readonly<Record<string, string>>): ImageConfig {
	return {
		Entrypoint: ["/runtime-loader"],
		Env: [`PATH=${SEARCH_PATH}`],
		User: `${CONTAINER_USER}:${CONTAINER_USER}`,
		WorkingDir: "/tmp",
		Labels: labels,
	};
}

/** The files of an image: the loader, what programs expect of a system, and Node where it is given. */
export async function imageFiles(loader: string, node: string | undefined): Promise<ImageEntry[]> {
	const files: ImageEntry[] = [
		{ type: "file", name: "runtime-loader", mode: 0o755, source: loader },
		{ type: "link", name: "usr/bin/env", mode: 0o755, target: "runtime-loader" },
		text(
			"etc/passwd",
			`root:x:0:0:root:/:/sbin/nologin\nruntime:x:${CONTAINER_USER}:${CONTAINER_USER}:runtime:/tmp:/sbin/nologin\n`,
		),
		text("etc/group", `root:x:0:\nruntime:x:${CONTAINER_USER}:\n`),
		// Without it some C libraries never look into the hosts file.
		text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
		{ type: "directory", name: "tmp", mode: 0o1777 },
		{ type: "directory", name: "run/runtime", mode: 0o700, owner: CONTAINER_USER },
	];
	const bundle = await firstOf(BUNDLES);
	if (bundle !== undefined) files.push(file(CERTIFICATES, await realpath(bundle)));
	if (node !== undefined) {
		const { needed, optional } = await sharedLibraries(node);
		files.push(file("/usr/local/bin/node", node, 0o755));
		for (const library of needed) files.push(file(library, library, 0o755));
		for (const library of optional)
			if (!needed.includes(library) && (await exists(library))) files.push(file(library, library, 0o755));
	}
	return withFolders(files);
}

function text(name: string, content: string): ImageEntry {
	return { type: "text", name, mode: 0o644, text: content };
}

function file(name: string, source: string, mode = 0o644): ImageEntry {
	return { type: "file", name: name.slice(1), mode, source };
}

/** Each folder once, before what is in it; sorted, so that an image does not depend on the order in which we thought of it. */
function withFolders(entries: readonly ImageEntry[]): ImageEntry[] {
	const all = new Map(entries.map((entry) => [entry.name, entry]));
	for (const { name } of entries)
		for (let folder = path.dirname(name); folder !== "."; folder = path.dirname(folder))
			if (!all.has(folder)) all.set(folder, { type: "directory", name: folder, mode: 0o755 });
	return [...all.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
}

async function firstOf(files: readonly string[]): Promise<string | undefined> {
	for (const candidate of files) if (await exists(candidate)) return candidate;
	return undefined;
}

async function exists(name: string): Promise<boolean> {
	return access(name).then(
		() => true,
		() => false,
	);
}
