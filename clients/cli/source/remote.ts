import { usage } from "../errors.ts";
import { validName } from "./root.ts";

/** A git repository that the server fetches by itself; nothing is uploaded. */
export type RemoteSource = {
	/** As it was typed: the server reads it. */
	readonly typed: string;
	/** Of the last element of the path; undefined where nothing of it can be kept. */
	readonly name: string | undefined;
	/** The ref as far as a version may hold it, else latest. */
	readonly version: string;
};

/**
 * Reads `host/owner/repository/folder@ref` or an http(s) URL, for a name and a version only. Other schemes, and
 * credentials in an address, are usage errors.
 */
export function remoteSource(typed: string): RemoteSource {
	const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(typed)?.[1]?.toLowerCase();
	const other = scheme === undefined && /^[\w.-]+@[\w.-]+:/.test(typed) ? "ssh" : scheme;
	if (other !== undefined && other !== "https" && other !== "http")
		throw usage(`The server fetches repositories over https, not ${other}`, [
			"Try:  runtime run host/owner/repository/folder@ref",
		]);
	const rest = typed.replace(/^[a-z]+:\/\//i, "").replace(/[?#].*$/s, "");
	const slash = rest.indexOf("/");
	const host = slash < 0 ? rest : rest.slice(0, slash);
	if (host.includes("@"))
		throw usage("No credentials in a repository's address; private ones are the server's configuration");
	const path = slash < 0 ? "" : rest.slice(slash + 1);
	const at = path.indexOf("@");
	const ref = at < 0 ? "" : path.slice(at + 1);
	const last = (at < 0 ? path : path.slice(0, at))
		.replace(/\/+$/, "")
		.replace(/\.git$/, "")
		.split("/")
		.at(-1);
	return { typed, name: validName(last ?? ""), version: versionOf(ref) };
}

/** What a version may not hold becomes `-`. */
export function versionOf(ref: string): string {
	const version = ref.replace(/[^A-Za-z0-9._/-]+/g, "-").slice(0, 128);
	return version === "" || version === "." || version === ".." ? "latest" : version;
}
