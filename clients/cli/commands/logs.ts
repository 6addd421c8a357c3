import type { Api, Query } from "../api.ts";
import { buildPath, servicePath } from "../api.ts";
import type { Context, Input } from "../context.ts";
import { type CliError, EXIT, isCliError, usage } from "../errors.ts";
import { clock, printable } from "../format.ts";
import { missingService } from "../notices.ts";
import type { StreamItem } from "../shapes.ts";
import { type Interruption, resume } from "../stream.ts";

const PATIENCE = 24 * 3600 * 1000;

/** What a service prints, or with `--build` how it was built. Lines on stdout, remarks on stderr. */
export async function logs(context: Context, input: Input): Promise<number> {
	const { args, options } = input;
	const [name = "", version = "latest"] = args;
	const build = options.flag("build");
	const follow = options.flag("follow");
	const since = sinceOf(options.text("since"));
	const tail = options.integer("lines", "-n", 0, 100_000) ?? (since === undefined ? 100 : undefined);
	const revision = options.integer("revision", "--revision", 1, 1_000_000_000);
	if (build && since !== undefined) throw usage("--since does not go with --build");
	const api = await context.api();
	const query: Query = build ? { revision } : { tail, since };
	const path = build ? buildPath(name, version, "/log") : servicePath(name, version, "/logs");
	return await streamed(context, async (signal, show) => {
		try {
			const events = follow && !build && !context.json ? changes(context, api, name, version, signal) : undefined;
			events?.catch(() => undefined);
			for await (const item of resume(api, path, { query, signal, follow, patience: follow ? PATIENCE : 30_000 })) {
				if (build || revision === undefined || item.type !== "line" || item.revision === revision) show(item);
			}
		} catch (error) {
			throw await better(error, api, name, version, build);
		}
	});
}

/** A service's moves from state to state. */
export async function events(context: Context, { args, options }: Input): Promise<number> {
	const [name = "", version = "latest"] = args;
	const follow = options.flag("follow");
	const api = await context.api();
	return await streamed(context, async (signal, show) => {
		const path = servicePath(name, version, "/events");
		try {
			for await (const item of resume(api, path, { query: {}, signal, follow, patience: follow ? PATIENCE : 30_000 }))
				show(item);
		} catch (error) {
			throw await better(error, api, name, version, false);
		}
	});
}

async function better(error: unknown, api: Api, name: string, version: string, build: boolean): Promise<unknown> {
	if (!isCliError(error, "not_found")) return error;
	if (!build) return await missingService(api, name, version);
	const service = await api.service(name, version).catch((problem: CliError) => problem);
	return isCliError(service, "not_found") ? await missingService(api, name, version) : error;
}

/** `10m`, `2h`, `30s`, `1d`, or a time. */
function sinceOf(text: string | undefined): string | undefined {
	if (text === undefined) return undefined;
	const match = /^(\d{1,9})(s|m|h|d)$/.exec(text);
	const unit = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match?.[2] ?? "s"] ?? 1000;
	const time = match === null ? Date.parse(text) : Date.now() - Number(match[1]) * unit;
	if (Number.isNaN(time))
		throw usage(`--since: "${text}" is no time`, ["Try:  --since 10m", "Or:   --since 2026-01-31T10:00:00Z"]);
	return new Date(time).toISOString();
}

type Show = (item: StreamItem | Interruption) => void;

async function streamed(context: Context, work: (signal: AbortSignal, show: Show) => Promise<void>): Promise<number> {
	const stop = new AbortController();
	const leave = () => stop.abort();
	const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
	for (const signal of signals) process.once(signal, leave);
	// A reader that has seen enough (`| head`) ends us without a word.
	let unread = false;
	context.stdout.once("error", () => {
		unread = true;
		leave();
	});
	try {
		await work(stop.signal, (item) => shown(context, item));
		return stop.signal.aborted && !unread ? EXIT.cancelled : EXIT.ok;
	} finally {
		stop.abort();
		for (const signal of signals) process.off(signal, leave);
	}
}

function shown(context: Context, item: StreamItem | Interruption): void {
	if (item.type === "lost") {
		if (context.verbose) context.say("-- connection lost; trying again --");
	} else if (item.type === "back")
		context.say(`-- connection lost; back after ${Math.max(1, Math.round(item.after / 1000))}s, nothing missed --`);
	else if (context.json) context.print(JSON.stringify(item));
	else if (item.type === "gap") context.say(`-- ${item.to - item.from + 1} lines are no longer kept --`);
	else if (item.type === "line") {
		const text = context.stdout.isTTY ? printable(item.text) : item.text;
		context.print("stream" in item ? `${clock(item.time)} r${item.revision} ${text}` : text);
	} else if (item.type === "event") {
		const from = item.from === null ? "" : `${item.from.toLowerCase()} → `;
		const why = item.error === undefined ? "" : ` (${item.error.code}: ${printable(item.error.message)})`;
		context.print(`${clock(item.time)} r${item.revision} ${from}${item.to.toLowerCase()}${why}`);
	} else if (item.type === "end" && item.reason === "deleted") context.say("-- the service was removed --");
}

/** Beside a followed log: when one revision takes over from another. */
async function changes(context: Context, api: Api, name: string, version: string, signal: AbortSignal): Promise<void> {
	const path = servicePath(name, version, "/events");
	let live: number | undefined;
	let past = true;
	const service = await api.service(name, version, signal);
	const query = {};
	const known = new Date(service.updatedAt).getTime();
	for await (const item of resume(api, path, { query, signal, follow: true, patience: PATIENCE })) {
		if (item.type !== "event") continue;
		past &&= Date.parse(item.time) <= known;
		if (item.to !== "Running") continue;
		if (!past && live !== undefined && item.revision > live)
			context.say(`-- r${item.revision} replaces r${live}, ${clock(item.time)} --`);
		live = Math.max(live ?? 0, item.revision);
	}
}
