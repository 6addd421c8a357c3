import { get } from "node:http";
import { connect } from "node:net";
import { messageOf } from "../../errors.ts";
import type { Listener, Platform } from "../../platform/platform.ts";
import type { Health } from "../runtime.ts";
import type { Clock } from "./clock.ts";

const POLL_MS = { first: 1, most: 50 };
const REQUEST_MS = 5_000;

export type Watched = {
	readonly port: number;
	/** By the clock's `now`. */
	readonly startedAt: number;
	/** The pids of all processes that belong to the instance. */
	pids(): Promise<number[]>;
};

export type Readiness =
	| { readonly ready: true; readonly host: string }
	/** Too late. `answer` is what a health request got, null where nothing listened. */
	| { readonly ready: false; readonly elsewhere: readonly Listener[]; readonly answer: string | null };

/** Waits until an instance is healthy or its time is over. Rejects with the signal's reason when aborted. */
export async function untilReady(
	watched: Watched,
	health: Health,
	options: {
		readonly platform: Platform;
		readonly clock: Clock;
		readonly aliveMs: number;
		readonly signal: AbortSignal;
	},
): Promise<Readiness> {
	const { platform, clock, aliveMs, signal } = options;
	if (health.type === "none") {
		await clock.sleep(watched.startedAt + aliveMs - clock.now(), signal);
		signal.throwIfAborted();
		return { ready: true, host: "127.0.0.1" };
	}
	const deadline = watched.startedAt + health.timeout * 1000;
	let answer: string | null = null;
	for (let delay = POLL_MS.first; ; delay = Math.min(POLL_MS.most, delay * 1.5)) {
		signal.throwIfAborted();
		const host = await listeningHost(watched, platform);
		if (host !== null) {
			if (health.type === "port") return { ready: true, host };
			answer = await healthAnswer(host, watched.port, health.path, signal);
			if (answer === null) return { ready: true, host };
		}
		// At least one look, even where the time was over before it began (after an adoption).
		if (clock.now() >= deadline) break;
		await clock.sleep(Math.min(delay, deadline - clock.now()), signal);
	}
	signal.throwIfAborted();
	const elsewhere = await platform.owned(await platform.listeners(), await watched.pids());
	return { ready: false, elsewhere, answer };
}

/** The address at which the instance itself listens on its port, null where it does not. */
export async function listeningHost(watched: Watched, platform: Platform): Promise<string | null> {
	const candidates = await platform.listeners(watched.port);
	if (candidates.length === 0) return null;
	const hosts = (await platform.owned(candidates, await watched.pids())).map(({ host }) => host);
	const [first] = hosts;
	if (first === undefined) return null;
	if (hosts.some((host) => host === "0.0.0.0" || host === "127.0.0.1")) return "127.0.0.1";
	if (hosts.includes("::")) return (await accepts("127.0.0.1", watched.port)) ? "127.0.0.1" : "::1";
	return first;
}

/** A socket on `::` takes IPv4 too, unless its program said otherwise. */
function accepts(host: string, port: number): Promise<boolean> {
	return new Promise((resolve) => {
		const socket = connect({ host, port, timeout: REQUEST_MS });
		const end = (accepted: boolean) => {
			socket.destroy();
			resolve(accepted);
		};
		socket.once("connect", () => end(true));
		socket.once("error", () => end(false));
		socket.once("timeout", () => end(false));
	});
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
