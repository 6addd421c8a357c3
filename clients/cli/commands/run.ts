import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { Api } from "../api.ts";
import type { Context, Input } from "../context.ts";
import { CliError, EXIT, hints, isCliError, usage } from "../errors.ts";
import { count, quote, serviceWords, size } from "../format.ts";
import { Interrupts } from "../interrupts.ts";
import { contractNotice, missingService } from "../notices.ts";
import type { Screen } from "../screen/screen.ts";
import { type Settings, settingsOf } from "../settings.ts";
import type { Service, Session } from "../shapes.ts";
import { builderOf, KNOWN_BUILDERS, nothingToBuild } from "../source/buildable.ts";
import { biggest, listFiles, type SourceFiles } from "../source/files.ts";
import { display, type LocalSource, locate } from "../source/root.ts";
import { submit } from "../submit.ts";
import { upload } from "../upload.ts";
import { watch } from "../watch.ts";

export type Verb = "run" | "update" | "deploy";

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const VERSION = /^(?!\.{1,2}$)[A-Za-z0-9._/-]{1,128}$/;
const HUGE_BYTES = 100_000_000;
const HUGE_FILES = 20_000;

/** What a command line asks for, before any server was asked. `local` is undefined where the build is kept. */
type Plan = {
	readonly verb: Verb;
	readonly name: string;
	readonly version: string;
	readonly local: LocalSource | undefined;
	readonly settings: Settings;
	/** The command that would try again. */
	readonly again: string;
};

export const run = (context: Context, input: Input): Promise<number> => deployment("run", context, input);
export const update = (context: Context, input: Input): Promise<number> => deployment("update", context, input);
export const deploy = (context: Context, input: Input): Promise<number> => deployment("deploy", context, input);

