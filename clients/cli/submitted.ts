import type { Api } from "./api.ts";
import type { Context } from "./context.ts";
import { serviceWords } from "./format.ts";
import type { Service } from "./shapes.ts";

/** What `--no-wait` says. */
export function accepted(context: Context, api: Api, service: Service, revision: number): void {
	const words = `${serviceWords(service.name, service.version)}${api.connection.flags}`;
	context.say(`Revision ${revision} was accepted.`);
	context.say(`  Follow: runtime wait ${words} · Cancel: runtime cancel ${words}`);
	if (context.json) context.printJson(service);
}
