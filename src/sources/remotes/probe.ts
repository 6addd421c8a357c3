import { AppError, isAppError } from "../../errors.ts";
import { authority, type HostConfig, type Origin, usernameOf } from "./hosts.ts";
import type { Outbound } from "./outbound.ts";

/** Null where a git repository answers, else what is wrong. Rejects for an address that is not allowed, and when cancelled. */
export async function probe(
	outbound: Outbound,
	url: string,
	origin: Origin,
	config: HostConfig,
	signal: AbortSignal,
): Promise<AppError | null> {
	const host = authority(origin);
	const { token } = config;
	const pair = Buffer.from(`${usernameOf(config)}:${token}`).toString("base64");
	const unavailable = (what: string) => new AppError("unavailable", `${host} ${what}`, { field: "source" });
	let response: Awaited<ReturnType<Outbound["fetch"]>>;
	try {
		response = await outbound.fetch(`${url}/info/refs?service=git-upload-pack`, {
			signal,
			redirects: 0,
			headers: { "git-protocol": "version=2", ...(token === undefined ? {} : { authorization: `Basic ${pair}` }) },
		});
	} catch (error) {
		if (isAppError(error, "unavailable")) return error;
		throw error;
	}
	await response.body?.cancel();
	const { status } = response;
	if (status === 200) {
		const isGit = response.headers.get("content-type")?.startsWith("application/x-git-upload-pack-advertisement");
		return isGit === true ? null : unavailable("answers with something else than git's protocol");
	}
	if (status >= 300 && status < 400)
		return new AppError(
			"invalid_argument",
			`${host} redirects to another address, and git's redirects are not followed`,
			{
				field: "source",
				hint: "Write the address that the repository has now.",
			},
		);
	if (status === 401)
		return new AppError(
			"permission_denied",
			token === undefined
				? `${host} asks for a token: the repository is private, or there is none of that name`
				: `${host} refuses this server's token for the repository`,
			{ field: "source", hint: "An operator gives the server a token in the file of git hosts." },
		);
	if (status === 404 || status === 410)
		return new AppError("not_found", `${host} has no such repository`, { field: "source" });
	if (status === 403 || status === 429) return unavailable("limits the rate of requests, or refuses this one");
	return unavailable(`answers with status ${status}`);
}
