import { answerTo } from "../answer.ts";
import type { Operation } from "../commands.gen.ts";
import type { Context, Input } from "../context.ts";
import { CliError, EXIT, isCliError } from "../errors.ts";
import { Interrupts } from "../interrupts.ts";
import { contractNotice, missingService, withRevisions } from "../notices.ts";
import { accepted } from "../submitted.ts";
import { watch } from "../watch.ts";
import { requestOf } from "./generated.ts";

/** An operation of the contract that makes a revision and builds nothing: followed as `update` is. */
export async function followed(operation: Operation, context: Context, input: Input): Promise<number> {
	const { values, path, body } = requestOf(operation, input);
	const [name = "", version = "latest"] = [values.get("name"), values.get("version")];
	const { method } = operation;
	if (method !== "POST" && method !== "PUT" && method !== "PATCH") throw new Error(`${method} makes no revision`);
	const api = await context.api();
	const interrupts = new Interrupts(process.stdin, context.stderr.isTTY === true && context.env.TERM !== "dumb");
	const screen = await context.screen();
	const aborted = new AbortController();
	const leave = () => aborted.abort(new CliError("Cancelled", { exit: EXIT.cancelled, code: "cancelled" }));
	interrupts.handle = leave;
	try {
		const session = await api.session(aborted.signal);
		screen.target({
			service: version === "latest" ? name : `${name}:${version}`,
			server: api.connection.label,
			namespace: session.namespace,
			account: session.account,
		});
		contractNotice(session, screen);
		const answer = await answerTo(
			{ method, path, body, signal: aborted.signal },
			{ ...{ api, screen, interrupts, name, version }, before: undefined, phase: "Start", builder: undefined },
		).catch(async (error: unknown) => {
			// A revision that is not there is 404 too, and names itself.
			const gone = isCliError(error, "not_found") && error.problem?.field === undefined;
			throw gone && (await isMissing(() => api.service(name, version)))
				? await missingService(api, name, version)
				: withRevisions(error, api, name, version);
		});
		if (answer.failed !== undefined) throw answer.problem;
		const { service, revision, cancelAtOnce, decided } = answer;
		const made = revision ?? service.revision;
		if (!input.options.notNo("wait") && !decided) {
			screen.close();
			accepted(context, api, service, made);
			return EXIT.ok;
		}
		const watched = { id: service.id, name, version, revision: made };
		const rest = { builder: undefined, builds: false, root: undefined, again: undefined, cancelAtOnce };
		return await watch({ context, api, screen, interrupts, watched, ...rest });
	} catch (error) {
		throw aborted.signal.aborted ? aborted.signal.reason : error;
	} finally {
		screen.close();
		interrupts.close();
	}
}

async function isMissing(read: () => Promise<unknown>): Promise<boolean> {
	return await read().then(
		() => false,
		(error: unknown) => isCliError(error, "not_found"),
	);
}
