import { isAbsolute, join, resolve } from "node:path";
import type { BuildError } from "../builder.ts";
import { findAbove, invalid, isInside, kindOf, type NodePackage, readJson, record, shown } from "./package.ts";

/** Origins that a lockfile may name. */
export type Origins = {
	/** Where packages are fetched from. */
	readonly registries: readonly string[];
	/** npm's own default registry, in whose place npm puts the configured one. */
	readonly replaced: string | undefined;
};

export type Lock = {
	/** Absolute path of its folder: where npm installs. */
	readonly folder: string;
	/** Relative to the source's root. */
	readonly file: string;
};

const NAMES = ["npm-shrinkwrap.json", "package-lock.json"];
const OTHERS: Readonly<Record<string, string>> = {
	"yarn.lock": "Yarn",
	"pnpm-lock.yaml": "pnpm",
	"bun.lock": "Bun",
	"bun.lockb": "Bun",
};
const MAX_LOCK = 64 * 1024 ** 2;
const MAKE = "run `npm install --package-lock-only` there and upload package-lock.json with the source";

/**
 * The lockfile whose packages a build must install, or undefined where it needs none. Rejects with BuildError
 * `source_invalid` where there is none though there are dependencies, or one of them comes from elsewhere than the
 * registries and the source.
 */
export async function findLock(
	root: string,
	pack: NodePackage,
	origins: () => Promise<Origins>,
): Promise<Lock | undefined> {
	const found = await findAbove(root, pack.folder, NAMES);
	const isOwn = found?.folder === pack.folder;
	const needed = pack.dependencies.size > 0 || (isOwn && pack.hasWorkspaces);
	if (found === undefined || (isOwn && !needed)) {
		if (!needed) return undefined;
		throw await missing(root, pack);
	}
	const file = shown(root, join(found.folder, found.name));
	const packages = packagesOf(await readJson(join(found.folder, found.name), file, MAX_LOCK), file);
	const way = shown(found.folder, pack.folder);
	if (!isOwn && packages[way] === undefined) {
		if (!needed) return undefined;
		throw invalid(
			pack.file,
			`${pack.file} has dependencies and no lockfile of its own, and is no workspace of ${file}: add ${way} to the workspaces there, or ${MAKE}`,
		);
	}
	const installs = Object.keys(packages).some((path) => path.includes("node_modules/"));
	if (!installs && !needed) return undefined;
	await check(root, { folder: found.folder, file }, packages, await origins());
	return { folder: found.folder, file };
}

async function missing(root: string, pack: NodePackage): Promise<BuildError> {
	const other = await findAbove(root, pack.folder, Object.keys(OTHERS));
	const which = [...pack.dependencies.keys()].slice(0, 3).join(", ");
	const what = `${pack.file} has dependencies (${which})`;
	if (other === undefined) return invalid(pack.file, `${what} and there is no package-lock.json: ${MAKE}`);
	const file = shown(root, join(other.folder, other.name));
	return invalid(
		file,
		`${what} with a lockfile of ${OTHERS[other.name]} (${file}), and builds here install with npm: ${MAKE}`,
	);
}

function packagesOf(lock: unknown, file: string): Readonly<Record<string, unknown>> {
	const { lockfileVersion, packages } = record(lock);
	if (typeof lockfileVersion === "number" && lockfileVersion >= 2) return record(packages);
	throw invalid(
		file,
		`${file} is of a form that npm 6 wrote: run \`npm install --package-lock-only\` with npm 7 or newer`,
	);
}

async function check(
	root: string,
	lock: Lock,
	packages: Readonly<Record<string, unknown>>,
	{ registries, replaced }: Origins,
): Promise<void> {
	const refuse = (path: string, why: string) =>
		invalid(lock.file, `${lock.file}: ${path.replace(/^(.*\/)?node_modules\//s, "") || path} ${why}`);
	for (const [path, entry] of Object.entries(packages)) {
		if (!isInside(root, resolve(lock.folder, path)) || isAbsolute(path)) throw refuse(path, "is outside the source");
		const { resolved, link } = record(entry);
		if (typeof resolved !== "string" || resolved === "") continue;
		if (link === true || resolved.startsWith("file:")) {
			const target = resolve(lock.folder, resolved.replace(/^file:(\/\/)?/, ""));
			if (!isInside(root, target))
				throw refuse(path, `is taken from ${resolved}, which is outside the source; upload a folder that holds both`);
			if ((await kindOf(target)) === "none") throw refuse(path, `is taken from ${resolved}, which was not uploaded`);
			continue;
		}
		const url = URL.canParse(resolved) ? new URL(resolved) : undefined;
		const fromWeb = url?.protocol === "https:" || url?.protocol === "http:";
		if (!fromWeb || resolved.includes("#") || /\.git$/.test(url.pathname))
			throw refuse(
				path,
				`comes from a repository (${resolved}); use a published version of it, or put it into the source`,
			);
		if (!registries.includes(url.origin) && url.origin !== replaced)
			throw refuse(
				path,
				`comes from ${url.origin}, and packages are fetched from ${registries.join(", ")} alone; run \`npm install --omit-lockfile-registry-resolved\` to have a lockfile without addresses, or ask the operator for that registry`,
			);
	}
}

/** Whether what is asked of a dependency is a repository or a file elsewhere, which the lockfile may not tell yet. */
export function refuseForeign(root: string, pack: NodePackage): void {
	for (const [name, wanted] of pack.dependencies) {
		if (/^(git[+:@]|github:|gitlab:|bitbucket:|gist:|[\w.-]+@[\w.-]+:)|^[\w.-]+\/[\w.-]+(#|$)/.test(wanted))
			throw invalid(
				pack.file,
				`${pack.file}: ${name} comes from a repository (${wanted}); use a published version of it, or put it into the source`,
			);
		if (wanted.startsWith("file:") && !isInside(root, resolve(pack.folder, wanted.slice("file:".length))))
			throw invalid(
				pack.file,
				`${pack.file}: ${name} is outside the source (${wanted}); upload a folder that holds both`,
			);
	}
}
