/**
 * Plays the APIs of GitHub, GitLab and Bitbucket Cloud, as far as their public documents show what is used of them:
 *
 * - GitHub: docs.github.com/rest "Get a repository", "Get a commit", "Get repository content", "Rate limits for the REST API"
 * - GitLab: docs.gitlab.com/api "Get a single project", "Get a single commit", "List repository tree", "Rate limits"
 * - Bitbucket: developer.atlassian.com/cloud/bitbucket/rest "Get a repository", "Get a commit", "Get file or directory
 *   contents", "API request limits"
 *
 * Not the real services: what those do beyond their documents is not shown by it. Its answers about commits and folders come
 * from real repositories.
 */
import { execFile } from "node:child_process";
import type { ServerResponse } from "node:http";
import { promisify } from "node:util";
import type { Certificates } from "./certificates.ts";
import { type GitHost, type SeenRequest, serve } from "./git.ts";

const run = promisify(execFile);

export type ForgeKind = "github" | "gitlab" | "bitbucket";
export type Trouble =
	| "401"
	| "403"
	| "429"
	| "500"
	| "slow"
	| "garbage"
	| "wrong-shape"
	| "cut"
	| { readonly redirect: string };

export type ForgeOptions = {
	readonly kind: ForgeKind;
	readonly certificates: Certificates;
	/** Path in the forge → folder of the bare repository. */
	readonly repositories: ReadonlyMap<string, string>;
	/** Former path → path. */
	readonly renamed?: ReadonlyMap<string, string>;
	readonly token?: string;
};

export type Forge = GitHost & {
	/** `https://localhost:PORT/…`, as it goes into a host's configuration. */
	readonly api: string;
	/** What it does instead of answering; undefined ends it. */
	trouble(kind: Trouble | undefined): void;
};

type Answer = { readonly status: number; readonly body: unknown; readonly headers?: Record<string, string> };

const BASES: Readonly<Record<ForgeKind, string>> = { github: "/api/v3", gitlab: "/api/v4", bitbucket: "/2.0" };

export async function startForge(options: ForgeOptions): Promise<Forge> {
	let trouble: Trouble | undefined;
	const requests: SeenRequest[] = [];
	const base = BASES[options.kind];
	const host = await serve(options.certificates, requests, (request, response) => {
		if (trouble !== undefined) {
			fail(trouble, options.kind, response);
			return;
		}
		const url = new URL(request.url ?? "/", "https://localhost");
		const allowed = options.token === undefined || request.headers.authorization === `Bearer ${options.token}`;
		const answering: Promise<Answer> =
			!url.pathname.startsWith(`${base}/`) || request.method !== "GET" || !allowed
				? Promise.resolve(missing(options.kind))
				: ANSWERS[options.kind](url.pathname.slice(base.length + 1).split("/"), url.searchParams, options);
		answering.then(
			({ status, body, headers }) =>
				response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body)),
			(error: unknown) => response.destroy(error instanceof Error ? error : new Error(String(error))),
		);
	});
	return {
		...host,
		api: `https://${host.host}${base}`,
		trouble: (kind) => {
			trouble = kind;
		},
	};
}

function fail(trouble: Trouble, kind: ForgeKind, response: ServerResponse): void {
	const reset = String(Math.ceil(Date.now() / 1000) + 600);
	const json = { "content-type": "application/json" };
	if (typeof trouble === "object") {
		response.writeHead(302, { location: trouble.redirect }).end();
		return;
	}
	switch (trouble) {
		case "401":
			response.writeHead(401, json).end('{"message":"Bad credentials"}');
			return;
		case "403":
			response
				.writeHead(403, {
					...json,
					"x-ratelimit-limit": "60",
					"x-ratelimit-remaining": "0",
					"x-ratelimit-reset": reset,
				})
				.end('{"message":"API rate limit exceeded for 192.0.2.1."}');
			return;
		case "429":
			response
				.writeHead(429, { ...json, "retry-after": "600", ...(kind === "gitlab" ? { "ratelimit-remaining": "0" } : {}) })
				.end('{"message":"Too many requests"}');
			return;
		case "500":
			response.writeHead(500, json).end('{"message":"500 Internal Server Error"}');
			return;
		case "slow":
			response.writeHead(200, json).write("{");
			return;
		case "garbage":
			response.writeHead(200, json).end("<html>Just a moment…</html>");
			return;
		case "wrong-shape":
			response.writeHead(200, json).end('{"full_name":17,"path_with_namespace":null,"sha":"x"}');
			return;
		case "cut":
			response.writeHead(200, { ...json, "content-length": "1000" }).write('{"full_name":', () => response.destroy());
			return;
	}
}

