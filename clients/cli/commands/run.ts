import { type Answer, answerTo } from "../answer.ts";
import { type Api, servicePath } from "../api.ts";
import type { Context, Input } from "../context.ts";
import { dryRun } from "../dry-run.ts";
import { CliError, EXIT, hints, isCliError, usage } from "../errors.ts";
import { nearest, quote } from "../format.ts";
import { Interrupts } from "../interrupts.ts";
import { contractNotice, missingService } from "../notices.ts";
import { type Plan, planOf, type Verb } from "../plan.ts";
import { resolveRemote } from "../remotes.ts";
import { failureLines, isOfBuild } from "../report.ts";
import { RUNTIME_FILE } from "../runtime-file.ts";
import type { Screen } from "../screen/screen.ts";
import { secretsOf } from "../secrets.ts";
import type { Settings } from "../settings.ts";
import type { Service, Session } from "../shapes.ts";
import { builderOf, KNOWN_BUILDERS, nothingToBuild } from "../source/buildable.ts";
import { listFiles, type SourceFiles } from "../source/files.ts";
import { display, type LocalSource } from "../source/root.ts";
import type { Change } from "../submit.ts";
import { accepted } from "../submitted.ts";
import { uploaded } from "../uploading.ts";
import { watch } from "../watch.ts";

export const run = (context: Context, input: Input): Promise<number> => deployment("run", context, input);
export const update = (context: Context, input: Input): Promise<number> => deployment("update", context, input);
export const deploy = (context: Context, input: Input): Promise<number> => deployment("deploy", context, input);

async function deployment(verb: Verb, context: Context, input: Input): Promise<number> {
	const plan = planOf(verb, context, input);
	if (input.options.flag("dryRun")) {
		if (plan.origin.kind !== "folder") throw usage("--dry-run goes with a source folder");
		const files = await listFiles(plan.origin.local.root, new AbortController().signal);
		checkListed(context, plan.origin.local, files);
		return dryRun(context, plan.origin.local, files, plan);
	}
	if (plan.origin.kind === "folder" && builderOf(plan.origin.local, KNOWN_BUILDERS) === undefined)
		await refuseFolder(context, plan.origin.local);
	const interrupts = new Interrupts(process.stdin, context.stderr.isTTY === true && context.env.TERM !== "dumb");
	const screen = await context.screen();
	try {
		return await deployed(context, input, plan, screen, interrupts);
	} finally {
		screen.close();
		interrupts.close();
	}
}

/** A folder that nothing we know of builds: the server's own list decides, where there is one. */
async function refuseFolder(context: Context, local: LocalSource): Promise<void> {
	let builders = KNOWN_BUILDERS;
	try {
		const session = await (await context.api()).session();
		if (session.server.builders.length > 0) builders = session.server.builders;
	} catch (error) {
		if (!(error instanceof CliError)) throw error;
	}
	if (builderOf(local, builders) === undefined) throw nothingToBuild(local, builders, context.cwd);
}

