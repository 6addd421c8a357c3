import { randomBytes } from "node:crypto";
import { writeSync } from "node:fs";
import { inspect } from "node:util";
import { isDiskFull } from "../../ballast.ts";
import { messageOf } from "../../errors.ts";
import { platformOf } from "../../platform/platform.ts";
import { ProcessEngine } from "../process/engine.ts";
import { CompanionServer } from "./companion-server.ts";
import type { OpenEngine } from "./engine.ts";
import { CompanionLock } from "./lock.ts";
import { type CompanionSettings, DEFAULT_SETTINGS } from "./settings.ts";
import { Supervisor } from "./supervisor.ts";

/** Started by the adapter, detached: `companion-main <data folder> <settings as JSON>`. Ends by itself when nobody needs it. */
const CHECK_MS = 100;

function report(message: string, error?: unknown): void {
	const detail = error === undefined ? "" : `: ${error instanceof Error ? inspect(error) : messageOf(error)}`;
	try {
		writeSync(process.stderr.fd, `${new Date().toISOString()} [${process.pid}] ${message}${detail}\n`);
	} catch (failed) {
		// What cannot be said on a full disk is no reason to end.
		if (!isDiskFull(failed)) throw failed;
	}
}

const [folder, settingsText = "{}"] = process.argv.slice(2);
if (folder === undefined) throw new Error("companion-main <data folder> <settings>");
const given: Partial<CompanionSettings> = JSON.parse(settingsText);
const settings: CompanionSettings = { ...DEFAULT_SETTINGS, ...given };

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
const engine: OpenEngine = async (host) => {
	if (settings.engine.kind === "process") return ProcessEngine.open(host);
	// Only here, and only then: who runs processes does without the client of Docker.
	const { DockerEngine } = await import("../docker/engine.ts");
	return DockerEngine.open(host);
};
const supervisor = await Supervisor.open({ folder, settings, engine, ballast: lock.ballast, report });
let idleSince = performance.now();
const server = new CompanionServer(supervisor, () => void setImmediate(() => leave("handed over")));
await server.listen(held.socket);
report("serving");

const check = setInterval(() => {
	supervisor.restock().catch((error) => report("no space could be laid by", error));
	if (server.used || supervisor.needed) idleSince = performance.now();
	else if (performance.now() - idleSince >= supervisor.idleMs) void leave("nobody needs it");
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
