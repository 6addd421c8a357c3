import { AppError, type AppErrorOptions, messageOf } from "../../errors.ts";
import { isRepositoryPath } from "./address.ts";
import { apiOf, type HostConfig } from "./hosts.ts";
import type { Outbound } from "./outbound.ts";

/**
 * What a forge's API says of a repository. Every call rejects with `unavailable` where the API cannot be reached, limits its
 * rate, fails, or answers with what its documents do not show; with `permission_denied` where it refuses the token.
 */
export interface Forge {
	/** The repository's own path, which differs from the asked one after a renaming; null where there is none. */
	repository(path: string, signal: AbortSignal): Promise<string | null>;
	/** The full name of a commit, of which at least seven digits are given; null where there is none. */
	commit(path: string, digits: string, signal: AbortSignal): Promise<string | null>;
	/** Whether the commit has this folder. */
	folder(path: string, commit: string, folder: string, signal: AbortSignal): Promise<boolean>;
}

const ANSWER_LIMIT = 8 * 1024 ** 2;
const enc = encodeURIComponent;
const encodePath = (path: string) => path.split("/").map(enc).join("/");

/** Null for a plain git host. */
export function openForge(config: HostConfig, outbound: Outbound): Forge | null {
	const base = apiOf(config);
	if (base === null) return null;
	const api = new Api(base, config, outbound);
	switch (config.kind) {
		case "github":
			return new GitHub(api);
		case "gitlab":
			return new GitLab(api);
		case "bitbucket":
			return new Bitbucket(api);
		case "git":
			return null;
	}
}

class Api {
	readonly #base: string;
	readonly #config: HostConfig;
	readonly #outbound: Outbound;

	constructor(base: string, config: HostConfig, outbound: Outbound) {
		this.#base = base;
		this.#config = config;
		this.#outbound = outbound;
	}

	/** The JSON behind a path of the API; undefined where there is nothing. */
	async get(path: string, signal: AbortSignal): Promise<unknown> {
		const response = await this.#outbound.fetch(`${this.#base}${path}`, {
			signal,
			headers: { accept: "application/json", ...this.#authorization() },
		});
		if (response.status !== 200) await response.body?.cancel();
		switch (response.status) {
			case 200:
				return this.#json(response.body, signal);
			// Gone, and GitHub's word for a commit that it does not know.
			case 404:
			case 410:
			case 422:
				return undefined;
			case 401:
				throw new AppError(
					"permission_denied",
					this.#config.token === undefined
						? `${this.#config.host} asks for a token`
						: `${this.#config.host} refuses this server's token`,
					{ field: "source", hint: "An operator gives the server a token in the file of git hosts." },
				);
			case 403:
			case 429:
				throw this.trouble(`limits the rate of requests, or refuses this one${retryAfter(response.headers)}`);
			default:
				throw this.trouble(`answers with status ${response.status}`);
		}
	}

	trouble(what: string, options: AppErrorOptions = {}): AppError {
		return new AppError("unavailable", `the API of ${this.#config.host} ${what}`, { field: "source", ...options });
	}

	unexpected(): AppError {
		return this.trouble("answers with something else than its documents say");
	}

	async #json(body: AsyncIterable<Uint8Array> | null, signal: AbortSignal): Promise<unknown> {
		const chunks: Uint8Array[] = [];
		let size = 0;
		try {
			for await (const chunk of body ?? []) {
				size += chunk.byteLength;
				if (size > ANSWER_LIMIT) throw this.trouble(`answers with more than ${ANSWER_LIMIT} bytes`);
				chunks.push(chunk);
			}
		} catch (error) {
			if (error instanceof AppError || signal.aborted) throw error;
			throw this.trouble(`broke off its answer (${messageOf(error)})`, { cause: error });
		}
		try {
			return JSON.parse(Buffer.concat(chunks).toString("utf8"));
		} catch (error) {
			throw this.trouble("answers with something else than JSON", { cause: error });
		}
	}

	#authorization(): Record<string, string> {
		const { token, username, kind } = this.#config;
		if (token === undefined) return {};
		if (kind === "bitbucket" && username !== undefined)
			return { authorization: `Basic ${Buffer.from(`${username}:${token}`).toString("base64")}` };
		return { authorization: `Bearer ${token}` };
	}

	/** A text that must be there. */
	text(value: unknown, name: string): string {
		const found = typeof value === "object" && value !== null ? new Map(Object.entries(value)).get(name) : undefined;
		if (typeof found !== "string") throw this.unexpected();
		return found;
	}

	path(value: unknown, name: string): string {
		const path = this.text(value, name);
		if (!isRepositoryPath(path)) throw this.unexpected();
		return path;
	}

	hash(value: unknown, name: string): string {
		const hash = this.text(value, name);
		if (!/^[0-9a-f]{40}$/.test(hash)) throw this.unexpected();
		return hash;
	}
}

