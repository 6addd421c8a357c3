import type { Context, Input } from "../context.ts";
import { CliError, isCliError } from "../errors.ts";
import { isFinal, readVerdict } from "../follow.ts";
import { Interrupts } from "../interrupts.ts";
import { missingService } from "../notices.ts";
import { newestRevision } from "../shapes.ts";
import { watch } from "../watch.ts";

/** Attaches to a revision on its way: the same screen and the same exit code as the command that made it. */
export async function wait(context: Context, { args, options }: Input): Promise<number> {
	const [name = "", version = "latest"] = args;
	const wanted = options.integer("revision", "--revision", 1, 1_000_000_000);
	const limit = options.integer("timeout", "--timeout", 0, 1_000_000);
	const api = await context.api();
	const [session, service] = await Promise.all([
		api.session(),
		api.service(name, version).catch(async (error: unknown) => {
			throw isCliError(error, "not_found") ? await missingService(api, name, version) : error;
		}),
	]);
	const newest = newestRevision(service);
	const revision = wanted ?? newest;
	if (revision > newest)
		throw new CliError(`${name}:${version} has no revision ${revision}; its newest is ${newest}`, {
			code: "not_found",
		});
	const watched = { id: service.id, name, version, revision };
	const now = await readVerdict(api, watched, AbortSignal.timeout(60_000));
	if (now.revision === undefined && revision !== service.revision && revision !== service.target?.revision) {
		throw new CliError(`Revision ${revision} of ${name}:${version} is no longer kept`, { code: "not_found" });
	}
	const interrupts = new Interrupts(
		process.stdin,
		!isFinal(now.status) && context.stderr.isTTY === true && context.env.TERM !== "dumb",
	);
	const screen = await context.screen();
	try {
		screen.target({
			service: version === "latest" ? name : `${name}:${version}`,
			server: api.connection.label,
			namespace: session.namespace,
			account: session.account,
		});
		const builder = now.revision?.build?.builder ?? session.server.builders[0]?.name;
		const timeout = limit === undefined ? undefined : limit * 1000;
		const rest = { builder, builds: undefined, root: undefined, again: undefined, timeout };
		return await watch({ context, api, screen, interrupts, watched, ...rest });
	} finally {
		screen.close();
		interrupts.close();
	}
}