async function deployed(
	context: Context,
	input: Input,
	plan: Plan,
	screen: Screen,
	interrupts: Interrupts,
): Promise<number> {
	const { name, version, local, origin } = plan;
	const aborted = new AbortController();
	// The key d is offered once there is something to detach from.
	interrupts.handle = (interrupt) =>
		interrupt !== "detach" &&
		aborted.abort(new CliError("Cancelled; nothing was created", { exit: EXIT.cancelled, code: "cancelled" }));
	const { signal } = aborted;
	const api = await context.api();
	// All are needed before anything is sent, and none waits for another.
	const listing = origin.kind === "folder" ? listFiles(origin.local.root, signal) : undefined;
	const asked = Promise.all([
		api.session(signal),
		existing(api, name, version, signal),
		origin.kind === "remote" ? resolveRemote(api, origin.remote, signal) : undefined,
	]);
	listing?.catch(() => undefined);
	const [session, before, remote] = await asked.catch((error: unknown) => {
		throw withHints(error, plan, signal);
	});
	screen.target({
		service: label(name, version),
		server: api.connection.label,
		namespace: session.namespace,
		account: session.account,
	});
	contractNotice(session, screen);
	checkBuilder(plan, session);
	if (origin.kind === "folder") checkFolder(context, origin.local, session, plan.builder?.name);
	if (local?.renamed && name === local.name) screen.say(`(the service is named ${name}, after the folder)`);
	if (remote !== undefined) screen.say(`(${remote})`);
	await checkVerb(api, plan, before);
	const files = await listing?.catch((error: unknown) => {
		throw signal.aborted ? signal.reason : error;
	});
	const settings = { ...plan.settings };
	const secrets = await secretsOf(context, plan.secrets, before, interrupts);
	if (Object.keys(secrets).length > 0) settings.env = { ...settings.env, ...secrets };
	if (files !== undefined && origin.kind === "folder") {
		checkListed(context, origin.local, files);
		settings.source = (await uploaded(api, files, session, screen, signal)).source;
	} else if (origin.kind === "remote") settings.source = origin.remote.typed;
	else if (origin.kind === "key") settings.source = origin.source;
	// Asked for by name alone: the same source, built and started again.
	else if (Object.keys(settings).length === 0 && before !== undefined) settings.source = before.source;
	else screen.say("nothing to upload");
	const builds = settings.source !== undefined;
	const found = origin.kind === "folder" ? builderOf(origin.local, session.server.builders) : before?.build?.builder;
	const answer = await answerTo(
		{ ...changeOf(plan, settings), signal },
		{
			...{ api, screen, interrupts, name, version, before },
			...{ phase: builds ? "Build" : "Start", builder: plan.builder?.name ?? found },
		},
	).catch((error: unknown) => {
		throw withLimitHint(error, plan);
	});
	if (answer.failed !== undefined) return failedAtOnce(context, screen, plan, answer);
	const { service, revision, cancelAtOnce, decided } = answer;
	if (revision === undefined) {
		screen.close();
		screen.say(`${label(name, version)}: nothing to rebuild or restart (revision ${service.revision})`);
		return finished(context, service);
	}
	const watched = { id: service.id, name, version, revision };
	if (!input.options.notNo("wait") && !decided) {
		screen.close();
		accepted(context, api, service, revision);
		return EXIT.ok;
	}
	const known = origin.kind === "folder" ? found : service.build?.builder;
	const builder = plan.builder?.name ?? known;
	const rest = { builder, builds, root: local?.root, again: plan.again, cancelAtOnce };
	return await watch({ context, api, screen, interrupts, watched, ...rest });
}

function changeOf({ verb, name, version }: Plan, settings: Settings): Change {
	if (verb === "run") return { method: "POST", path: "/services", body: { name, version, ...said(settings) } };
	return { method: verb === "update" ? "PATCH" : "PUT", path: servicePath(name, version), body: settings };
}

/** Without what is taken away: a new service has nothing yet. */
function said({ limits, builder, ...rest }: Settings): Settings {
	const given = Object.entries(limits ?? {}).filter(([, value]) => value !== null);
	return {
		...rest,
		...(given.length === 0 ? {} : { limits: Object.fromEntries(given) }),
		...(builder === undefined || builder === null ? {} : { builder }),
	};
}

/** What a server that answers with the verdict says of a create: nothing of it is kept there, logs neither. */
function failedAtOnce(
	context: Context,
	screen: Screen,
	{ local, again }: Plan,
	{ failed, problem, ms }: Extract<Answer, { problem: CliError }>,
): number {
	screen.begin(isOfBuild(failed) ? "Build" : "Start", "", Date.now() - ms);
	screen.fail(failed.code.replaceAll("_", " "), ms);
	screen.close();
	const create = again.replace(/^runtime update/, "runtime run");
	const report = { error: failed, revision: undefined, service: undefined, words: "", log: [] };
	for (const line of failureLines({
		...report,
		root: local?.root,
		cwd: context.cwd,
		again: create,
		paint: context.paint,
	}))
		screen.say(line);
	if (context.json) context.printJson(problem.toProblem());
	return problem.exit;
}