async function deployment(verb: Verb, context: Context, input: Input): Promise<number> {
	const plan = planOf(verb, context, input);
	const { local } = plan;
	if (local !== undefined && builderOf(local, KNOWN_BUILDERS) === undefined && !input.options.flag("dryRun")) {
		await refuseFolder(context, local);
	}
	if (input.options.flag("dryRun")) return await dryRun(context, plan);
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

function planOf(verb: Verb, context: Context, input: Input): Plan {
	const { options } = input;
	const typed = input.args[0] ?? ".";
	const path = resolve(context.cwd, typed);
	const version = options.text("version") ?? "latest";
	if (!VERSION.test(version))
		throw usage(`--version: "${version}" is no version: letters, digits, . _ / and -, at most 128`);
	const settings = settingsOf(input, context.env);
	const byName = verb === "update" && NAME.test(typed) && !(existsSync(path) && statSync(path).isDirectory());
	const local = byName ? undefined : locate(typed, context.cwd, context.env, options.text("entrypoint"));
	const name = options.text("name") ?? (byName ? typed : local?.name);
	if (name === undefined)
		throw usage(`No name can be made of the folder's name`, [`Try:  runtime ${verb} ${quote(typed)} --name NAME`]);
	if (!NAME.test(name)) throw usage(`--name: "${name}" is no name: lower-case letters, digits and -, at most 63`);
	if (byName && options.text("entrypoint") !== undefined) throw usage("--entrypoint goes with a source folder");
	if (local !== undefined) {
		settings.entrypoint = local.entrypoint;
		settings.metadata = { source: typed, ...settings.metadata };
	}
	const flags: string[] = [];
	if (options.text("name") !== undefined) flags.push("--name", name);
	if (version !== "latest") flags.push("--version", version);
	for (const flag of ["entrypoint", "server", "namespace"]) {
		const value = options.text(flag);
		if (value !== undefined) flags.push(`--${flag}`, value);
	}
	const again = ["runtime", "update", typed, ...flags].map(quote).join(" ");
	return { verb, name, version, local, settings, again };
}

async function deployed(
	context: Context,
	input: Input,
	plan: Plan,
	screen: Screen,
	interrupts: Interrupts,
): Promise<number> {
	const { name, version, local } = plan;
	const aborted = new AbortController();
	interrupts.handle = () =>
		aborted.abort(new CliError("Cancelled; nothing was created", { exit: EXIT.cancelled, code: "cancelled" }));
	const { signal } = aborted;
	const api = await context.api();
	// All three are needed before anything is sent, and none waits for another.
	const listing = local === undefined ? undefined : listFiles(local.root, signal);
	const asked = Promise.all([api.session(signal), existing(api, name, version, signal)]);
	listing?.catch(() => undefined);
	const [session, before] = await asked.catch((error: unknown) => {
		throw withHints(error, plan, signal);
	});
	screen.target({
		service: label(name, version),
		server: api.connection.label,
		namespace: session.namespace,
		account: session.account,
	});
	contractNotice(session, screen);
	checkFolder(context, local, session);
	if (local?.renamed && input.options.text("name") === undefined)
		screen.say(`(the service is named ${name}, after the folder)`);
	await checkVerb(api, plan, before);
	const files = await listing?.catch((error: unknown) => {
		throw signal.aborted ? signal.reason : error;
	});
	const settings = { ...plan.settings };
	if (files !== undefined && local !== undefined) {
		checkListed(context, local, files);
		settings.source = await uploaded(api, files, session, screen, signal);
	} else {
		// Asked for by name alone: the same source, built and started again.
		if (Object.keys(settings).length === 0 && before !== undefined) settings.source = before.source;
		else screen.say("nothing to upload");
	}
	let cancelAtOnce = false;
	interrupts.handle = () => {
		cancelAtOnce = true;
	};
	const submitted = await submit(api, { ...plan, settings, before });
	const { service } = submitted;
	if (submitted.revision === undefined) {
		screen.close();
		screen.say(`${label(name, version)}: nothing to rebuild or restart (revision ${service.revision})`);
		return finished(context, service);
	}
	const watched = { id: service.id, name, version, revision: submitted.revision };
	if (!input.options.notNo("wait")) {
		screen.close();
		screen.say(`Revision ${watched.revision} was accepted.`);
		screen.say(
			`  Follow: runtime wait ${serviceWords(name, version)} · Cancel: runtime cancel ${serviceWords(name, version)}`,
		);
		if (context.json) context.printJson(service);
		return EXIT.ok;
	}
	const builder = local === undefined ? service.build?.builder : builderOf(local, session.server.builders);
	const builds = settings.source !== undefined;
	return await watch({
		context,
		api,
		screen,
		interrupts,
		watched,
		builder,
		builds,
		root: local?.root,
		again: plan.again,
		cancelAtOnce,
	});
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
function withHints(error: unknown, { verb, local }: Plan, signal: AbortSignal): unknown {
	if (signal.aborted) return signal.reason;
	if (!isCliError(error, "unreachable")) return error;
	const typed = local === undefined ? "NAME" : quote(local.typed);
	const lines = hints([
		["Start one", "runtime server"],
		["Use another", `runtime ${verb} ${typed} --server URL`],
	]);
	return new CliError(`${error.message}\nNothing was uploaded.`, {
		exit: error.exit,
		code: error.code,
		lines,
		cause: error,
	});
}

function checkFolder(context: Context, local: LocalSource | undefined, session: Session): void {
	const { builders } = session.server;
	if (local === undefined || builders.length === 0) return;
	if (builderOf(local, builders) === undefined) throw nothingToBuild(local, builders, context.cwd);
}

/** A folder that git ignores is not in the archive, and the server could only say that it is missing. */
function checkListed(context: Context, { entrypoint, folder, root }: LocalSource, { files }: SourceFiles): void {
	if (entrypoint === "." || files.some(({ path }) => path.startsWith(`${entrypoint}/`))) return;
	const where = display(folder, context.cwd);
	throw usage(`Nothing of ${where} would be uploaded: .gitignore or .runtimeignore of ${root} leaves it out`);
}

async function checkVerb(
	api: Api,
	{ verb, name, version, again, local }: Plan,
	before: Service | undefined,
): Promise<void> {
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

async function uploaded(
	api: Api,
	files: SourceFiles,
	session: Session,
	screen: Screen,
	signal: AbortSignal,
): Promise<string> {
	for (const { path, why } of files.skipped.slice(0, 5)) screen.warn(`${path} is left out: ${why}`);
	if (files.skipped.length > 5) screen.warn(`${files.skipped.length - 5} more are left out`);
	if (files.size > HUGE_BYTES || files.files.length > HUGE_FILES) {
		const most = biggest(files.files).map((entry) => `${entry.path} (${size(entry.size)})`);
		screen.warn(
			`This is a lot: ${count(files.files.length, "file")}, ${size(files.size)}; mostly ${most.join(", ")}. List what is not needed in .runtimeignore`,
		);
	}
	const words = `${count(files.files.length, "file")}, ${size(files.size)}`;
	const started = Date.now();
	screen.keys("ctrl-c cancel");
	screen.begin("Upload", words);
	const onProgress = (read: number) => {
		const percent = files.size === 0 ? 1 : read / files.size;
		screen.update(`${size(read)} of ${size(files.size)}`, percent, files.size);
	};
	try {
		const stored = await upload(api, files, { signal, maxBytes: session.server.maxSourceBytes, onProgress });
		screen.done(words, Date.now() - started);
		return stored.source;
	} catch (error) {
		screen.fail(words, Date.now() - started);
		throw error;
	}
}

async function dryRun(context: Context, { name, version, local }: Plan): Promise<number> {
	if (local === undefined) throw usage("--dry-run goes with a source folder");
	const files = await listFiles(local.root, new AbortController().signal);
	for (const { path, why } of files.skipped) context.say(`${path} is left out: ${why}`);
	context.say(
		`${label(name, version)}: entrypoint ${local.entrypoint} of ${local.root}; ${count(files.files.length, "file")}, ${size(files.size)}`,
	);
	if (context.json) {
		const list = files.files.map((file) => ({ path: file.path, size: file.size }));
		context.printJson({ name, version, root: local.root, entrypoint: local.entrypoint, size: files.size, files: list });
	} else for (const file of files.files) context.print(file.path);
	return EXIT.ok;
}
