import { AppError } from "../../errors.ts";
import { normaliseEntrypoint } from "../entrypoint.ts";
import {
	authority,
	DEFAULT_HOSTS,
	defaultPort,
	type HostConfig,
	hostFor,
	type Origin,
	readAuthority,
	type Scheme,
} from "./hosts.ts";

/** A git remote as it was typed. Names only; whether they exist is asked by `Remotes.resolve`. */
export type RemoteAddress = {
	/** Canonical: lower case, punycode; an IPv6 address is in brackets. */
	readonly host: string;
	/** Null for the scheme's own. */
	readonly port: number | null;
	/** Without `.git`; nested groups are kept. */
	readonly repository: string;
	/** `/`-separated; `.` is the root. */
	readonly folder: string;
	readonly ref: string | null;
	/**
	 * What the text alone does not decide. `repository`: groups can be nested, so `repository` is the least that it can be and
	 * goes on into `folder`. `ref`: refs can hold `/`, so `ref` is the least that it can be and goes on into `folder`.
	 */
	readonly undecided?: "repository" | "ref";
	/** Only where `http://` was typed and the host's configuration allows it. */
	readonly scheme?: "http";
};

const HINT = "Write HOST/OWNER/REPOSITORY[/FOLDER][@REF], such as github.com/golang/example/helloserver@master.";
const MAX_LENGTH = 2048;
const SEGMENT = /^[\w~.+-]+$/;
/** What forges add to the addresses of their pages; nothing else may follow a `?`, tokens least of all. */
const HARMLESS_QUERY = /^((ref_type|tab|at|path|plain)(=[\w./-]*)?(&|$))*$/;

function refuse(message: string, hint: string = HINT): AppError {
	return new AppError("invalid_argument", message, { field: "source", hint });
}

/**
 * Reads what a user named as source. Null: it is no remote (a local path, or `source://…`). Rejects with `invalid_argument`,
 * field `source`, for a remote that cannot be used; the message never repeats credentials.
 *
 * Forms: `host/owner/repo[/folder][@ref]`, the same after `https://`, with `.git`, and the pages that GitHub, GitLab,
 * Bitbucket and Gitea show for a folder. A `@` at the start of a folder's name belongs to the name; write `%40` for one
 * elsewhere in an https URL.
 */
export function parseRemote(
	text: string,
	options: { readonly knownHosts?: readonly HostConfig[] } = {},
): RemoteAddress | null {
	const hosts = options.knownHosts ?? DEFAULT_HOSTS;
	const url = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/is.exec(text);
	if (url !== null) {
		const scheme = (url[1] ?? "").toLowerCase();
		if (scheme === "source" || scheme === "build") return null;
		if (scheme !== "https" && scheme !== "http") throw refuseScheme(scheme);
		return readUrl(url[2] ?? "", scheme, hosts);
	}
	if (/^[^/\s@:]+@[^/\s:]+:/.test(text)) throw refuseScheme("ssh");
	if (text === "" || /^(\.{0,2}\/|\.{1,2}$|~|\\|[a-z]:[\\/])/i.test(text)) return null;
	const [name = "", ...rest] = text.split("/");
	if (/^[^@\s]+@[\w-]+(\.[\w-]+)+$/.test(name) && rest.length > 1) throw refuseCredentials();
	const origin = readAuthority(name);
	if (origin === null) {
		if (rest.length > 0 && /^[\w-]+(\.[\w-]+)+:\D/.test(name)) throw refuseScheme("ssh");
		return null;
	}
	const known = hostFor(hosts, origin);
	if (known === undefined && !(rest.length > 1 && looksLikeHost(name))) return null;
	return read(text.slice(name.length), origin, known, (part) => part, false);
}

/** A name with a top-level domain, a written port, or an address; a folder would hardly be called so. */
function looksLikeHost(name: string): boolean {
	return (
		/^([\p{L}\p{N}-]+\.)+(\p{L}{2,}|xn--[\w-]+)\.?(:\d+)?$/u.test(name) ||
		/^(\d+(\.\d+){3}|\[[0-9a-f:.]+\]|[\w.-]+:\d+)(:\d+)?$/i.test(name)
	);
}

