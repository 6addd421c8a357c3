import { fileURLToPath } from "node:url";

/** What a sandboxed Go build may reach, by the configuration of modules (`go env`). */
export type GoNetwork = {
	/** In place of the settings of these names. */
	readonly env: Readonly<Record<string, string>>;
	/** Module proxies and the checksum database. */
	readonly hosts: readonly URL[];
	/** Folders that are module proxies (`file://`). */
	readonly folders: readonly string[];
	/** Whether the configuration would have fetched modules from their own repositories too, which a sandbox does not do. */
	readonly directLeftOut: boolean;
};

/**
 * Version control is not run in a sandbox: where it may go is said by the source, and not by the configuration. So `direct`
 * is left out of GOPROXY, and GOVCS forbids what GOPRIVATE and GONOPROXY would fetch directly.
 */
export function goNetwork(settings: Readonly<Record<string, string>>): GoNetwork {
	const hosts = new Map<string, URL>();
	const folders: string[] = [];
	let proxies = "";
	let direct = (settings.GONOPROXY || settings.GOPRIVATE || "") !== "";
	for (const [, entry = "", separator = ""] of (settings.GOPROXY ?? "").matchAll(/([^,|]+)([,|]?)/g)) {
		const name = entry.trim();
		if (name === "direct") {
			direct = true;
			continue;
		}
		proxies += `${name}${separator}`;
		if (name === "off" || name === "") continue;
		const url = urlOf(name);
		if (url?.protocol === "file:") folders.push(fileURLToPath(url));
		else if (url !== undefined) hosts.set(url.origin, new URL(url.origin));
	}
	proxies = proxies.replace(/[,|]$/, "");
	const sums = sumServer(settings.GOSUMDB ?? "");
	if (sums !== undefined) hosts.set(sums.origin, new URL(sums.origin));
	return {
		env: { GOPROXY: proxies === "" ? "off" : proxies, GOVCS: "*:off" },
		hosts: proxies === "" || proxies === "off" ? [] : [...hosts.values()],
		folders,
		directLeftOut: direct,
	};
}

/** `name`, `name+key` or `name+key https://where`. */
function sumServer(setting: string): URL | undefined {
	const [name = "", where] = setting.trim().split(/\s+/);
	if (name === "" || name === "off") return undefined;
	return urlOf(where ?? name.replace(/\+.*$/, ""));
}

/** As Go reads it: without a scheme it is https. */
function urlOf(text: string): URL | undefined {
	const full = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `https://${text}`;
	if (!URL.canParse(full)) return undefined;
	const url = new URL(full);
	return ["https:", "http:", "file:"].includes(url.protocol) ? url : undefined;
}

/**
 * Whether a build without network failed for want of it: something was to be fetched. Most builds find all in the module
 * cache, and one without network starts sooner.
 */
export function wantsNetwork(lines: readonly string[]): boolean {
	return lines.some((line) => /disabled by GOPROXY=off|GOVCS disallows|\?go-get=1|\bdial tcp\b/.test(line));
}

/** Whether Go wanted to run version control, or had no module proxy left to ask. */
export function wantsRepository(lines: readonly string[]): boolean {
	return lines.some((line) =>
		/disabled by GOPROXY=off|GOVCS disallows|\?go-get=1|\b(404 Not Found|410 Gone)\b/.test(line),
	);
}
