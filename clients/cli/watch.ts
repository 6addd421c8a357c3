import { type Api, servicePath } from "./api.ts";
import type { Context } from "./context.ts";
import { CliError, EXIT, hints, isCliError } from "./errors.ts";
import { type FollowOptions, follow, readVerdict, type Verdict, type Watched } from "./follow.ts";
import { serviceWords } from "./format.ts";
import type { Interrupt, Interrupts } from "./interrupts.ts";
import { Progress } from "./progress.ts";
import { failureLines } from "./report.ts";
import type { Screen } from "./screen/screen.ts";
import type { ServiceError, Status } from "./shapes.ts";
import { isTransient } from "./stream.ts";

export type WatchOptions = {
	readonly context: Context;
	readonly api: Api;
	readonly screen: Screen;
	readonly interrupts: Interrupts;
	readonly watched: Watched;
	readonly builder: string | undefined;
	/** As in ProgressOptions. */
	readonly builds: boolean | undefined;
	/** Where the source is here; for excerpts. */
	readonly root: string | undefined;
	/** The command that tries again. */
	readonly again: string | undefined;
	/** Milliseconds; exit 8 when they are over. */
	readonly timeout?: number | undefined;
	/** A Ctrl-C from before there was a revision to cancel. */
	readonly cancelAtOnce?: boolean;
};

const PATIENCE = 120_000;

class Left extends Error {
	readonly by: Interrupt | "quit" | "timeout";
	constructor(by: Left["by"]) {
		super(by);
		this.by = by;
	}
}

/** Shows a revision's way until it is decided, cancelled or left; → the exit code. */
export async function watch(options: WatchOptions): Promise<number> {
	const { context, api, screen, interrupts, watched } = options;
	const leave = new AbortController();
	const follows: FollowOptions = { signal: leave.signal, patience: PATIENCE };
	let status: Status = "Pending";
	let cancelling = false;
	const cancel = () => {
		cancelling = true;
		screen.keys(undefined);
		const mark = interrupts.readsKeys ? "^C " : "";
		screen.say(`${mark}Cancelling revision ${watched.revision}… (ctrl-c again: quit without waiting)`);
		requestCancel(api, watched, leave.signal).catch((error: unknown) => leave.abort(error));
	};
	interrupts.handle = (interrupt) => {
		if (interrupt !== "interrupt") leave.abort(new Left(interrupt));
		else if (cancelling) leave.abort(new Left("quit"));
		else if (status === "Pending" || status === "Building") cancel();
		else leave.abort(new Left("interrupt"));
	};
	const progress = new Progress(screen, {
		builder: options.builder,
		builds: options.builds,
		replay: options.builds === undefined,
		revision: () => api.revision(watched.name, watched.version, watched.revision, leave.signal),
		onStatus: (now) => {
			status = now;
			if (!cancelling) screen.keys(keyHint(now, interrupts.readsKeys));
		},
	});
	screen.keys(keyHint(status, interrupts.readsKeys));
	const timer =
		options.timeout === undefined ? undefined : setTimeout(() => leave.abort(new Left("timeout")), options.timeout);
	try {
		if (options.cancelAtOnce) cancel();
		const verdict = await follow(api, watched, progress, follows);
		return await concluded(options, progress, verdict, cancelling);
	} catch (error) {
		if (!(error instanceof Left)) throw error;
		screen.close();
		return await left(context, api, watched, error.by, status);
	} finally {
		clearTimeout(timer);
		interrupts.handle = () => undefined;
		leave.abort(new Left("quit"));
	}
}

function keyHint(status: Status, keys: boolean): string {
	if (status === "Pending" || status === "Building") return keys ? "ctrl-c cancel · d detach" : "ctrl-c cancel";
	return keys ? "ctrl-c or d detach" : "ctrl-c detach";
}

/** Asks until the server has heard it. A 409 says that there is nothing to cancel any more: the verdict tells. */
async function requestCancel(api: Api, watched: Watched, signal: AbortSignal): Promise<void> {
	const path = servicePath(watched.name, watched.version, "/cancel");
	const until = Date.now() + PATIENCE;
	for (;;) {
		try {
			await api.call("POST", path, { body: { revision: watched.revision }, signal });
			return;
		} catch (error) {
			if (signal.aborted || isCliError(error, "conflict", "not_found")) return;
			if (!isTransient(error) || Date.now() > until) throw error;
		}
		await new Promise((resolve) => setTimeout(resolve, 250));
	}
}

