import { execFile } from "node:child_process";
import {
	copyFile,
	cp,
	mkdir,
	mkdtemp,
	readFile,
	realpath,
	rename,
	rm,
	stat,
	symlink,
	writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

const SUITE = "bookworm";
const PACKAGES = ["ca-certificates", "git", "bubblewrap", "tini"];
const LIMIT = { maxBuffer: 16 * 1024 ** 2, timeout: 10 * 60_000 };

const run = async (file: string, ...args: string[]) => (await promisify(execFile)(file, args, LIMIT)).stdout.trim();

/**
 * An archive of a root file system with Debian, Node and npm, configured as this machine is: stands in for the official
 * image where no registry is reached. Made once and kept outside the clone. Needs root, apt and debootstrap.
 */
export async function debianBase(): Promise<string> {
	const kept = path.join(tmpdir(), `runtime-builds-${SUITE}-${PACKAGES.length}-node-${process.version}.tar`);
	if (await exists(kept)) return kept;
	const work = await mkdtemp(path.join(tmpdir(), "runtime-builds-debian-"));
	try {
		const root = path.join(work, "root");
		const mirror = (
			await run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", `Codename: ${SUITE}`)
		).split("\n")[0];
		if (mirror === undefined || mirror === "") throw new Error(`apt knows no source of ${SUITE}`);
		await run("debootstrap", "--variant=minbase", `--include=${PACKAGES.join(",")}`, SUITE, root, mirror);
		await addNode(root);
		const archive = path.join(work, "root.tar");
		const left = ["./proc/*", "./sys/*", "./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*"];
		await run("tar", "-C", root, ...left.map((pattern) => `--exclude=${pattern}`), "-cf", archive, ".");
		await rename(archive, kept);
	} finally {
		await rm(work, { recursive: true, force: true });
	}
	return kept;
}

/** For a test's `skip`: what is not here to make a base of, or false. */
export async function missingForBase(): Promise<string | false> {
	for (const command of ["debootstrap", "docker", "go", "tar"]) {
		const found = await run("sh", "-c", `command -v ${command}`).then(
			() => true,
			() => false,
		);
		if (!found) return `there is no ${command}`;
	}
	return false;
}

/** An archive with this machine's Go at /usr/local/go, in `folder`. */
export async function goBase(folder: string): Promise<string> {
	const root = await realpath(await run("go", "env", "GOROOT"));
	const archive = path.join(folder, "go.tar");
	const name = path.basename(root);
	await run("tar", "-C", path.dirname(root), "--transform", `s#^${name}#usr/local/go#`, "-cf", archive, name);
	return archive;
}

/** Node as it runs this test, the machine's npm, and where that one gets packages from. */
async function addNode(root: string): Promise<void> {
	const local = path.join(root, "usr", "local");
	await copyFile(await realpath(process.execPath), path.join(local, "bin", "node"));
	const npm = path.dirname(path.dirname(await realpath(await run("sh", "-c", "command -v npm"))));
	await cp(npm, path.join(local, "lib", "node_modules", "npm"), { recursive: true });
	await symlink("../lib/node_modules/npm/bin/npm-cli.js", path.join(local, "bin", "npm"));
	const [registry, authority] = await Promise.all([run("npm", "config", "get", "registry"), authorityFile()]);
	const certificates = "/etc/ssl/certs/ca-certificates.crt";
	await mkdir(path.join(local, "etc"), { recursive: true });
	await writeFile(path.join(local, "etc", "npmrc"), `registry=${registry}\ncafile=${certificates}\n`);
	if (authority !== null) await writeFile(path.join(root, certificates), await readFile(authority));
}

/** Whom this machine trusts; null where it has Debian's own alone. */
async function authorityFile(): Promise<string | null> {
	const configured = process.env.NODE_EXTRA_CA_CERTS ?? "/etc/ssl/certs/ca-certificates.crt";
	return (await exists(configured)) ? configured : null;
}

async function exists(file: string): Promise<boolean> {
	return stat(file).then(
		() => true,
		() => false,
	);
}
