import type { Logger } from "pino";
import { isAppError, messageOf } from "./errors.ts";

/** How long another server may take to be there when this one starts: the two may have been started together. */
const PATIENCE_MS = 30_000;
const RETRY_MS = 500;

/** Opens what is at another server, again for a while where that is `unavailable`. */
export async function patiently<T>(what: string, open: () => Promise<T>, log: Logger): Promise<T> {
	const until = performance.now() + PATIENCE_MS;
	for (let said = ""; ; ) {
		try {
			return await open();
		} catch (error) {
			if (!isAppError(error, "unavailable") || performance.now() >= until) throw error;
			const why = messageOf(error);
			if (why !== said) log.warn({ why }, `${what} is not reached yet`);
			said = why;
		}
		await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
	}
}
