import { authority, type HostConfig, type Origin, usernameOf } from "./hosts.ts";

/** Where git may connect to, and as whom. */
export type GitAccess = {
	readonly origin: Origin;
	/** Vetted; git is pinned to them. */
	readonly addresses: readonly string[];
	readonly config: HostConfig;
};

/** Answers git's questions from its own environment: arguments can be seen by every user of the machine, that cannot. */
export const ASKPASS = `#!/bin/sh
case "$1" in
Username*) printf '%s\\n' "$RUNTIME_GIT_USERNAME" ;;
*) printf '%s\\n' "$RUNTIME_GIT_TOKEN" ;;
esac
`;

/** Whatever git's own configuration, a repository or a server may say, these hold. */
const SETTINGS: readonly string[] = [
	"core.hooksPath=/dev/null",
	"core.fsmonitor=false",
	"core.attributesFile=/dev/null",
	"credential.helper=",
	"fetch.recurseSubmodules=false",
	"fetch.unpackLimit=1",
	"fetch.writeCommitGraph=false",
	"fetch.showForcedUpdates=false",
	"gc.auto=0",
	"http.followRedirects=false",
	"http.lowSpeedLimit=500",
	"http.lowSpeedTime=30",
	"maintenance.auto=false",
	"protocol.version=2",
	"submodule.recurse=false",
	"transfer.bundleURI=false",
];

/** The arguments before the command. */
export function settingsFor(access: GitAccess | undefined): string[] {
	const settings = [...SETTINGS];
	if (access !== undefined) {
		const { origin, addresses, config } = access;
		const pinned = addresses.map((address) => (address.includes(":") ? `[${address}]` : address)).join(",");
		// An address in the URL is not looked up, and curl would refuse its brackets here.
		if (!origin.host.startsWith("[")) settings.push(`http.curloptResolve=${origin.host}:${origin.port}:${pinned}`);
		if (config.ca !== undefined) settings.push(`http.sslCAInfo=${config.ca}`);
	}
	return settings.flatMap((setting) => ["-c", setting]);
}

/** All of it: nothing of the server's own but PATH. */
export function environmentFor(
	access: GitAccess | undefined,
	at: { readonly home: string; readonly repository: string; readonly askpass: string },
): NodeJS.ProcessEnv {
	return {
		PATH: process.env.PATH ?? "/usr/local/bin:/usr/bin:/bin",
		HOME: at.home,
		LC_ALL: "C",
		GIT_DIR: at.repository,
		GIT_CONFIG_NOSYSTEM: "1",
		GIT_CONFIG_GLOBAL: "/dev/null",
		GIT_ATTR_NOSYSTEM: "1",
		GIT_TERMINAL_PROMPT: "0",
		GIT_ALLOW_PROTOCOL: access?.origin.scheme ?? "none",
		GIT_LFS_SKIP_SMUDGE: "1",
		GIT_ASKPASS: at.askpass,
		...(access?.config.token === undefined
			? {}
			: { RUNTIME_GIT_USERNAME: usernameOf(access.config), RUNTIME_GIT_TOKEN: access.config.token }),
	};
}

/** What git said, on one line and without anything secret. */
export function scrub(said: string, access: GitAccess | undefined): string {
	let text = said.replace(/\/\/[^/\s@]*@/g, "//").replace(/^.*(authorization|cookie):.*$/gim, "");
	const token = access?.config.token;
	if (access !== undefined && token !== undefined) {
		const pair = `${usernameOf(access.config)}:${token}`;
		for (const secret of [token, encodeURIComponent(token), pair, Buffer.from(pair).toString("base64")])
			text = text.replaceAll(secret, "***");
	}
	return text
		.split("\n")
		.map((line) => line.replace(/^(fatal|error|remote|warning):\s*/, "").trim())
		.filter((line) => line !== "")
		.join("; ")
		.replace(/\p{Cc}/gu, " ")
		.slice(0, 500);
}

/** The URL that git is given. */
export function cloneUrl(origin: Origin, path: string): string {
	return `${origin.scheme}://${authority(origin)}/${path.split("/").map(encodeURIComponent).join("/")}`;
}