function missing(kind: ForgeKind): Answer {
	if (kind === "github") return { status: 404, body: { message: "Not Found", status: "404" } };
	if (kind === "gitlab") return { status: 404, body: { message: "404 Project Not Found" } };
	return { status: 404, body: { type: "error", error: { message: "Repository not found" } } };
}

async function git(repository: string, ...args: string[]): Promise<string | null> {
	try {
		return (await run("git", ["--git-dir", repository, ...args])).stdout.trim();
	} catch {
		return null;
	}
}

const commitOf = (repository: string, name: string) =>
	git(repository, "rev-parse", "--verify", "--quiet", `${name}^{commit}`);
const typeOf = (repository: string, commit: string, path: string) =>
	git(repository, "cat-file", "-t", path === "" ? commit : `${commit}:${path}`);

const ANSWERS: Readonly<
	Record<ForgeKind, (segments: string[], query: URLSearchParams, options: ForgeOptions) => Promise<Answer>>
> = {
	github: async (segments, query, { repositories, renamed }) => {
		const [start, owner, name, view, ...rest] = segments.map(decodeURIComponent);
		const asked = `${owner}/${name}`;
		const moved = renamed?.get(asked);
		if (moved !== undefined) {
			const location = `${BASES.github}/repos/${[moved, view, ...rest].filter((part) => part !== undefined).join("/")}`;
			return { status: 301, body: { message: "Moved Permanently" }, headers: { location } };
		}
		const repository = repositories.get(asked);
		if (start !== "repos" || repository === undefined) return missing("github");
		if (view === undefined)
			return { status: 200, body: { id: 1, name, full_name: asked, private: false, default_branch: "main" } };
		if (view === "commits") {
			const sha = await commitOf(repository, rest.join("/"));
			return sha === null
				? { status: 422, body: { message: `No commit found for SHA: ${rest.join("/")}` } }
				: { status: 200, body: { sha, commit: { message: "…" } } };
		}
		const commit = await commitOf(repository, query.get("ref") ?? "HEAD");
		const type = view === "contents" && commit !== null ? await typeOf(repository, commit, rest.join("/")) : null;
		if (type === "tree") return { status: 200, body: [{ name: "main.go", type: "file" }] };
		return type === "blob" ? { status: 200, body: { name: rest.at(-1), type: "file" } } : missing("github");
	},
	gitlab: async (segments, query, { repositories }) => {
		const [start, id = "", , view, sha] = segments.map(decodeURIComponent);
		const repository = repositories.get(id);
		if (start !== "projects" || repository === undefined) return missing("gitlab");
		if (view === undefined) return { status: 200, body: { id: 1, path_with_namespace: id, default_branch: "main" } };
		if (view === "commits") {
			const found = await commitOf(repository, sha ?? "");
			return found === null
				? { status: 404, body: { message: "404 Commit Not Found" } }
				: { status: 200, body: { id: found, short_id: found.slice(0, 8) } };
		}
		const commit = await commitOf(repository, query.get("ref") ?? "HEAD");
		const type = commit === null ? null : await typeOf(repository, commit, query.get("path") ?? "");
		return type === "tree"
			? { status: 200, body: [{ name: "main.go", type: "blob" }] }
			: { status: 404, body: { message: "404 Tree Not Found" } };
	},
	bitbucket: async (segments, _query, { repositories }) => {
		const [start, workspace, slug, view, name = "", ...rest] = segments.map(decodeURIComponent);
		const repository = repositories.get(`${workspace}/${slug}`);
		if (start !== "repositories" || repository === undefined) return missing("bitbucket");
		if (view === undefined)
			return {
				status: 200,
				body: { type: "repository", full_name: `${workspace}/${slug}`, mainbranch: { type: "branch", name: "main" } },
			};
		const commit = await commitOf(repository, name);
		if (commit === null) return { status: 404, body: { type: "error", error: { message: "Commit not found" } } };
		if (view === "commit") return { status: 200, body: { type: "commit", hash: commit } };
		const type = await typeOf(repository, commit, rest.join("/"));
		if (type === null) return { status: 404, body: { type: "error", error: { message: "No such file or directory" } } };
		return { status: 200, body: { type: type === "tree" ? "commit_directory" : "commit_file", path: rest.join("/") } };
	},
};