function retryAfter(headers: { get(name: string): string | null }): string {
	const seconds = headers.get("retry-after");
	return seconds !== null && /^\d{1,6}$/.test(seconds) ? ` (again in ${seconds} s)` : "";
}

/** docs.github.com/rest: "Get a repository", "Get a commit", "Get repository content". */
class GitHub implements Forge {
	readonly #api: Api;

	constructor(api: Api) {
		this.#api = api;
	}

	async repository(path: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/repos/${encodePath(path)}`, signal);
		return found === undefined ? null : this.#api.path(found, "full_name");
	}

	async commit(path: string, digits: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/repos/${encodePath(path)}/commits/${digits}`, signal);
		return found === undefined ? null : this.#api.hash(found, "sha");
	}

	async folder(path: string, commit: string, folder: string, signal: AbortSignal): Promise<boolean> {
		const found = await this.#api.get(
			`/repos/${encodePath(path)}/contents/${encodePath(folder)}?ref=${commit}`,
			signal,
		);
		// A folder is a list, a file is an object.
		if (found !== undefined && !Array.isArray(found)) this.#api.text(found, "type");
		return Array.isArray(found);
	}
}

/** docs.gitlab.com/api: "Get a single project", "Get a single commit", "List repository tree". */
class GitLab implements Forge {
	readonly #api: Api;

	constructor(api: Api) {
		this.#api = api;
	}

	async repository(path: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/projects/${enc(path)}`, signal);
		return found === undefined ? null : this.#api.path(found, "path_with_namespace");
	}

	async commit(path: string, digits: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/projects/${enc(path)}/repository/commits/${digits}`, signal);
		return found === undefined ? null : this.#api.hash(found, "id");
	}

	async folder(path: string, commit: string, folder: string, signal: AbortSignal): Promise<boolean> {
		const query = `path=${enc(folder)}&ref=${commit}&per_page=1`;
		const found = await this.#api.get(`/projects/${enc(path)}/repository/tree?${query}`, signal);
		if (found === undefined) return false;
		if (!Array.isArray(found)) throw this.#api.unexpected();
		// Older ones answer with an empty list where there is no such folder.
		return found.length > 0;
	}
}

/** developer.atlassian.com/cloud/bitbucket/rest: "Get a repository", "Get a commit", "Get file or directory contents". */
class Bitbucket implements Forge {
	readonly #api: Api;

	constructor(api: Api) {
		this.#api = api;
	}

	async repository(path: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/repositories/${encodePath(path)}`, signal);
		return found === undefined ? null : this.#api.path(found, "full_name");
	}

	async commit(path: string, digits: string, signal: AbortSignal): Promise<string | null> {
		const found = await this.#api.get(`/repositories/${encodePath(path)}/commit/${digits}`, signal);
		return found === undefined ? null : this.#api.hash(found, "hash");
	}

	async folder(path: string, commit: string, folder: string, signal: AbortSignal): Promise<boolean> {
		const where = `/repositories/${encodePath(path)}/src/${commit}/${encodePath(folder)}?format=meta`;
		const found = await this.#api.get(where, signal);
		return found !== undefined && this.#api.text(found, "type") === "commit_directory";
	}
}
