import type { Api } from "./api.ts";
import { CliError, EXIT, hints, isCliError } from "./errors.ts";
import { serviceWords } from "./format.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Screen } from "./screen/screen.ts";
import { newestRevision, type Service, type ServiceError } from "./shapes.ts";
import { type Change, type Submitted, submit } from "./submit.ts";

export type AnswerOptions = {
	readonly api: Api;
	readonly screen: Screen;
	readonly interrupts: Interrupts;
	readonly name: string;
	readonly version: string;
	/** The service as it was; undefined where there was none. */
	readonly before: Service | undefined;
	/** What is shown while the answer takes its time. */
	readonly phase: "Build" | "Start";
	readonly builder: string | undefined;
};

/**
 * `failed`: what a create came to where nothing of it is kept. `decided`: the revision failed already. `cancelAtOnce`: there
 * was a Ctrl-C before the answer.
 */
export type Answer = { readonly cancelAtOnce: boolean } & (
	| (Submitted & { readonly decided: boolean; readonly failed?: undefined })
	| { readonly failed: ServiceError; readonly problem: CliError; readonly ms: number }
);

const SHOWN_AFTER = 300;
/** A server that answers what it accepted has answered by then. */
const SOON = 2000;

/**
 * Sends a change. One server accepts it at once and another (profile dev) answers when it is settled: that one is shown to
 * be at work, and Ctrl-C ends the request, which cancels the revision there.
 */
export async function answerTo(change: Change, options: AnswerOptions): Promise<Answer> {
	const { api, screen, interrupts, name, version, before, phase } = options;
	const started = Date.now();
	const leaving = new AbortController();
	let cancelAtOnce = false;
	let leave: NodeJS.Timeout | undefined;
	interrupts.handle = (interrupt) => {
		if (interrupt === "detach") return;
		cancelAtOnce = true;
		screen.keys(undefined);
		leave ??= setTimeout(() => leaving.abort(left(options)), Math.max(0, started + SOON - Date.now()));
	};
	const show = setTimeout(() => {
		screen.keys(cancelAtOnce ? undefined : "ctrl-c cancel");
		screen.begin(phase, options.builder ?? "", started);
	}, SHOWN_AFTER);
	const signal = change.signal === undefined ? leaving.signal : AbortSignal.any([change.signal, leaving.signal]);
	try {
		return { ...(await submit(api, { ...change, signal }, before)), cancelAtOnce, decided: false };
	} catch (error) {
		const failed = isCliError(error) ? error.problem?.error : undefined;
		if (!isCliError(error) || failed === undefined) throw error;
		const service = await api.service(name, version, signal).catch(() => undefined);
		const known = before === undefined ? 0 : newestRevision(before);
		// A newer one than ours is not ours to show.
		if (service !== undefined && newestRevision(service) > known && failed.code !== "superseded")
			return { service, revision: newestRevision(service), cancelAtOnce, decided: true };
		return { failed, problem: error, ms: Date.now() - started, cancelAtOnce };
	} finally {
		clearTimeout(show);
		clearTimeout(leave);
		screen.keys(undefined);
	}
}

function left({ api, name, version }: AnswerOptions): CliError {
	return new CliError("Cancelled before the server had answered", {
		exit: EXIT.cancelled,
		code: "cancelled",
		lines: hints([["What is so", `runtime status ${serviceWords(name, version)}${api.connection.flags}`]]),
	});
}
