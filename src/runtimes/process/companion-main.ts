import { randomBytes } from "node:crypto";
import { messageOf } from "../../errors.ts";
import { platformOf } from "../../platform/platform.ts";
import { CompanionServer } from "./companion-server.ts";
import { CompanionLock } from "./lock.ts";
import { DEFAULT_SETTINGS, type ProcessSettings } from "./settings.ts";
import { Supervisor } from "./supervisor.ts";

/** Started by the adapter, detached: `companion-main <data folder> <settings as JSON>`. Ends by itself when nobody needs it. */
const CHECK_MS = 100;

function report(message: string, error?: unknown): void {
	const detail =
		error === undefined ? "" : `: ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}`;
	process.stderr.write(`${new Date().toISOString()} [${process.pid}] ${message}${detail}\n`);
}

const [folder, settingsText = "{}"] = process.argv.slice(2);
if (folder === undefined) throw new Error("companion-main <data folder> <settings>");
const given: Partial<ProcessSettings> = JSON.parse(settingsText);
const settings: ProcessSettings = { ...DEFAULT_SETTINGS, ...given };

// A program must not be ended by what is meant for the server's terminal.
for (const signal of ["SIGINT", "SIGHUP", "SIGPIPE"] as const) process.on(signal, () => undefined);
process.on("unhandledRejection", (error) => report("a failure that nobody handled", error));

const lock = new CompanionLock(folder, platformOf());
const holder = await lock.take(randomBytes(8).toString("hex"));
if (holder === null) {
	report("another companion has this folder");
	process.exit(0);
}
const held = holder;
const supervisor = await Supervisor.open({ folder, settings, report });
let idleSince = Date.now();
const server = new CompanionServer(supervisor, () => void setImmediate(() => leave("handed over")));
await server.listen(held.socket);
report("serving");

const check = setInterval(() => {
	if (server.used || supervisor.needed) idleSince = Date.now();
	else if (Date.now() - idleSince >= supervisor.idleMs) void leave("nobody needs it");
}, CHECK_MS);

process.on("SIGTERM", () => void leave("told to end"));

async function leave(reason: string): Promise<void> {
	clearInterval(check);
	report(`ending: ${reason}; what runs goes on`);
	server.close();
	await supervisor.close();
	await lock.release(held);
	process.exit(0);
}