function refuseScheme(scheme: string): AppError {
	return refuse(
		`a source cannot be fetched by ${scheme === "git" ? "the git protocol" : scheme}; remotes are fetched over https`,
		scheme === "ssh" || scheme.endsWith("+ssh")
			? "Write https://HOST/OWNER/REPOSITORY; for a private repository an operator gives the server a token for the host."
			: HINT,
	);
}

function refuseCredentials(): AppError {
	return refuse(
		"the address of the source holds credentials; they would end up in logs and records",
		"Leave them out; for a private repository an operator gives the server a token for the host.",
	);
}

function readUrl(text: string, scheme: Scheme, hosts: readonly HostConfig[]): RemoteAddress {
	const end = text.search(/[/?#\\]/);
	const name = end === -1 ? text : text.slice(0, end);
	if (name.includes("@")) throw refuseCredentials();
	const origin = readAuthority(name, scheme);
	if (origin === null) throw refuse("the address of the source names no valid host");
	const known = hostFor(hosts, origin);
	if (scheme === "http" && known?.allowHttp !== true)
		throw refuse(
			`${authority(origin)} is spoken to by https only`,
			"Write https://, or let an operator set allowHttp for this host.",
		);
	const [path = "", query = ""] = (end === -1 ? "" : text.slice(end)).replace(/#.*$/s, "").split(/\?(.*)$/s);
	if (!HARMLESS_QUERY.test(query))
		throw refuse("the address of the source holds a query", "Leave out the question mark and what follows it.");
	return read(path, origin, known, decode, true);
}

function decode(part: string): string {
	try {
		return decodeURIComponent(part);
	} catch (error) {
		throw new AppError("invalid_argument", "the address of the source holds a broken % escape", {
			field: "source",
			hint: HINT,
			cause: error,
		});
	}
}

/** What is known once the text has been taken apart. */
type Parts = {
	readonly repository: readonly string[];
	readonly folder: readonly string[];
	readonly ref: string | null;
	readonly undecided?: "repository" | "ref";
};

function read(
	path: string,
	origin: Origin,
	known: HostConfig | undefined,
	decoded: (part: string) => string,
	isUrl: boolean,
): RemoteAddress {
	if (path.length > MAX_LENGTH) throw refuse(`the address of the source is longer than ${MAX_LENGTH} characters`);
	if (/[\\\p{Cc}]/u.test(path)) throw refuse("the address of the source holds a backslash or a control character");
	const at = path.search(/(?<=[^/])@/);
	const written = at === -1 ? null : decoded(path.slice(at + 1));
	if (written === "") throw refuse("the address of the source ends in @ without a branch, tag or commit");
	const segments = (at === -1 ? path : path.slice(0, at))
		.split("/")
		.filter((segment) => segment !== "")
		.map(decoded);
	const page = written === null ? readPage(segments, known?.kind ?? "git", isUrl) : null;
	const parts = page ?? { ...split(segments, known?.kind ?? "git"), ref: written };
	const ref = parts.ref === "HEAD" ? null : parts.ref;
	if (ref !== null) checkRef(ref);
	const { undecided } = parts;
	return {
		host: origin.host,
		port: origin.port === defaultPort(origin.scheme) ? null : origin.port,
		repository: checkRepository(parts.repository, origin),
		folder: checkFolder(parts.folder),
		ref,
		...(undecided === undefined ? {} : { undecided }),
		...(origin.scheme === "http" ? { scheme: "http" } : {}),
	};
}

/** The page of a folder in a forge; null where it is none. */
function readPage(segments: readonly string[], kind: HostConfig["kind"], isUrl: boolean): Parts | null {
	const dash = segments.indexOf("-");
	if (dash > 0) return pageParts(segments.slice(0, dash), segments[dash + 1], segments.slice(dash + 2));
	const repository = segments.slice(0, 2);
	const [, , view, ...rest] = segments;
	if (kind === "github" && ["tree", "blob", "commit", "commits", "raw"].includes(view ?? ""))
		return pageParts(repository, view, rest);
	// Only of a URL that was copied from a browser: `src` is a common name for a folder.
	if (!isUrl || view !== "src") return null;
	if (kind === "bitbucket") return pageParts(repository, "tree", rest);
	if (kind === "git" && ["branch", "tag", "commit"].includes(rest[0] ?? ""))
		return pageParts(repository, "tree", rest.slice(1));
	return null;
}

function pageParts(repository: readonly string[], view: string | undefined, rest: readonly string[]): Parts {
	const plain = withoutSuffix(repository);
	const [ref, ...folder] = rest;
	if (view === "tree" && ref === undefined) return { repository: plain, folder: [], ref: null };
	if (view === "commit" && ref !== undefined && folder.length === 0) return { repository: plain, folder: [], ref };
	if (view !== "tree" || ref === undefined)
		throw refuse(
			"the address of the source is the page of something else than a folder",
			`Open the program's folder and copy that address. ${HINT}`,
		);
	return folder.length === 0
		? { repository: plain, folder, ref }
		: { repository: plain, folder, ref, undecided: "ref" };
}

function withoutSuffix(repository: readonly string[]): readonly string[] {
	return repository.map((segment, index) =>
		index === repository.length - 1 ? segment.replace(/\.git$/, "") : segment,
	);
}

function split(segments: readonly string[], kind: HostConfig["kind"]): Omit<Parts, "ref"> {
	const suffixed = segments.findIndex((segment) => segment.endsWith(".git") && segment !== ".git");
	if (suffixed !== -1)
		return {
			repository: withoutSuffix(segments.slice(0, suffixed + 1)),
			folder: segments.slice(suffixed + 1),
		};
	const parts = { repository: segments.slice(0, 2), folder: segments.slice(2) };
	const nests = kind === "gitlab" || kind === "git";
	return nests && parts.folder.length > 0 ? { ...parts, undecided: "repository" } : parts;
}

function checkRepository(segments: readonly string[], origin: Origin): string {
	const path = segments.join("/");
	if (segments.length < 2 && !(segments.length === 1 && path !== "" && !isForge(origin)))
		throw refuse(`the address of the source names no repository on ${authority(origin)}`);
	for (const segment of segments)
		if (!isRepositorySegment(segment)) throw refuse(`${JSON.stringify(path)} is not the name of a repository`);
	return path;
}

function isForge(origin: Origin): boolean {
	return hostFor(DEFAULT_HOSTS, origin) !== undefined;
}

function isRepositorySegment(segment: string): boolean {
	return SEGMENT.test(segment) && !segment.startsWith("-") && segment !== "." && segment !== ".." && segment !== ".git";
}

/** True for a path that can name a repository, as a forge's own answer must. */
export function isRepositoryPath(path: string): boolean {
	return path.length <= 1024 && path.split("/").every(isRepositorySegment);
}

function checkFolder(segments: readonly string[]): string {
	if (segments.some((segment) => segment.includes("/") || segment.toLowerCase() === ".git"))
		throw refuse("the address of the source names a folder that cannot exist");
	if (segments.includes("..")) throw refuse("the folder of the source leads out of the repository with `..`");
	try {
		return normaliseEntrypoint(segments.join("/"));
	} catch (error) {
		if (!(error instanceof AppError)) throw error;
		throw new AppError("invalid_argument", error.message.replace("entrypoint", "folder"), {
			field: "source",
			hint: HINT,
			cause: error,
		});
	}
}

/** As `git check-ref-format` has it, and nothing that git would take for an option. */
function checkRef(ref: string): void {
	const broken =
		ref.length > 255 ||
		/[\s~^:?*[\\\p{Cc}]|\.\.|@\{|\/\/|^[-/]|[/.]$|^@$/u.test(ref) ||
		ref.split("/").some((part) => part.startsWith(".") || part.endsWith(".lock"));
	if (broken) throw refuse(`${JSON.stringify(ref.slice(0, 200))} cannot be the name of a branch, tag or commit`);
}