function finished(context: Context, service: Service): number {
	if (context.json) context.printJson(service);
	else if (service.url !== null) context.print(service.url);
	return EXIT.ok;
}

function label(name: string, version: string): string {
	return version === "latest" ? name : `${name}:${version}`;
}

async function existing(api: Api, name: string, version: string, signal: AbortSignal): Promise<Service | undefined> {
	try {
		return await api.service(name, version, signal);
	} catch (error) {
		if (isCliError(error, "not_found")) return undefined;
		throw error;
	}
}

/** The screen for a server that cannot be reached says what it means for this command. */
function withHints(error: unknown, { verb, local, origin }: Plan, signal: AbortSignal): unknown {
	if (signal.aborted) return signal.reason;
	if (!isCliError(error, "unreachable")) return error;
	const typed = local?.typed ?? (origin.kind === "remote" ? origin.remote.typed : undefined);
	const lines = hints([
		["Start one", "runtime server"],
		["Use another", `runtime ${verb} ${typed === undefined ? "NAME" : quote(typed)} --server URL`],
	]);
	return new CliError(`${error.message}\nNothing was uploaded.`, {
		exit: error.exit,
		code: error.code,
		lines,
		cause: error,
	});
}

/** A limit that no flag asked for: where it stands, and what leaves it away. */
function withLimitHint(error: unknown, { verb, limits, again }: Plan): unknown {
	const [, name] = /^limits\/([a-z]+)$/.exec((isCliError(error) && error.problem?.field) || "") ?? [];
	if (!isCliError(error) || name === undefined || limits[name] === "flag") return error;
	const line =
		limits[name] === "file"
			? `${RUNTIME_FILE} asks for it; without it:  runtime ${verb} … --${name} default`
			: `Try:  ${again} --${name} default`;
	const { message, exit, code, problem } = error;
	return new CliError(message, {
		exit,
		code,
		lines: [...error.lines, line],
		cause: error,
		...(problem && { problem }),
	});
}

/** What nobody on the server builds, or not the builder that was asked for, is not uploaded. */
function checkFolder(context: Context, local: LocalSource, session: Session, asked: string | undefined): void {
	const builders = session.server.builders.filter(({ name }) => asked === undefined || name === asked);
	if (builders.length === 0) return;
	if (builderOf(local, builders) === undefined) throw nothingToBuild(local, builders, context.cwd);
}

function checkBuilder({ builder }: Plan, session: Session): void {
	const names = session.server.builders.map(({ name }) => name);
	if (builder === undefined || names.length === 0 || names.includes(builder.name)) return;
	const [close] = nearest(builder.name, names);
	throw usage(
		`${builder.from} ${builder.name} is none of this server's (${names.join(", ")}); nothing was uploaded`,
		close === undefined ? [] : [`Did you mean:  ${close}`],
	);
}

/** A folder that git ignores is not in the archive, and the server could only say that it is missing. */
function checkListed(context: Context, { entrypoint, folder, root }: LocalSource, { files }: SourceFiles): void {
	if (entrypoint === "." || files.some(({ path }) => path.startsWith(`${entrypoint}/`))) return;
	const where = display(folder, context.cwd);
	throw usage(`Nothing of ${where} would be uploaded: .gitignore or .runtimeignore of ${root} leaves it out`);
}

async function checkVerb(api: Api, plan: Plan, before: Service | undefined): Promise<void> {
	const { verb, name, version, again, local } = plan;
	if (verb === "run" && before !== undefined) {
		throw new CliError(
			`${name}:${version} exists already (${before.status.toLowerCase()}, revision ${before.revision}); nothing was uploaded`,
			{
				code: "conflict",
				lines: hints([
					["Update it", again],
					["Or beside it", `runtime run ${quote(local?.typed ?? ".")} --version VERSION`],
				]),
			},
		);
	}
	if (verb === "update" && before === undefined) throw await missingService(api, name, version, "nothing was uploaded");
}
