import { get } from "node:http";
import { isAppError, messageOf } from "../../errors.ts";
import type { Health } from "../runtime.ts";
import type { Clock } from "./clock.ts";
import type { Running } from "./engine.ts";

const POLL_MS = { first: 1, most: 50 };
const REQUEST_MS = 5_000;

export type Watched = Pick<Running, "host" | "listeningAt" | "elsewhere"> & {
	readonly port: number;
	/** By the clock's `now`. */
	readonly startedAt: number;
};

export type Readiness =
	| { readonly ready: true; readonly host: string }
	/** Too late. `answer` is what a health request got, null where nothing listened. */
	| {
			readonly ready: false;
			readonly elsewhere: Awaited<ReturnType<Running["elsewhere"]>>;
			readonly answer: string | null;
	  };

/**
 * Waits until an instance is healthy or its time is over; while its engine cannot be reached, its time is not over. Rejects with
 * the signal's reason when aborted.
 */
export async function untilReady(
	watched: Watched,
	health: Health,
	options: { readonly clock: Clock; readonly aliveMs: number; readonly signal: AbortSignal },
): Promise<Readiness> {
	const { clock, aliveMs, signal } = options;
	if (health.type === "none") {
		await clock.sleep(watched.startedAt + aliveMs - clock.now(), signal);
		signal.throwIfAborted();
		return { ready: true, host: watched.host };
	}
	const deadline = watched.startedAt + health.timeout * 1000;
	let answer: string | null = null;
	for (let delay = POLL_MS.first; ; delay = Math.min(POLL_MS.most, delay * 1.5)) {
		signal.throwIfAborted();
		try {
			const host = await watched.listeningAt();
			if (host !== null) {
				if (health.type === "port") return { ready: true, host };
				answer = await healthAnswer(host, watched.port, health.path, signal);
				if (answer === null) return { ready: true, host };
			}
			// At least one look, even where the time was over before it began (after an adoption).
			if (clock.now() >= deadline) {
				signal.throwIfAborted();
				return { ready: false, elsewhere: await watched.elsewhere(), answer };
			}
		} catch (error) {
			if (!isAppError(error, "unavailable")) throw error;
		}
		const left = deadline - clock.now();
		await clock.sleep(left > 0 ? Math.min(delay, left) : delay, signal);
	}
}

/** Null for a good answer to a GET, else what came instead. */
export function healthAnswer(host: string, port: number, path: string, signal: AbortSignal): Promise<string | null> {
	return new Promise((resolve) => {
		const request = get({ host, port, path, agent: false, signal, timeout: REQUEST_MS }, (response) => {
			const status = response.statusCode ?? 0;
			response.destroy();
			resolve(status >= 200 && status < 400 ? null : `GET ${path} answered ${status}`);
		});
		request.once("timeout", () => request.destroy(new Error(`no answer within ${REQUEST_MS / 1000} s`)));
		request.once("error", (error) => resolve(`GET ${path} failed: ${messageOf(error)}`));
	});
}
