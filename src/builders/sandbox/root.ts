import { existsSync } from "node:fs";
import { lstat, readlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "../../errors.ts";
import { MIB } from "./limits.ts";
import type { Confined } from "./sandbox.ts";

/** The system's programs, libraries and their data. Not all of /usr: /usr/local and /usr/src may hold anything. */
export const SYSTEM = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "share"];
/** Of /etc: certificates, the time zone, where libraries and alternatives are. */
export const ETC = [
	"/etc/ssl/certs",
	"/etc/ssl/openssl.cnf",
	"/etc/pki/tls/certs",
	"/etc/pki/ca-trust/extracted",
	"/etc/ca-certificates",
	"/etc/localtime",
	"/etc/ld.so.cache",
	"/etc/alternatives",
];
/** Of /proc: what tells of the kernel, and of others. */
export const HIDDEN = [
	"kcore",
	"keys",
	"key-users",
	"kmsg",
	"latency_stats",
	"timer_list",
	"sched_debug",
	"vmallocinfo",
];
export const TMP_BYTES = 512 * MIB;
const UID = "1000";

/** The part of bubblewrap's arguments that is the same for every command; `folder` gets the files that are made up for it. */
export async function emptyRoot(folder: string): Promise<string[]> {
	const made = {
		passwd: `build:x:${UID}:${UID}::/nonexistent:/bin/sh\n`,
		group: `build:x:${UID}:\n`,
		hosts: "127.0.0.1 localhost\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	};
	for (const [name, text] of Object.entries(made)) await writeFile(join(folder, name), text);
	await writeFile(join(folder, "package.json"), '{"type":"module"}\n');
	const args = ["--unshare-user", "--disable-userns", "--uid", UID, "--gid", UID];
	args.push("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try");
	args.push("--hostname", "build", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv");
	args.push("--info-fd", "9");
	for (const name of SYSTEM) args.push(...(await atTop(name)));
	for (const path of ETC) args.push("--ro-bind-try", path, path);
	for (const name of Object.keys(made)) args.push("--ro-bind", join(folder, name), `/etc/${name}`);
	args.push("--size", String(TMP_BYTES), "--tmpfs", "/tmp", "--dir", "/var/tmp");
	args.push("--proc", "/proc");
	for (const name of HIDDEN) if (existsSync(`/proc/${name}`)) args.push("--ro-bind", "/dev/null", `/proc/${name}`);
	// Settings of the kernel belong to root by number, and root's builds have that number: without capabilities they may still
	// write to them. core_pattern names a program that the kernel runs outside.
	args.push("--remount-ro", "/proc");
	// The file system of /dev has no size of its own, and counts as memory.
	args.push("--dev", "/dev", "--remount-ro", "/dev", "--size", String(TMP_BYTES), "--tmpfs", "/dev/shm");
	return args;
}

/** `/usr/lib` and `/lib`, the latter as a link where it is one. */
async function atTop(name: string): Promise<string[]> {
	const args = ["--ro-bind-try", `/usr/${name}`, `/usr/${name}`];
	try {
		const entry = await lstat(`/${name}`);
		if (entry.isSymbolicLink()) args.push("--symlink", await readlink(`/${name}`), `/${name}`);
		else if (entry.isDirectory() && name !== "share") args.push("--ro-bind", `/${name}`, `/${name}`);
	} catch (error) {
		if (systemCode(error) !== "ENOENT") throw error;
	}
	return args;
}

/** What one command sees besides: outer folders first, so that an inner one may be writable, or not be. */
export function mountsOf({ reads, writes }: Pick<Confined, "reads" | "writes">): string[] {
	const mounts = [
		...reads.map((path) => ({ how: "--ro-bind", path })),
		...writes.map((path) => ({ how: "--bind", path })),
	].sort((a, b) => a.path.length - b.path.length);
	return mounts.flatMap(({ how, path }) => [how, path, path]);
}
