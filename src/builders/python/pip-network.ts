import { existsSync } from "node:fs";
import { isAbsolute } from "node:path";

/** Where pip may fetch packages from, by its own configuration. */
export type PipNetwork = {
	/** Pages that list packages, by setting: they may hold the operator's credentials. */
	readonly pages: readonly { readonly setting: PageSetting; readonly url: URL }[];
	/** Folders with packages. */
	readonly folders: readonly string[];
	/** Other origins: where files are that those pages lead to. */
	readonly files: readonly URL[];
	/** Settings that say nothing of where; as pip's variables. */
	readonly env: Readonly<Record<string, string>>;
	/** Certificates: they have to be read. */
	readonly certificates: readonly string[];
	/** The bundle that pip trusts, in place of its own. */
	readonly bundle: string | undefined;
};

export type PageSetting = "index-url" | "extra-index-url" | "find-links";

type Settings = Readonly<Record<string, string | undefined>>;

/** What pip has where nothing is configured. Its index has its files elsewhere. */
const DEFAULT_INDEX = "https://pypi.org/simple";
const DEFAULT_FILES = "https://files.pythonhosted.org";
const KEPT = [
	...["no-index", "trusted-host", "cert", "timeout", "default-timeout", "retries", "pre", "prefer-binary"],
	...["only-binary", "no-binary"],
];
/** How often pip asks again, where that is not configured: what is refused stays so. */
const RETRIES = "2";
const BUNDLES = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

export function pipNetwork(settings: Settings, serverEnv: Settings): PipNetwork {
	const found: PipNetwork["pages"][number][] = [];
	const folders: string[] = [];
	const withIndex = !/^(1|y|yes|t|true|on)$/i.test(settings["no-index"] ?? "");
	const listed: readonly (readonly [PageSetting, string])[] = [
		["index-url", withIndex ? (settings["index-url"] ?? DEFAULT_INDEX) : ""],
		["extra-index-url", withIndex ? (settings["extra-index-url"] ?? "") : ""],
		["find-links", settings["find-links"] ?? ""],
	];
	for (const [setting, text] of listed)
		for (const place of text.split(/\s+/).filter((word) => word !== "")) {
			const url = URL.canParse(place) ? new URL(place) : undefined;
			if (isAbsolute(place)) folders.push(place);
			else if (url?.protocol === "file:") folders.push(decodeURIComponent(url.pathname));
			else if (url?.protocol === "https:" || url?.protocol === "http:") found.push({ setting, url });
		}
	const files = (settings["trusted-host"] ?? "").split(/\s+/).flatMap(trusted);
	if (found.some(({ url }) => url.origin === new URL(DEFAULT_INDEX).origin)) files.push(new URL(DEFAULT_FILES));
	const env: Record<string, string> = { PIP_RETRIES: RETRIES };
	for (const name of KEPT) {
		const value = settings[name];
		if (value !== undefined) env[`PIP_${name.toUpperCase().replaceAll("-", "_")}`] = value;
	}
	for (const name of BUNDLES) {
		const value = serverEnv[name];
		if (value !== undefined && value !== "") env[name] = value;
	}
	const certificates = [settings.cert, ...BUNDLES.map((name) => serverEnv[name])].filter(
		(path) => path !== undefined && isAbsolute(path) && existsSync(path),
	);
	const bundle = settings.cert ?? serverEnv.REQUESTS_CA_BUNDLE ?? serverEnv.CURL_CA_BUNDLE ?? serverEnv.SSL_CERT_FILE;
	return {
		...{ pages: found, folders: folders.filter(existsSync), files, env, bundle },
		certificates: certificates.flatMap((path) => path ?? []),
	};
}

/** `host` or `host:port`, either of which pip also asks without TLS. */
function trusted(host: string): URL[] {
	const spellings = /:\d+$/.test(host) ? [`http://${host}`] : [`https://${host}`, `http://${host}`];
	return host === "" ? [] : spellings.flatMap((text) => (URL.canParse(text) ? [new URL(text)] : []));
}