async function concluded(
	options: WatchOptions,
	progress: Progress,
	verdict: Verdict,
	cancelling: boolean,
): Promise<number> {
	const { context, screen, watched } = options;
	const { service, revision, status } = verdict;
	const error = errorOf(verdict);
	const title = `${watched.name}:${watched.version}`;
	if (status === "Running") await progress.ended(revision, "ready");
	else if (status === "Stopped") await progress.ended(revision, "ended");
	else if (status === "Error" && error?.code !== "cancelled") await progress.ended(revision, "failed", error);
	screen.close();
	if (status === "gone") {
		throw new CliError(`${title} was removed before revision ${watched.revision} was running`, { code: "not_found" });
	}
	if (context.json && service !== undefined) context.printJson(service);
	const terminal = context.stderr.isTTY;
	if (status === "Running") {
		if (terminal) screen.say(`${title} is running (revision ${watched.revision})`);
		if (!context.json && service?.url) context.print(service.url);
		return EXIT.ok;
	}
	if (status === "Stopped") {
		const replaced = service !== undefined && service.revision > watched.revision;
		screen.say(
			replaced
				? `Revision ${watched.revision} was replaced by revision ${service.revision}.`
				: `${title} has ended (revision ${watched.revision})`,
		);
		if (!replaced)
			for (const line of hints([["Output", `runtime logs ${wordsOf(options.api, watched)}`]])) screen.say(`  ${line}`);
		return EXIT.ok;
	}
	if (error?.code === "cancelled") {
		screen.say(cancelledWords(options.api, verdict, watched, cancelling));
		return EXIT.cancelled;
	}
	const known: ServiceError = error ?? {
		code: "internal",
		message: "no reason was given",
		phase: "run",
		retryable: false,
		diagnostics: [],
	};
	// The log stands above already where it was printed line by line.
	const shown = !terminal || context.env.TERM === "dumb" ? !context.quiet : false;
	const log = shown ? [] : progress.log;
	const { root, again } = options;
	const report = {
		error: known,
		revision: watched.revision,
		service,
		root,
		cwd: context.cwd,
		again,
		log,
		paint: context.paint,
	};
	for (const line of failureLines({ ...report, words: wordsOf(options.api, watched) })) screen.say(line);
	return EXIT.failed;
}

export function errorOf({ service, revision }: Verdict): ServiceError | null {
	if (revision?.error) return revision.error;
	return service?.target?.error ?? service?.error ?? null;
}

/** The service as an argument of another command that means the same server. */
function wordsOf(api: Api, { name, version }: Watched): string {
	return `${serviceWords(name, version)}${api.connection.flags}`;
}

function cancelledWords(api: Api, { service }: Verdict, watched: Watched, byUs: boolean): string {
	const first = byUs ? "Cancelled." : `Revision ${watched.revision} was cancelled.`;
	if (service !== undefined && service.revision !== watched.revision && service.status === "Running") {
		return `${first} Revision ${service.revision} keeps running.`;
	}
	const words = wordsOf(api, watched);
	return `${first} ${watched.name} has nothing running.\n  Remove it:  runtime kill ${words}`;
}

async function left(context: Context, api: Api, watched: Watched, by: Left["by"], status: Status): Promise<number> {
	if (by === "quit") {
		context.say("Quit without waiting; the server goes on with the cancellation.");
		return EXIT.cancelled;
	}
	const words = wordsOf(api, watched);
	const doing = status === "Starting" ? "starting" : status === "Building" ? "building" : "waiting to be built";
	if (by === "timeout") context.say(`Revision ${watched.revision} is still ${doing}.`);
	else context.say(`Detached; revision ${watched.revision} is still ${doing}.`);
	context.say(`  Follow: runtime wait ${words} · Cancel: runtime cancel ${words}`);
	if (context.json) {
		const limit = AbortSignal.timeout(2000);
		const now = await readVerdict(api, watched, limit).catch(() => undefined);
		if (now?.service !== undefined) context.printJson(now.service);
	}
	// Whoever sent the signal did not wait for the outcome: success would be a lie.
	return by === "timeout" || by === "hangup" ? EXIT.pending : EXIT.ok;
}
