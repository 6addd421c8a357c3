import { execFile } from "node:child_process";
import { cp, mkdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const FIXTURE = resolve(import.meta.dirname, "../fixtures/monorepo");

/** Runs git for a test: nobody's configuration, the same author and time. */
export async function git(folder: string, ...args: string[]): Promise<string> {
	const { stdout } = await run("git", ["-C", folder, "-c", "init.defaultBranch=main", ...args], {
		env: {
			PATH: process.env.PATH,
			GIT_CONFIG_NOSYSTEM: "1",
			GIT_CONFIG_GLOBAL: "/dev/null",
			GIT_AUTHOR_NAME: "Test",
			GIT_AUTHOR_EMAIL: "test@example.com",
			GIT_AUTHOR_DATE: "2026-01-01T00:00:00Z",
			GIT_COMMITTER_NAME: "Test",
			GIT_COMMITTER_EMAIL: "test@example.com",
			GIT_COMMITTER_DATE: "2026-01-01T00:00:00Z",
		},
	});
	return stdout.trim();
}

export type TestRepository = {
	/** Bare; what a host serves. */
	readonly bare: string;
	readonly work: string;
	/** main · the branch feature/one/two · the tag v1.0 · a commit of main that no ref names. */
	readonly commits: {
		readonly main: string;
		readonly feature: string;
		readonly tagged: string;
		readonly between: string;
	};
};

/** test/fixtures/monorepo as a repository `ROOT/PATH.git`, with branches, tags and history. */
export async function makeRepository(root: string, path: string): Promise<TestRepository> {
	const work = join(`${root}-work`, path);
	const bare = join(root, `${path}.git`);
	await mkdir(dirname(bare), { recursive: true });
	await mkdir(dirname(work), { recursive: true });
	await cp(FIXTURE, work, { recursive: true });
	await git(work, "init", "--quiet");
	const tagged = await commit(work, "first");
	await git(work, "tag", "-a", "v1.0", "-m", "the first");
	await git(work, "tag", "light/tag");
	await writeFile(join(work, "CHANGES"), "second\n");
	const between = await commit(work, "second");
	await git(work, "checkout", "--quiet", "-b", "feature/one/two");
	await mkdir(join(work, "only", "here"), { recursive: true });
	await writeFile(join(work, "only", "here", "main.go"), "package main\n\nfunc main() {}\n");
	const feature = await commit(work, "on the branch");
	await git(work, "checkout", "--quiet", "main");
	await writeFile(join(work, "CHANGES"), "third\n");
	const main = await commit(work, "third");
	await git(root, "clone", "--quiet", "--bare", work, bare);
	return { bare, work, commits: { main, feature, tagged, between } };
}

/** A repository whose only commit holds these files; `-> x` as content makes a symbolic link to x. */
export async function makeSmallRepository(
	root: string,
	path: string,
	files: Readonly<Record<string, string>>,
): Promise<{ readonly bare: string; readonly commit: string }> {
	const work = join(`${root}-work`, path);
	const bare = join(root, `${path}.git`);
	await mkdir(dirname(bare), { recursive: true });
	await mkdir(work, { recursive: true });
	for (const [name, content] of Object.entries(files)) {
		await mkdir(dirname(join(work, name)), { recursive: true });
		if (content.startsWith("-> ")) await symlink(content.slice(3), join(work, name));
		else await writeFile(join(work, name), content);
	}
	await git(work, "init", "--quiet");
	const made = await commit(work, "all");
	await git(root, "clone", "--quiet", "--bare", work, bare);
	return { bare, commit: made };
}

async function commit(work: string, message: string): Promise<string> {
	await git(work, "add", "--all", "--force");
	await git(work, "commit", "--quiet", "--allow-empty", "-m", message);
	return git(work, "rev-parse", "HEAD");
}
